// The bodies of relay's API. Made by clients/generate.py from /openapi.json: do not edit.

/** A condition that an operator should know of. */
export interface Alert {
  id: string;
  object: "alert";
  kind: AlertKind;
  state: "ended" | "open" | (string & {});
  since: string;
  ended_at: string | null;
  subject: AlertSubject;
  /** What is wrong, in a sentence; it is kept up to date while the alert is open. */
  summary: string;
  detail: Record<string, unknown>;
  action: AlertAction;
  project: string;
}

/** Where an operator can act on an alert. */
export interface AlertAction {
  label: string;
  /** A page of the dashboard. */
  path: string;
  /** The same page, whole; null without RELAY_PUBLIC_URL. */
  url: string | null;
}

/** The `data` of an event about an alert. */
export interface AlertEventData {
  /** The alert after the event. */
  alert: Alert;
  job: null;
  sequence: number;
  final: boolean;
  supersedes: null;
}

/** The conditions that relay finds; a closed list. */
export type AlertKind = "backlog.old" | "callback.quarantined" | "delivery.exhausted" | "endpoint.failing" | "payment.lost" | "payment.unknown" | "provider.key_refused" | "provider.silent" | "spend.cap_near" | "spend.cap_reached" | (string & {});

/** What an alert is about. */
export interface AlertSubject {
  type: "cap" | "endpoint" | "provider" | "relay" | (string & {});
  /** An endpoint's id, `notify`, a provider's name, a setting, or `relay`. */
  id: string;
  name: string;
}

/** An admin key's approval of what a job costs. */
export interface Approval {
  /** The price; null if relay does not know it. */
  amount: string | null;
  unit: "USD";
  asked_at: string;
  /** Null while the job waits. */
  decided_at: string | null;
  /** Null while the job waits. */
  approved: boolean | null;
  /** The id of the key that decided. */
  by: string | null;
  reason: string | null;
}

/** Where and whether the results of a project are copied. */
export interface Archive {
  object: "archive";
  project: string;
  /** Whether this relay has an archive (RELAY_ARCHIVE_URL). */
  configured: boolean;
  /** Where it is; shown to an admin key. */
  bucket: string | null;
  /** Of a job that names none. */
  mode: ArchiveMode;
  /** The project's own; null if that of the setting counts. */
  own_mode: ArchiveMode | null;
  copies: CopyCounts;
}

/** Whether a job's results are copied, and whether the event of its end waits for that. */
export type ArchiveMode = "after" | "before_notify" | "off" | (string & {});

/** One HTTP request for one delivery. */
export interface Attempt {
  id: string;
  /** From 1; the request's header `relay-attempt`. */
  number: number;
  outcome: Outcome;
  status_code: number | null;
  /** Why it failed. */
  error: string | null;
  /** What was unusual about an answer that counts as `ok`. */
  note: string | null;
  started_at: string;
  duration_ms: number;
  /** The first characters of the answer's body. */
  response_excerpt: string | null;
  /** Null if its event or its endpoint was deleted. */
  request: Request | null;
  /** The first 2,048 bytes of them; null if no answer came. */
  response_headers: Record<string, string> | null;
  /** Null if an older relay sent it. */
  timings: Timings | null;
}

/** One verb that changed something, or was refused: who, when, what, on which object, from where. */
export interface AuditEntry {
  id: string;
  object: "audit_entry";
  at: string;
  project: string;
  /** The API key's id; null for a command on the database. */
  key: string | null;
  key_name: string | null;
  /** By which program, as it says itself. */
  via: "api" | "cli" | "dashboard" | "database" | (string & {});
  /** The client's, by the rule of RELAY_CLIENT_IP. */
  address: string | null;
  request_id: string | null;
  /** Such as `jobs.cancel`. */
  verb: string;
  /** The id of the object. */
  target: string | null;
  /** The fields that were sent; values only of those without secrets. */
  detail: string | null;
  /** Of the answer; null if relay stopped before it: it may or may not be done. */
  status: number | null;
  /** Of the problem, if it was refused. */
  code: string | null;
}

/** A part of the jobs that were searched for results without a copy. */
export interface Backfill {
  object: "archive_backfill";
  /** Jobs that have succeeded. */
  examined: number;
  /** Results that are to be copied now, or with `dry_run` would be. */
  ordered: number;
  /** Where the next part begins; null if this was the last. */
  next_cursor: string | null;
}

/** The deliveries that are due now. */
export interface Backlog {
  due: number;
  /** Whether there may be more: relay counts the first 20,000 of all projects. */
  more: boolean;
  oldest_due_at: string | null;
}

/** The most that was seen; relay looks once a minute. */
export interface BacklogMost {
  /** Deliveries that were due. */
  due_most: number;
  /** How late the oldest one was. */
  oldest_due_ms_most: number;
}

