// relay's API for JavaScript: submit a job, wait for its end by the event stream, verify a notification.
// It needs nothing but fetch and Web Crypto, so it also runs in Deno, Bun and at the edge. types.ts is made from the API.
import type { Endpoint, Event, Job, JobFields, NewEndpoint, NewJob, Notification, Problem, Timeline } from "./types.js";
export type * from "./types.js";

const TRIES_MAX = 4;
const AGAIN = new Set([429, 502, 503, 504]);
const TOO_MANY = 429;
const FINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
const HELD_S = 25; // the longest time for which relay holds a request
const SILENCE_MS = 45_000; // relay sends a comment every 15 s: a stream without one for so long is lost
const AGE_MAX_S = 300;
const SIGNATURES_MAX = 16;

/** relay refused a request: act on `code`; `errors` names every wrong field; `retryAfter` is the header of that name. */
export class RelayError extends Error {
  constructor(readonly status: number, readonly problem: Problem, readonly retryAfter: string | null = null) {
    super(`${status} ${problem.code}: ${problem.detail}`);
    this.name = "RelayError";
  }
  get code(): string { return this.problem.code; }
  get errors(): NonNullable<Problem["errors"]> { return this.problem.errors ?? []; }
}

/** The headers do not prove that the holder of the secret sent this body within five minutes. */
export class SignatureInvalid extends Error {
  override name = "SignatureInvalid";
}

export interface Options { signal?: AbortSignal; idempotencyKey?: string }

export class Relay {
  readonly #url: string;
  readonly #key: string;

  constructor(url: string, apiKey: string) {
    this.#url = url.replace(/\/+$/, "");
    this.#key = apiKey;
  }

  /** Submits a job; give a key of your own to submit an order once. */
  submit(job: JobFields, options: Options = {}): Promise<NewJob> { return this.request("POST", "/v1/jobs", job, options); }
  job(id: string, options: Options = {}): Promise<Job> { return this.request("GET", `/v1/jobs/${id}`, undefined, options); }
  timeline(id: string): Promise<Timeline> { return this.request("GET", `/v1/jobs/${id}/timeline`); }
  jobs(query: Record<string, string> = {}): AsyncGenerator<Job> { return this.pages("/v1/jobs", query); }
  events(query: Record<string, string> = {}): AsyncGenerator<Event> { return this.pages("/v1/events", query); }
  endpoints(): AsyncGenerator<Endpoint> { return this.pages("/v1/endpoints"); }
  createEndpoint(fields: { url: string } & Record<string, unknown>): Promise<NewEndpoint> {
    return this.request("POST", "/v1/endpoints", fields);
  }

  /** Returns the job when it is final. Nothing is polled: relay says it on a stream, or holds a request. */
  async wait(id: string, options: Options = {}): Promise<Job> {
    const { signal } = options;
    for (const at: Position = {}; ; ) {
      try {
        for await (const message of this.#messages(at, signal)) {
          // The stream is open before the first look at the job: what ends it from here on is on the stream.
          if (message === null) {
            const job = await this.job(id, options);
            if (FINAL.has(job.status)) return job;
            continue;
          }
          const { data } = JSON.parse(message.data) as Notification<{ final: boolean; job: Job | null }>;
          if (data.final && data.job?.id === id) return await this.job(id, options);
        }
        await pause(1, signal); // the stream has ended, as where relay restarts
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof RelayError && error.status === 429) {
          const job = await this.request<Job>("GET", `/v1/jobs/${id}`, undefined, options, { prefer: `wait=${HELD_S}` });
          if (FINAL.has(job.status)) return job;
        } else if (error instanceof RelayError && !AGAIN.has(error.status)) throw error;
        else await pause(1, signal);
      }
    }
  }

  /**
   * Yields events as they happen, without end, from `after` an event's id on; a lost connection is made again. Throws
   * RelayError at the fourth 429 in a row, whatever connections were lost meanwhile, and at any other refusal.
   */
  async *stream({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<Notification> {
    const at: Position = { after };
    for (let lost = 0, refusals = 0; ; ) {
      let tooMany = false;
      let retryAfter: string | null = null;
      try {
        for await (const message of this.#messages(at, signal)) {
          if (message === null) {
            refusals = 0;
            continue;
          }
          lost = 0;
          yield JSON.parse(message.data) as Notification;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof RelayError) {
          tooMany = error.status === TOO_MANY;
          if (!AGAIN.has(error.status) || (tooMany && refusals + 1 >= TRIES_MAX)) throw error;
          retryAfter = error.retryAfter;
        }
      }
      await pause(tooMany ? ++refusals : ++lost, signal, retryAfter);
    }
  }

  async *pages<Item>(path: string, query: Record<string, string> = {}): AsyncGenerator<Item> {
    for (let cursor: string | null = ""; cursor !== null; ) {
      const given = new URLSearchParams(cursor ? { ...query, cursor } : query);
      const page: { data: Item[]; next_cursor: string | null } = await this.request("GET", `${path}?${given}`);
      yield* page.data;
      cursor = page.next_cursor;
    }
  }

  /** Any other route. What may help is tried again, under one Idempotency-Key, so that nothing is done twice. */
  async request<Answer>(method: string, path: string, body?: unknown, options: Options = {}, more: Record<string, string> = {}): Promise<Answer> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.#key}`, ...more };
    if (method !== "GET") headers["idempotency-key"] = options.idempotencyKey ?? crypto.randomUUID();
    for (let tried = 1; ; tried++) {
      let response: Response;
      try {
        response = await fetch(this.#url + path, {
          method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }), ...(options.signal ? { signal: options.signal } : {}),
        });
      } catch (error) {
        options.signal?.throwIfAborted();
        if (tried === TRIES_MAX) throw error;
        await pause(tried, options.signal);
        continue;
      }
      if (response.ok) return (response.status === 204 ? undefined : await response.json()) as Answer;
      if (!AGAIN.has(response.status) || tried === TRIES_MAX) throw await refused(response);
      await pause(tried, options.signal, response.headers.get("retry-after"));
    }
  }

  /** Yields null once the stream is open, then its messages. */
  async *#messages(at: Position, signal?: AbortSignal): AsyncGenerator<Message | null> {
    signal?.throwIfAborted(); // a signal that is aborted already dispatches no event
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    const abort = () => silence.abort();
    signal?.addEventListener("abort", abort);
    try {
      const response = await fetch(`${this.#url}/v1/events/stream`, {
        headers: { authorization: `Bearer ${this.#key}`, ...(at.after ? { "last-event-id": inHeader(at.after) } : {}) },
        signal: silence.signal,
      });
      if (!response.ok || !response.body) throw await refused(response);
      yield null;
      const messages = new Messages(at);
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        yield* messages.feed(chunk);
      }
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      silence.abort();
    }
  }
}

