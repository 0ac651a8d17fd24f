// Drives relay by what openapi-typescript makes of /openapi.json: the compiler checks each body and answer against it.
import createClient from "openapi-fetch";
import { Webhook } from "standardwebhooks";
import type { components, paths } from "./schema.js";

const [url, key, hook] = process.argv.slice(2) as [string, string, string];
const relay = createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${key}` } });

const endpoint = await relay.POST("/v1/endpoints", { body: { url: hook } });
const submitted = await relay.POST("/v1/jobs", {
  body: { provider: "evolink", input: { images: ["https://example.com/a.png"], prompt: "slow push in", duration_s: 5 } },
});
const job: components["schemas"]["NewJob"] | undefined = submitted.data;
console.log(JSON.stringify({ id: job?.id, provider_job_id: job?.provider_job_id }));
const ended = await relay.GET("/v1/jobs/{id}", { params: { path: { id: job?.id ?? "" }, header: { prefer: "wait=20" } } });
const refused = await relay.GET("/v1/jobs/{id}", { params: { path: { id: "job_none" } } });
console.log(JSON.stringify({ status: ended.data?.status, code: refused.error?.code }));
let input = "";
for await (const chunk of process.stdin) input += chunk;
const { headers, body } = JSON.parse(input) as { headers: Record<string, string>; body: string };
const event = new Webhook(endpoint.data?.secret ?? "").verify(body, headers) as components["schemas"]["Notification"];
console.log(JSON.stringify({ type: event.type }));