/** How many jobs match, or what was done to them. */
export interface BulkResult {
  action: "cancel" | "check" | "copy" | "fail" | "redeliver" | "resubmit" | (string & {});
  dry_run: boolean;
  /** Jobs made later are not among them. */
  as_of: string;
  /** How many jobs match, in a dry run. */
  matched: number | null;
  /** Whether there may be more jobs than were counted. */
  matched_more: boolean;
  done: Done[];
  refused: Refused[];
  /** Send it as `cursor` with the same body to go on; null when all are done. */
  next_cursor: string | null;
}

/** One HTTP request from a provider, with its body. */
export interface Callback {
  id: string;
  object: "callback";
  job: string | null;
  provider: string;
  /** What relay did with it. */
  verdict: Disposition;
  reason: string | null;
  received_at: string;
  /** Of its body, in bytes. */
  size: number;
  /** Names and values in their order, secrets redacted. */
  headers: [string, string][];
  /** As received, in base64. */
  body: string;
  /** As text; null if it is none. */
  body_text: string | null;
  reprocessings: Reprocessing[];
}

/** One HTTP request from a provider, as a list shows it. */
export interface CallbackHead {
  id: string;
  object: "callback";
  job: string | null;
  provider: string;
  /** What relay did with it. */
  verdict: Disposition;
  reason: string | null;
  received_at: string;
  /** Of its body, in bytes. */
  size: number;
  /** Names and values in their order, secrets redacted. */
  headers: [string, string][];
}

/** The API key of a request. */
export interface CallerKey {
  /** `RELAY_API_KEY` for the key of that setting. */
  id: string;
  name: string;
  scopes: ("admin" | "read" | "submit" | (string & {}))[];
  /** null for the key of RELAY_API_KEY. */
  created_at: string | null;
}

/** A cap, and what is authorized under it in the job, the hour or the day (UTC) that it is for. */
export interface Cap {
  setting: string;
  period: "day" | "hour" | "job" | (string & {});
  max: string;
  /** Null for the cap of a job. */
  used: string | null;
  /** Null for the cap of a job. */
  left: string | null;
  /** Null for the cap of a job. */
  resets_at: string | null;
}

/** The copies that are pending now, and those that failed. */
export interface CopiesNow {
  pending: number;
  failed: number;
  /** Whether there may be more: relay counts the first 20,000 of each. */
  more: boolean;
  /** Since when the oldest one is pending. */
  oldest_pending_at: string | null;
}

/** The copy of a result: where it is, or why it is not there yet. */
export interface Copy {
  object: "copy";
  /** The place of its result in `outputs`, counted from 0. */
  number: number;
  kind: string;
  state: CopyState;
  /** Answers with the result, for a client with an API key. */
  url: string | null;
  /** Within the bucket; null until it is there. */
  key: string | null;
  content_type: string | null;
  bytes: number | null;
  sha256: string | null;
  /** Those that ended; without those that failed because of the bucket. */
  tries: number;
  /** Why the last try failed. */
  error: CopyErrorCode | null;
  error_detail: string | null;
  /** Whether a try is under way. */
  copying: boolean;
  /** null while a try is under way, and once it has ended. */
  next_try_at: string | null;
  /** When the result expires at its provider. */
  expires_at: string | null;
  created_at: string;
  finished_at: string | null;
}

/** A number of copies, and their bytes together. */
export interface CopyCount {
  number: number;
  bytes: number;
}

/** The copies of a project by their state. */
export interface CopyCounts {
  pending: CopyCount;
  archived: CopyCount;
  failed: CopyCount;
  deleted: CopyCount;
}

/** Why a result was not copied, or not yet. */
export type CopyErrorCode = "address_refused" | "gone" | "key_refused" | "store_refused" | "store_unavailable" | "too_large" | "too_slow" | "unreachable" | "withdrawn" | "wrong_type" | (string & {});

/** The copies of a time. */
export interface CopyNumbers {
  archived: number;
  failed: number;
  deleted: number;
  /** Of those that were archived. */
  bytes: number;
  /** Those that failed, by `outputs[].archive.error`. */
  errors: Record<string, number>;
  /** null if none was archived. */
  duration: Duration | null;
}

/** The state of a copy; `deleted` is one that was archived, and is past its retention. */
export type CopyState = "archived" | "deleted" | "failed" | "pending" | (string & {});

/** Copies of results that ended, and copies that were deleted past their retention. */
export interface CopySums {
  archived: number;
  failed: number;
  deleted: number;
  /** Of those that were archived. */
  bytes: number;
  /** Those that failed, by `outputs[].archive.error`. */
  errors: Record<string, number>;
}

