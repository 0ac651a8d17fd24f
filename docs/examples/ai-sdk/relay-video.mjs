// A video model of the AI SDK (its VideoModelV4) that generates with relay: npm install ai callback-relay.

/** `provider` is one of GET /v1/providers; `model` one of its models; `secret` signs the notification to your webhook. */
export function relayVideo(relay, provider, { model, secret } = {}) {
  const modelId = model ?? `${provider}'s default`;
  const response = () => ({ timestamp: new Date(), modelId, headers: undefined });
  return {
    specificationVersion: "v4",
    provider: `relay.${provider}`,
    modelId,
    maxVideosPerCall: 1,

    async handleWebhookOption({ webhook }) {
      const { url, received } = await webhook();
      return { webhookUrl: url, received };
    },

    async doStart({ prompt, image, aspectRatio, resolution, duration, seed, generateAudio, headers, webhookUrl, abortSignal }) {
      if (image && image.type !== "url") throw new TypeError("give the image as a URL; POST /v1/files makes one of a file");
      const given = {
        model, prompt, seed, images: image && [image.url], duration_s: duration, aspect_ratio: aspectRatio, audio: generateAudio,
        resolution: resolution && `${Math.min(...resolution.split("x").map(Number))}p`,
      };
      const input = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
      const ends = ["job.succeeded", "job.failed", "job.canceled", "job.expired"];
      const notify = webhookUrl && [{ url: webhookUrl, event_types: ends, ...(secret && { secret }) }];
      // The SDK tries a failed start again with the same key: it stays one job.
      const options = { signal: abortSignal, idempotencyKey: headers["idempotency-key"] };
      const job = await relay.submit({ provider, input, ...(notify && { notify }) }, options);
      return { operation: job.id, warnings: [], response: response() };
    },

    async doStatus({ operation }) {
      const { status, outputs, error } = await relay.job(operation);
      if (status === "succeeded") {
        const videos = outputs.filter(({ kind }) => kind === "video");
        return { status: "completed", videos: videos.map(({ url }) => ({ type: "url", url, mediaType: "video/mp4" })), warnings: [], response: response() };
      }
      if (["failed", "canceled", "expired"].includes(status)) {
        return { status: "error", error: error?.message ?? `the job is ${status}`, response: response() };
      }
      return { status: "pending", response: response() };
    },
  };
}
