// Aborts what the TypeScript client does, which is compiled in the folder that the first argument names.
//
// Prints as JSON for each case the name of the error that it ended with, or that it goes on, and how many requests it made.
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { Relay } = await import(pathToFileURL(join(process.argv[2], "index.js")));
const GOES_ON_MS = 3_000;
Math.random = () => 119; // the client's own pauses are at least half a minute then, as those that relay asks for
const problem = JSON.stringify({ type: "", title: "", status: 503, detail: "later", code: "unavailable" });

/** What the first requests of a case are answered; the ones behind them get an open stream, or no answer at all. */
const asked = (response, status, headers = {}) => response.writeHead(status, headers).end(problem);
const answers = {
  later: (response) => asked(response, 503, { "retry-after": "30" }),
  slower: (response) => asked(response, 429, { "retry-after": "30" }),
  unavailable: (response) => asked(response, 503),
  lost: (response) => response.destroy(),
  open: (response) => response.writeHead(200, { "content-type": "text/event-stream" }).write(": open\n\n"),
  over: (response) => response.writeHead(200, { "content-type": "text/event-stream" }).end(": over\n\n"),
  running: (response) => response.writeHead(200, { "content-type": "application/json" }).end('{"id":"job_1","status":"running"}'),
  silent: () => {},
};
const stream = async (relay, options) => { for await (const _ of relay.stream(options)); };
const wait = (relay, options) => relay.wait("job_1", options);
const submit = (relay, options) => relay.submit({ provider: "evolink" }, options);
const cases = {
  "stream, aborted before": [stream, [], true],
  "stream, in a pause that relay asked for": [stream, ["slower"]],
  "stream, in a pause after a lost connection": [stream, ["lost"]],
  "wait, aborted before": [wait, [], true],
  "wait, in a pause": [wait, ["unavailable"]],
  "wait, while the job is requested": [wait, ["open", "silent"]],
  "wait, in a pause after its stream has ended": [wait, ["over", "running"]],
  "a request, in a pause that relay asked for": [submit, ["later"]],
  "a request, in a pause after a lost connection": [submit, ["lost"]],
};

async function ended([act, given, before]) {
  const controller = new AbortController();
  let requests = 0;
  const server = createServer((request, response) => {
    answers[given[requests++] ?? (request.url.includes("stream") ? "open" : "silent")](response);
    if (requests === given.length) setTimeout(() => controller.abort(), 100);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  if (before) controller.abort();
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(() => resolve("goes on"), GOES_ON_MS); });
  const relay = new Relay(`http://127.0.0.1:${server.address().port}`, "key");
  const found = await Promise.race([late, act(relay, { signal: controller.signal }).then(() => "ended", (error) => error.name)]);
  clearTimeout(timer);
  server.closeAllConnections();
  server.close();
  return [found, requests];
}

const found = await Promise.all(Object.values(cases).map(ended));
console.log(JSON.stringify(Object.fromEntries(Object.keys(cases).map((name, number) => [name, found[number]]))));
process.exit(0);