/** A decimal as text, its unit (`USDC`, `USD`, `credits`, `tokens`), and if it is an estimate, reserved or final. */
export interface Cost {
  amount: string;
  unit: string;
  kind: string;
}

/** What the jobs that ended cost, in one unit. */
export interface CostSum {
  /** `USDC`, `USD`, `credits` or `tokens`. */
  unit: string;
  /** `estimate`, `reserved` or `final`, as it was when the job ended. */
  kind: string;
  /** A decimal with six places. */
  amount: string;
}

/** One event for one endpoint, as a list shows it. */
export interface Delivery {
  id: string;
  object: "delivery";
  event: string;
  endpoint: string;
  job: string | null;
  status: DeliveryState;
  attempts_made: number;
  /** Null unless it is pending. */
  next_attempt_at: string | null;
  /** Whether an operator requested it. */
  redelivery: boolean;
  created_at: string;
  finished_at: string | null;
}

/** How many deliveries of an event have each status. */
export interface DeliveryCounts {
  pending: number;
  delivered: number;
  exhausted: number;
  canceled: number;
}

/** Deliveries that ended by an attempt. */
export interface DeliveryNumbers {
  /** Accepted at the first attempt. */
  first_attempt: number;
  /** Accepted at a later one. */
  after_retries: number;
  /** Not accepted by the last one. */
  exhausted: number;
}

/** A delivery is pending until its endpoint accepts it, its schedule is exhausted, or it is canceled. */
export type DeliveryState = "canceled" | "delivered" | "exhausted" | "pending" | (string & {});

/** One event for one endpoint, with its attempts, oldest first. */
export interface DeliveryWithAttempts {
  id: string;
  object: "delivery";
  event: string;
  endpoint: string;
  job: string | null;
  status: DeliveryState;
  attempts_made: number;
  /** Null unless it is pending. */
  next_attempt_at: string | null;
  /** Whether an operator requested it. */
  redelivery: boolean;
  created_at: string;
  finished_at: string | null;
  attempts: Attempt[];
}

/** What relay did with a callback or another report; `verdict` in the API. */
export type Disposition = "mismatched" | "orphaned" | "quarantined" | "recorded" | "repeated" | "stale" | "unreadable" | (string & {});

/** A job that a bulk action was done to. */
export interface Done {
  job: string;
}

/** How long the tries took that made a copy. */
export interface Duration {
  count: number;
  /** 9.1 % off at most, as the others. */
  p50_ms: number;
  p95_ms: number;
  p99_ms: number;
}

/** Seconds, both ends included. */
export interface DurationRange {
  min: number;
  max: number;
}

/** Jobs that ended, by what ended them. */
export interface EndedBy {
  callback: number;
  status_check: number;
  /** The answer to the submission, an operator, or the deadline. */
  other: number;
}

/** A subscriber's URL and its settings. */
export interface Endpoint {
  id: string;
  object: "endpoint";
  url: string;
  /** Exact types, `job.*` or `*`. */
  event_types: string[];
  description: string | null;
  metadata: Record<string, unknown>;
  /** Sent with every notification; their values are redacted. */
  headers: Record<string, string>;
  /** Only jobs of these; null for all. */
  providers: string[] | null;
  /** Attempts a second at most; null for no limit. */
  rate_limit_per_s: number | null;
  /** Concurrent attempts. */
  in_flight_max: number;
  /** For the whole attempt. */
  timeout_s: number;
  /** A delay before each attempt; null for RELAY_RETRY_SCHEDULE_S. */
  schedule_s: number[] | null;
  /** `slack`: each body is a message for Slack. */
  format: "json" | "slack" | (string & {});
  /** `held`: relay waits, because attempts failed. */
  status: "active" | "disabled" | "held" | (string & {});
  disabled_at: string | null;
  disabled_reason: string | null;
  failing_since: string | null;
  /** When relay tries a held endpoint again. */
  held_until: string | null;
  last_success_at: string | null;
  last_failure_at: string | null;
  created_at: string;
  updated_at: string;
  project: string;
  /** False if no key of RELAY_SECRET_KEYS decrypts its secret. */
  secret_readable: boolean;
}

/** The `data` of an event about an endpoint, of which it shows the id, or what has happened to it. */
export interface EndpointEventData {
  endpoint: string | Record<string, unknown>;
  job: null;
  sequence: number;
  final: boolean;
  supersedes: null;
}

/** Something that happened to an endpoint. */
export interface EndpointNote {
  id: string;
  at: string;
  kind: "changed" | "created" | "disabled" | "enabled" | "held" | "probe_failed" | "probed" | "reopened" | "secret_rotated" | (string & {});
  /** Why; of `changed` the names of the fields. */
  reason: string | null;
  /** When a held endpoint is tried again; until when a former secret signs. */
  until: string | null;
  /** The id of the API key of the client that did it; null for relay. */
  by: string | null;
}

