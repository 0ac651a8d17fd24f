// One video by the AI SDK and relay, without polling: node generate.mjs "a prompt" https://example.com/picture.png
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";
import { experimental_generateVideo as generateVideo } from "ai";
import { Relay, verify } from "callback-relay";
import { relayVideo } from "./relay-video.mjs";

const { RELAY_URL, RELAY_API_KEY, PUBLIC_URL, PORT = "8080" } = process.env;
const [prompt, picture] = process.argv.slice(2);
const relay = new Relay(RELAY_URL, RELAY_API_KEY);
const secret = `whsec_${randomBytes(32).toString("base64")}`;

/** Returns the address for one notification, and the promise of it. Your application has a route instead. */
async function webhook() {
  let resolve;
  const received = new Promise((done) => (resolve = done));
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray());
    try {
      resolve({ headers: request.headers, body: await verify(request.headers, body, secret) });
      response.writeHead(204, { connection: "close" }).end(() => server.close());
    } catch {
      response.writeHead(400).end();
    }
  });
  await new Promise((listening) => server.listen(Number(PORT), listening));
  return { url: `${PUBLIC_URL}/hook`, received };
}

const { video } = await generateVideo({
  model: relayVideo(relay, process.env.PROVIDER ?? "evolink", { secret }),
  prompt: { text: prompt, image: picture },
  duration: 5,
  webhook,
});
console.log(`${video.mediaType}, ${video.uint8Array.length} bytes`);