/** Where a stream goes on: after the event with this id; from now on where it is missing or empty. */
interface Position { after?: string | undefined }
interface Message { id: string; data: string }

// What a header can hold: the next connection sends an event's id in one.
const ID = /^(?:[!-~\u0080-\u{10ffff}](?:[\t -~\u0080-\u{10ffff}]*[!-~\u0080-\u{10ffff}])?)?$/u;

/**
 * Reads the messages of a stream, and moves its position. An id with U+0000 is ignored, as the standard says, and so is
 * one that no header holds; an empty one resets the position.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */
class Messages {
  readonly #at: Position;
  readonly #decoder = new TextDecoder();
  #id: string;
  #data: string[] = [];
  #rest = "";
  #afterCr = false;

  constructor(at: Position) {
    this.#at = at;
    this.#id = at.after ?? "";
  }

  *feed(chunk: Uint8Array): Generator<Message> {
    let text = this.#decoder.decode(chunk, { stream: true });
    if (!text) return;
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line) {
        this.#read(line);
        continue;
      }
      const data = this.#data;
      [this.#at.after, this.#data] = [this.#id, []];
      if (data.length) yield { id: this.#id, data: data.join("\n") };
    }
  }

  #read(line: string): void {
    const [, name, value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (name === "id" && ID.test(value)) this.#id = value;
    else if (name === "data") this.#data.push(value);
  }
}

/** Returns a text as fetch takes it in a header: each byte of its UTF-8 as one character. */
function inHeader(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/**
 * Returns the notification, or throws SignatureInvalid. `body` is the received text or bytes, not parsed and serialized
 * again; `secret` is the endpoint's (`whsec_…`).
 */
export async function verify<Data = unknown>(
  headers: Headers | Record<string, string | string[] | undefined>, body: string | Uint8Array, secret: string, nowS = Date.now() / 1000,
): Promise<Notification<Data>> {
  const get = (name: string) => String((headers instanceof Headers ? headers.get(name) : headers[name]) ?? "");
  const [id, timestamp] = [get("webhook-id"), get("webhook-timestamp")];
  if (!secret.startsWith("whsec_")) throw new TypeError("the secret must begin with whsec_");
  if (!/^[!-~]{1,256}$/.test(id) || id.includes(".")) throw new SignatureInvalid("webhook-id is missing or malformed");
  if (!/^[0-9]{1,12}$/.test(timestamp)) throw new SignatureInvalid("webhook-timestamp is missing or malformed");
  if (Math.abs(nowS - Number(timestamp)) > AGE_MAX_S) throw new SignatureInvalid("the signature is more than five minutes from now");
  const received = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const head = new TextEncoder().encode(`${id}.${timestamp}.`);
  const content = new Uint8Array(head.length + received.length);
  content.set(head);
  content.set(received, head.length);
  const key = await crypto.subtle.importKey("raw", bytes(secret.slice(6)), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  for (const listed of get("webhook-signature").split(" ").slice(0, SIGNATURES_MAX)) {
    if (!/^v1,[A-Za-z0-9+/]{43}=$/.test(listed)) continue;
    // Web Crypto compares in constant time.
    if (await crypto.subtle.verify("HMAC", key, bytes(listed.slice(3)), content)) {
      return JSON.parse(new TextDecoder().decode(received)) as Notification<Data>;
    }
  }
  throw new SignatureInvalid("no signature in webhook-signature is valid");
}

function bytes(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** Waits before the next try: as long as relay asks for, else twice as long each time; throws at the signal's abort. */
async function pause(tried: number, signal?: AbortSignal, retryAfter: string | null = null): Promise<void> {
  const s = retryAfter && /^\d+$/.test(retryAfter) ? Math.min(Number(retryAfter), 60) : Math.min(0.25 * 2 ** tried, 8) * (0.5 + Math.random() / 2);
  signal?.throwIfAborted();
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, s * 1000);
    signal?.addEventListener("abort", end);
  });
  signal?.throwIfAborted();
}

async function refused(response: Response): Promise<RelayError> {
  const text = await response.text();
  let problem: Problem;
  try {
    problem = JSON.parse(text) as Problem;
  } catch {
    problem = { type: "", title: "", status: response.status, detail: text.slice(0, 200), code: "unknown" };
  }
  return new RelayError(response.status, problem, response.headers.get("retry-after"));
}