/** Jobs that ended, by status. */
export interface Ends {
  succeeded: number;
  failed: number;
  canceled: number;
  expired: number;
}

/** One line of a job's timeline. */
export interface Entry {
  at: string;
  kind: "attempt" | "callback" | "check" | "delivery" | "event" | "state" | "submission" | (string & {});
  summary: string;
  /** What relay did upon it. */
  decision: string | null;
  reason: string | null;
  /** The id of what the line is about. */
  ref: string;
}

/** The closed list of classes that every provider's errors are mapped to. */
export type ErrorClass = "auth" | "content_rejected" | "insufficient_funds" | "invalid_input" | "provider_error" | "rate_limited" | "timeout" | "unknown" | (string & {});

/** A fact about a job, or about an endpoint. */
export interface Event {
  id: string;
  object: "event";
  type: EventType;
  /** The job's id; null for an event about an endpoint. */
  job: string | null;
  sequence: number;
  final: boolean;
  timestamp: string;
  /** The notification's `data`. */
  data: unknown;
  deliveries: DeliveryCounts;
}

/** The event types that an endpoint can ask for. */
export type EventType = "endpoint.disabled" | "endpoint.enabled" | "job.archive_failed" | "job.archived" | "job.canceled" | "job.corrected" | "job.expired" | "job.failed" | "job.output_expiring" | "job.running" | "job.submitted" | "job.succeeded" | "ops.backlog.old" | "ops.callback.quarantined" | "ops.delivery.exhausted" | "ops.endpoint.failing" | "ops.payment.lost" | "ops.payment.unknown" | "ops.provider.key_refused" | "ops.provider.silent" | "ops.spend.cap_near" | "ops.spend.cap_reached" | "relay.test" | (string & {});

/** One wrong field of a request. */
export interface FieldError {
  /** Where it is, such as `input.images[0]`. */
  path: string;
  message: string;
}

/** A file that was uploaded to a provider. */
export interface File {
  url: string;
  /** Null if the provider publishes no lifetime. */
  expires_at: string | null;
}

/** Who brought the report that ended a job. */
export type FinishedBy = "callback" | "deadline" | "operator" | "status_check" | "submit_answer" | (string & {});

/** The answer of `/healthz` and `/readyz`. */
export interface Health {
  status: "ok" | "ready" | (string & {});
}

/** Something that a search found. */
export interface Hit {
  kind: "callback" | "delivery" | "endpoint" | "event" | "job" | "redelivery" | (string & {});
  id: string;
  /** The job that it is about, itself if it is one. */
  job_id: string | null;
  /** What it is, in a few words. */
  title: string;
  /** What has the text. */
  matched: "description" | "id" | "metadata" | "provider_job_id" | "url" | (string & {});
  created_at: string;
}

/** What a search found, by kind, newest first. */
export interface Hits {
  data: Hit[];
}

/** The unified request; each provider translates it, None means the provider's default. */
export interface Input {
  images?: string[];
  last_frame?: string | null;
  references?: (string | Reference)[];
  prompt?: string | null;
  negative_prompt?: string | null;
  duration_s?: number | null;
  resolution?: string | null;
  aspect_ratio?: string | null;
  audio?: boolean | null;
  model?: string | null;
  seed?: number | null;
  mode?: string | null;
  provider_options?: Record<string, unknown>;
}

/** The numbers of one interval. */
export interface Interval {
  jobs_created: number;
  jobs_finished: Ends;
  finished_by: EndedBy;
  deliveries: DeliveryNumbers;
  /** Attempts by outcome. */
  attempts: Record<string, number>;
  /** null without such a delivery. */
  latency: Latency | null;
  archive: CopyNumbers;
  backlog: BacklogMost;
  /** Its beginning. */
  at: string;
  /** Whether it is not over yet. */
  unfinished: boolean;
}

/** One request for a video. */
export interface Job {
  id: string;
  object: "job";
  provider: string;
  /** The provider's own id; null until it answered. */
  provider_job_id: string | null;
  status: JobState;
  /** Why it has this status, if the status does not say it. */
  reason: Reason | null;
  /** Percent, if the provider reports it. */
  progress: number | null;
  model: string | null;
  /** The unified request, if the job came with one. */
  input: Record<string, unknown> | null;
  /** The provider's own body, without the callback URL. */
  request: Record<string, unknown>;
  outputs: Output[];
  /** Why it failed. */
  error: JobError | null;
  cost: Cost | null;
  /** Whether its results are copied to the operator's bucket. */
  archive: ArchiveMode;
  /** As the client sent it. */
  metadata: Record<string, unknown>;
  /** Which report ended it. */
  finished_by: FinishedBy | null;
  /** How far that report is proven. */
  verification: Verification;
  /** Whether its result came after it had ended otherwise. */
  late: boolean;
  created_at: string;
  submitted_at: string | null;
  updated_at: string;
  finished_at: string | null;
  /** When it expires, if it has no final status by then. */
  deadline_at: string;
  links: JobLinks;
  /** Only if its price was to be approved. */
  approval?: Approval;
  /** Only if relay did not know its model, and checked a part of its request. */
  checked?: "partly";
}

