// Goes the whole way with the TypeScript client, which is compiled in the folder that the first argument names.
//
// Standard input: {"url", "key", "hook", "input"}. Prints one JSON line a step; reads the received notification from
// standard input between them.
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { Relay, RelayError, SignatureInvalid, verify } = await import(pathToFileURL(join(process.argv[2], "index.js")));
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const read = async () => JSON.parse((await lines.next()).value);
const print = (step) => console.log(JSON.stringify(step));

const { url, key, hook, input } = await read();
const relay = new Relay(url, key);
const endpoint = await relay.createEndpoint({ url: hook });
const job = await relay.submit({ provider: "evolink", input, metadata: { user: "42" } }, { idempotencyKey: "order-42" });
const again = await relay.submit({ provider: "evolink", input, metadata: { user: "42" } }, { idempotencyKey: "order-42" });
print({ job: job.id, again: again.id, provider_job_id: job.provider_job_id });
const ended = await relay.wait(job.id);
const listed = [];
for await (const one of relay.jobs({ status: "succeeded" })) listed.push(one.id);
const streamed = [];
for await (const event of relay.stream({ after: (await read()).after })) {
  streamed.push(event.type);
  if (streamed.length === 1) break;
}
const refusal = await relay.submit({ provider: "evolink", input: { images: [1] } }).catch((error) => error);
print({ status: ended.status, output: ended.outputs[0].url, listed, streamed, refused: refusal instanceof RelayError && refusal.code, wrong: refusal.errors.map((one) => one.path) });

const { headers, body, now } = await read();
const event = await verify(headers, body, endpoint.secret, now);
const bad = [];
for (const [sent, text, at] of [[headers, body + " ", now], [headers, body, now + 301], [{ ...headers, "webhook-id": "evt_other" }, body, now], [{}, body, now]]) {
  bad.push(await verify(sent, text, endpoint.secret, at).then(() => "accepted", (error) => (error instanceof SignatureInvalid ? "refused" : String(error))));
}
print({ type: event.type, bad });
process.exit(0);