/** An endpoint that was made for one job. */
export interface JobEndpoint {
  endpoint_id: string;
  url: string;
  event_types: string[];
  /** Only if relay made it, and only here. */
  secret?: string;
}

/** Why a job failed: relay's class and code, and the provider's own code and message. */
export interface JobError {
  class: ErrorClass;
  code: string;
  message: string;
  retryable: boolean;
  provider_code: string | null;
  provider_message: string | null;
}

/** The `data` of an event about a job. */
export interface JobEventData {
  /** The job after the event. */
  job: Job;
  /** The event's number among those of its job, from 1. */
  sequence: number;
  /** Whether it announces an end. */
  final: boolean;
  /** The event whose announced end this one replaces. */
  supersedes: string | null;
}

/** The body of `POST /v1/jobs`, with exactly one of `input` and `request`. */
export interface JobFields {
  provider: "evolink" | "relaydance" | "kinovi" | "kling" | "minimax" | "stablestudio" | "x402org" | "replicate" | "openrouter" | "ark" | "fal" | "wavespeed" | "kie" | "cheapest" | (string & {});
  input?: Input | null;
  request?: Record<string, unknown> | null;
  notify?: Notify[] | null;
  metadata?: Record<string, unknown> | null;
  max_cost?: string | null;
  archive?: ArchiveMode | null;
  deadline_s?: number | null;
}

/** Where to read more about a job. */
export interface JobLinks {
  self: string;
  events: string;
  timeline: string;
}

/** The status of a job; its rank only rises: pending, submitted, running, then one of the four final states. */
export type JobState = "canceled" | "expired" | "failed" | "pending" | "running" | "submitted" | "succeeded" | (string & {});

/** An API key without its text. */
export interface Key {
  id: string;
  object: "api_key";
  project: string;
  name: string;
  scopes: ("admin" | "read" | "submit" | (string & {}))[];
  created_at: string;
  /** Exact to a minute; null if it was never used. */
  last_used_at: string | null;
  revoked_at: string | null;
}

/** The error of the job that failed last. */
export interface LastError {
  at: string;
  message: string;
}

/** From the receipt of a callback until the endpoint accepted the event that it brought. */
export interface Latency {
  count: number;
  /** 9.1 % off at most, as the others. */
  p50_ms: number;
  p95_ms: number;
  p99_ms: number;
}

/** A job as a list shows it. */
export interface ListedJob {
  id: string;
  object: "job";
  provider: string;
  /** The provider's own id; null until it answered. */
  provider_job_id: string | null;
  status: JobState;
  /** Why it has this status, if the status does not say it. */
  reason: Reason | null;
  /** Percent, if the provider reports it. */
  progress: number | null;
  model: string | null;
  /** The unified request, if the job came with one. */
  input: Record<string, unknown> | null;
  /** The provider's own body, without the callback URL. */
  request: Record<string, unknown>;
  outputs: Output[];
  /** Why it failed. */
  error: JobError | null;
  cost: Cost | null;
  /** Whether its results are copied to the operator's bucket. */
  archive: ArchiveMode;
  /** As the client sent it. */
  metadata: Record<string, unknown>;
  /** Which report ended it. */
  finished_by: FinishedBy | null;
  /** How far that report is proven. */
  verification: Verification;
  /** Whether its result came after it had ended otherwise. */
  late: boolean;
  created_at: string;
  submitted_at: string | null;
  updated_at: string;
  finished_at: string | null;
  /** When it expires, if it has no final status by then. */
  deadline_at: string;
  links: JobLinks;
  /** Only if its price was to be approved. */
  approval?: Approval;
  /** Only if relay did not know its model, and checked a part of its request. */
  checked?: "partly";
  /** Null if it announced no end yet. */
  reached: Reached | null;
}

/** A model's own limits, where they differ from its provider's; null means as the provider's. */
export interface Model {
  duration_s: DurationRange | null;
  resolutions: string[] | null;
  aspect_ratios: string[] | null;
  images_min: number | null;
  images_max: number | null;
  /** References of each kind. */
  references_max: Record<string, number> | null;
}

/** An endpoint as `POST /v1/endpoints` answers it. */
export interface NewEndpoint {
  id: string;
  object: "endpoint";
  url: string;
  /** Exact types, `job.*` or `*`. */
  event_types: string[];
  description: string | null;
  metadata: Record<string, unknown>;
  /** Sent with every notification; their values are redacted. */
  headers: Record<string, string>;
  /** Only jobs of these; null for all. */
  providers: string[] | null;
  /** Attempts a second at most; null for no limit. */
  rate_limit_per_s: number | null;
  /** Concurrent attempts. */
  in_flight_max: number;
  /** For the whole attempt. */
  timeout_s: number;
  /** A delay before each attempt; null for RELAY_RETRY_SCHEDULE_S. */
  schedule_s: number[] | null;
  /** `slack`: each body is a message for Slack. */
  format: "json" | "slack" | (string & {});
  /** `held`: relay waits, because attempts failed. */
  status: "active" | "disabled" | "held" | (string & {});
  disabled_at: string | null;
  disabled_reason: string | null;
  failing_since: string | null;
  /** When relay tries a held endpoint again. */
  held_until: string | null;
  last_success_at: string | null;
  last_failure_at: string | null;
  created_at: string;
  updated_at: string;
  project: string;
  /** False if no key of RELAY_SECRET_KEYS decrypts its secret. */
  secret_readable: boolean;
  secret: string;
}

/** A job as `POST /v1/jobs` answers it. */
export interface NewJob {
  id: string;
  object: "job";
  provider: string;
  /** The provider's own id; null until it answered. */
  provider_job_id: string | null;
  status: JobState;
  /** Why it has this status, if the status does not say it. */
  reason: Reason | null;
  /** Percent, if the provider reports it. */
  progress: number | null;
  model: string | null;
  /** The unified request, if the job came with one. */
  input: Record<string, unknown> | null;
  /** The provider's own body, without the callback URL. */
  request: Record<string, unknown>;
  outputs: Output[];
  /** Why it failed. */
  error: JobError | null;
  cost: Cost | null;
  /** Whether its results are copied to the operator's bucket. */
  archive: ArchiveMode;
  /** As the client sent it. */
  metadata: Record<string, unknown>;
  /** Which report ended it. */
  finished_by: FinishedBy | null;
  /** How far that report is proven. */
  verification: Verification;
  /** Whether its result came after it had ended otherwise. */
  late: boolean;
  created_at: string;
  submitted_at: string | null;
  updated_at: string;
  finished_at: string | null;
  /** When it expires, if it has no final status by then. */
  deadline_at: string;
  links: JobLinks;
  /** Only if its price was to be approved. */
  approval?: Approval;
  /** Only if relay did not know its model, and checked a part of its request. */
  checked?: "partly";
  notify: JobEndpoint[];
}

/** An API key as `POST /v1/keys` answers it. */
export interface NewKey {
  id: string;
  object: "api_key";
  project: string;
  name: string;
  scopes: ("admin" | "read" | "submit" | (string & {}))[];
  created_at: string;
  /** Exact to a minute; null if it was never used. */
  last_used_at: string | null;
  revoked_at: string | null;
  /** Its text, which is shown only here. */
  key: string;
}

/** What relay waits for or does next, and by when. */
export interface Next {
  what: string;
  at: string;
}

/** The body of a notification, the same bytes on every attempt. */
export interface Notification<Data = unknown> {
  /** The event's id, as in the header `webhook-id`. */
  id: string;
  type: EventType;
  /** When it happened. */
  timestamp: string;
  /** The project whose event it is. */
  project: string;
  data: Data;
}

/** An endpoint for one job. */
export interface Notify {
  url: string;
  event_types?: string[] | null;
  secret?: string | null;
}

/** The numbers of a time. */
export interface Numbers {
  jobs_created: number;
  jobs_finished: Ends;
  finished_by: EndedBy;
  deliveries: DeliveryNumbers;
  /** Attempts by outcome. */
  attempts: Record<string, number>;
  /** null without such a delivery. */
  latency: Latency | null;
  archive: CopyNumbers;
  backlog: BacklogMost;
}

/** How an attempt ended; a closed list. */
export type Outcome = "address_refused" | "bad_status" | "dns_failed" | "endpoint_gone" | "ok" | "response_too_large" | "timeout" | "tls_failed" | "unreachable" | (string & {});

/** One result; `expires_at` is RFC 3339, from the provider's documented lifetime. `archive` is the copy of it. */
export interface Output {
  kind: OutputKind;
  url: string;
  width: number | null;
  height: number | null;
  duration_s: number | null;
  expires_at: string | null;
  needs_key?: boolean;
  archive: OutputArchive | null;
}

/** The copy of one result; `url` answers with a fresh link to it, for a client with an API key. */
export interface OutputArchive {
  state: CopyState;
  url: string | null;
  key: string | null;
  sha256: string | null;
  bytes: number | null;
  archived_at: string | null;
  error: CopyErrorCode | null;
}

/** What a provider's result URL holds. */
export type OutputKind = "last_frame" | "thumbnail" | "video" | (string & {});

/** A payment, without the authorization itself, which is money. */
export interface Payment {
  id: string;
  object: "payment";
  project: string;
  /** Null for a file that was uploaded. */
  job: string | null;
  provider: string;
  amount: string;
  unit: "USDC";
  state: PaymentState;
  created_at: string;
  /** When its state became known. */
  settled_at: string | null;
  /** When the authorization ends. */
  valid_before: string;
  /** On the chain, as the provider says. */
  transaction: string | null;
  chain_id: number;
  /** The token's contract. */
  asset: string;
  payer: string;
  pay_to: string;
  nonce: string;
}

/** What is known about a payment; only a void one was surely not made, and does not count for the caps. */
export type PaymentState = "lost" | "paid" | "reserved" | "unknown" | "void" | (string & {});

/** An error (RFC 9457). */
export interface Problem {
  /** `urn:relay:problem:` and the code. */
  type: string;
  title: string;
  status: number;
  /** What is wrong, and what to do. */
  detail: string;
  /** What a program acts on. */
  code: string;
  /** Every wrong field, if fields are wrong. */
  errors?: FieldError[];
}

/** The owner of jobs, endpoints and API keys. */
export interface Project {
  id: string;
  object: "project";
  name: string;
  created_at: string;
  /** API keys that work, without the one of RELAY_API_KEY. */
  keys_live: number;
}

/** What a provider supports, and whether it is configured. */
export interface Provider {
  name: string;
  /** The name as the provider writes it. */
  title: string;
  configured: boolean;
  /** Since when it refuses relay's key. */
  key_refused_at: string | null;
  /** Why it refuses the key, else why a job of the project failed. */
  last_error: string | null;
  last_error_at: string | null;
  /** When a callback about a job of the project came. */
  last_callback_at: string | null;
  /** What proves its callbacks besides the token: a secret, its published keys, or nothing. */
  verifies: "published_keys" | "secret" | "token" | (string & {});
  /** How it signs callbacks: by published keys, by a secret if one is set, or not. */
  verifier: "fal-jwks" | "none" | "openrouter" | "shared-header" | "standard-webhooks" | "wavespeed-v3" | (string & {});
  /** What ends its jobs. */
  finished_by: "callback" | "status_check" | (string & {});
  last_day: ProviderDay;
  /** Whether relay's wallet pays for each job. */
  paid: boolean;
  /** Whether a job can be canceled there. */
  cancel: boolean;
  models: string[];
  /** Of the models whose limits differ from the provider's. */
  limits_by_model: Record<string, Model>;
  /** Whether `request` may name another model. */
  other_models: boolean;
  duration_s: DurationRange;
  resolutions: string[];
  aspect_ratios: string[];
  images_max: number;
  /** Characters. */
  prompt_max: number | null;
  prompt_required: boolean;
  /** The fields of `input` that it has a place for; `references.video`: references of that kind. */
  honours: string[];
  /** How long its result URLs work. */
  result_lifetime_s: number | null;
  /** Other limits and rules that it publishes. */
  further_limits: Record<string, string>;
}

/** How a provider's jobs of a project ended in the last 24 hours. */
export interface ProviderDay {
  jobs_ended: number;
  /** Share, 0 to 1, that a callback ended; null without a job. */
  by_callback: number | null;
  /** Status checks for each job that ended. */
  checks_per_job: number | null;
}

/** One provider's numbers. */
export interface ProviderNumbers {
  provider: string;
  jobs_created: number;
  jobs_finished: Ends;
  finished_by: EndedBy;
  /** Status checks. */
  checks: number;
  /** For each job that ended; null without one. */
  checks_per_job: number | null;
  /** Callbacks by verdict. */
  callbacks: Record<string, number>;
  /** Whenever that was. */
  last_callback_at: string | null;
  /** Whenever that was. */
  last_error: LastError | null;
  archive: CopySums;
  cost: CostSum[];
}

/** What one provider's jobs cost in one unit, by how sure that is. */
export interface ProviderSpend {
  provider: string;
  unit: string;
  estimate: string;
  reserved: string;
  final: string;
  jobs: number;
}

/** What a job would cost at one provider. */
export interface Quote {
  provider: string;
  accepted: boolean;
  amount: string | null;
  unit: "USD" | "USDC" | "credits" | (string & {}) | null;
  /** The price in USD, if it is known. */
  usd: string | null;
  /** Published prices, or the provider's answer to an unpaid request. */
  basis: "quote" | "table" | (string & {}) | null;
  /** Why there is no amount. */
  reason: string | null;
  errors: FieldError[];
}

/** How far the news of a job's end have come. */
export interface Reached {
  /** How many endpoints want the event of its end. */
  endpoints: number;
  /** How many of them have accepted it. */
  delivered: number;
}

/** Why a job has its status, if the status alone does not say it. */
export type Reason = "awaiting_approval" | "deadline" | "detached" | "lost" | "no_output" | "paid_result_lost" | "submit_unknown" | (string & {});

/** A batch of redeliveries and its progress. */
export interface Redelivery {
  id: string;
  object: "redelivery";
  endpoint: string;
  which: "all" | "failed" | "missing" | "undelivered" | (string & {});
  since: string;
  until: string;
  /** How many events it has in all. */
  count: number;
  /** For how many of them a delivery was made. */
  made: number;
  created_at: string;
  /** `waiting`: its endpoint is held or disabled. */
  status: "canceled" | "finished" | "running" | "waiting" | (string & {});
  /** When it had made every delivery, or was canceled. */
  finished_at: string | null;
  canceled_at: string | null;
  dry_run: boolean;
}

/** How many events a batch would have, as a dry run counts them. */
export interface RedeliveryCount {
  object: "redelivery";
  endpoint: string;
  count: number;
  dry_run: boolean;
}

/** What a video is to resemble or to contain, and no frame of it. */
export interface Reference {
  url: string;
  kind?: "audio" | "image" | "video" | (string & {});
}

/** A job that a bulk action was refused for, with the problem's code and detail. */
export interface Refused {
  job: string;
  code: string;
  detail: string;
}

/** The result of applying a quarantined or orphaned callback. */
export interface Reprocessing {
  id: string;
  at: string;
  /** The id of the API key that requested it. */
  by: string;
  /** What relay did with it. */
  verdict: Disposition;
  reason: string | null;
}

/** A request as it was sent, without secrets; made again from the event, and from the endpoint as it is now. */
export interface Request {
  method: "POST";
  url: string;
  headers: Record<string, string>;
  body_bytes: number;
}

/** A new secret; both sign until the former one ends. */
export interface RotatedSecret {
  secret: string;
  former_secret_until: string;
}

/** An endpoint's secret. */
export interface Secret {
  secret: string;
}

/** What was spent, and what was authorized today (UTC). */
export interface Spend {
  /** Null for all projects together. */
  project: string | null;
  /** The paying address, with `all=true`. */
  wallet: string | null;
  unit: "USDC";
  since: string;
  today: string;
  left_today: string;
  reserved: string;
  paid: string;
  unknown: string;
  lost: string;
  void: string;
  max_per_job: string;
  max_per_day: string;
  /** In USD; null if no job needs an approval. */
  approval_above: string | null;
  caps: Cap[];
  providers: ProviderSpend[];
}

/** What happened in a project. */
export interface Stats {
  object: "stats";
  project: string;
  /** `from`, rounded down to an interval. */
  from: string;
  /** `to`, rounded up to an interval. */
  to: string;
  bucket: "15m" | "1d" | "1h" | "1m" | (string & {});
  bucket_s: number;
  totals: Numbers;
  /** Each interval, the oldest first. */
  series: Interval[];
  providers: ProviderNumbers[];
  cost: CostSum[];
  backlog: Backlog;
  archive: CopiesNow;
}

/** A job's history in order, and the next step. */
export interface Timeline {
  data: Entry[];
  /** Null if all is done. */
  next: Next | null;
}

/** How long the parts of an attempt took; null for what a kept connection did not need, or what did not come. */
export interface Timings {
  /** The look-up of the host's name. */
  lookup_ms: number | null;
  /** Opening the connection. */
  connect_ms: number | null;
  /** The TLS handshake. */
  tls_ms: number | null;
  /** From the request until the first byte of the answer. */
  wait_ms: number | null;
}

/** How far the report that ended a job is proven. */
export type Verification = "fetch" | "none" | "signature" | "token" | (string & {});

/** A project's ed25519 key (RFC 8037). */
export interface WebhookKey {
  kty: "OKP";
  crv: "Ed25519";
  alg: "EdDSA";
  use: "sig";
  kid: string;
  x: string;
  project: string;
  /** The key as Standard Webhooks writes it. */
  whpk: string;
}

/** A JWK set, newest key last. */
export interface WebhookKeys {
  keys: WebhookKey[];
}

/** The API key of the request, its project, and this relay. */
export interface Whoami {
  object: "whoami";
  key: CallerKey;
  project: Project;
  /** Whether the key may see all projects. */
  operator: boolean;
  /** RELAY_ENV. */
  environment: string;
  version: string;
  /** The path of the API's description. */
  docs: string;
}
