"""The client for asyncio. `sync.py` is made from this file by `clients/generate.py`."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from relay.client import requests
from relay.client.notifications import Notification
from relay.client.requests import AGAIN, TRIES_MAX, Messages, RelayError, RelayUnavailable, Request, page_of
from relay.client.types import (
    Alert,
    Archive,
    AuditEntry,
    Backfill,
    BulkResult,
    Callback,
    CallbackHead,
    Copy,
    Delivery,
    DeliveryWithAttempts,
    Endpoint,
    EndpointNote,
    Event,
    File,
    Hit,
    Hits,
    Job,
    Key,
    NewEndpoint,
    NewJob,
    NewKey,
    Payment,
    Project,
    Provider,
    Quote,
    Redelivery,
    RedeliveryCount,
    RotatedSecret,
    Secret,
    Spend,
    Stats,
    Timeline,
    Whoami,
)

Answer = TypeVar("Answer")
FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
HELD_S = 25
"""The longest time for which relay holds a request."""
SILENCE_S = 45
"""A stream without even a comment for so long is lost: relay sends one every 15 s."""
TOO_MANY = 429


class AsyncRelay:
    """relay's API. `http` may be a client of your own, with its pool, proxies and certificates.

    A request that fails on the way, or is answered 429, 502, 503 or 504, is made again; each that changes something
    carries an Idempotency-Key, so that nothing is done or paid twice. Raises RelayError for what relay refuses, and
    RelayUnavailable after the last try.
    """

    def __init__(
        self, url: str, api_key: str, *, timeout_s: float = 35.0, http: httpx.AsyncClient | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s
        self._http = http or httpx.AsyncClient()
        self._own = http is None

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless they are those of a client of your own."""
        if self._own:
            await self._http.aclose()

    async def submit(  # noqa: PLR0913 - the fields of the API
        self,
        provider: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's own name
        *,
        request: Mapping[str, Any] | None = None,
        notify: Sequence[Mapping[str, Any]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        max_cost: str | None = None,
        archive: str | None = None,
        deadline_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> NewJob:
        """Submit a job by exactly one of `input` and `request`; give a key of your own to submit an order once."""
        fields = requests.body(
            provider=provider,
            input=input,
            request=request,
            notify=notify,
            metadata=metadata,
            max_cost=max_cost,
            archive=archive,
            deadline_s=deadline_s,
        )
        return await self._send(requests.writing("POST", "/v1/jobs", fields, idempotency_key), NewJob)

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Return the job when it is final; raise TimeoutError if it is not by then.

        relay says by an event stream when that is; if the project has as many streams as it may, it holds requests for
        the job instead. Nothing is polled.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        after: str | None = None
        while until_s is None or time.monotonic() < until_s:
            try:
                async with self._stream(after, None, until_s) as response:
                    messages = Messages(after)
                    # The stream is open: what ends the job from here on is in it.
                    found = await self.job(job_id)
                    if found.status in FINAL:
                        return found
                    async for received in response.aiter_bytes():
                        for message in messages.feed(received):
                            event = msgspec.json.decode(message.data, type=Notification)
                            if event.final and event.job_id == job_id:
                                return await self.job(job_id)
                        after = messages.last_id
                        if until_s is not None and time.monotonic() >= until_s:
                            break
                    else:  # it has ended, as where relay restarts
                        await asyncio.sleep(requests.pause_s(1, None))
            except httpx.TransportError:
                await asyncio.sleep(requests.pause_s(1, None))
            except RelayError as error:
                if error.status != TOO_MANY:
                    raise
                found = await self._held(job_id, until_s)
                if found.status in FINAL:
                    return found
        raise TimeoutError(f"the job {job_id} is not final after {timeout_s} s")

    async def _held(self, job_id: str, until_s: float | None) -> Job:
        """Return the job when it is final, or after `HELD_S`, or in time."""
        left_s = HELD_S if until_s is None else max(1, min(HELD_S, until_s - time.monotonic()))
        headers = {"prefer": f"wait={round(left_s)}"}
        held = Request(method="GET", path=f"/v1/jobs/{job_id}", headers=headers, timeout_s=left_s)
        return await self._send(held, Job)

    async def job(self, job_id: str) -> Job:
        """Return a job."""
        return await self._send(Request(method="GET", path=f"/v1/jobs/{job_id}"), Job)

    def jobs(
        self,
        *,
        status: str | None = None,
        provider: str | None = None,
        reason: str | None = None,
        provider_job_id: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        older_than: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Job]:
        """Yield the jobs, newest first, page after page; `status` may be `open`."""
        return self._pages(
            "/v1/jobs",
            Job,
            requests.query(
                status=status,
                provider=provider,
                reason=reason,
                provider_job_id=provider_job_id,
                created_after=created_after,
                created_before=created_before,
                older_than=older_than,
                metadata=metadata,
            ),
        )

    async def timeline(self, job_id: str) -> Timeline:
        """Return what happened to a job, in order, and what comes next."""
        return await self._send(Request(method="GET", path=f"/v1/jobs/{job_id}/timeline"), Timeline)

    async def result_url(self, job_id: str, number: int = 0) -> str:
        """Return a URL of a result, counted from 0: a fresh link to its copy, or else the provider's own.

        If the archive is a folder of relay's machine, it is relay's URL, which needs the API key.
        """
        path = f"/v1/jobs/{job_id}/outputs/{number}"
        response = await self._respond(Request(method="GET", path=path))
        return str(response.headers.get("location", self._url + path))

    async def cancel(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Cancel a job, at its provider too if it can be canceled there."""
        return await self._intervene(job_id, "cancellations", None, idempotency_key)

    async def check(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Check a job's status at its provider now."""
        return await self._intervene(job_id, "status-checks", None, idempotency_key)

    async def fail(self, job_id: str, reason: str, *, idempotency_key: str | None = None) -> Job:
        """Declare a job failed."""
        return await self._intervene(job_id, "failures", {"reason": reason}, idempotency_key)

    async def resubmit(
        self, job_id: str, *, accept_double_charge: bool = False, idempotency_key: str | None = None
    ) -> Job:
        """Submit a job again; one that may have been charged needs `accept_double_charge`."""
        fields = {"accept_double_charge": accept_double_charge}
        return await self._intervene(job_id, "resubmissions", fields, idempotency_key)

    async def _intervene(self, job_id: str, verb: str, fields: Any, key: str | None) -> Job:
        """Return the job after an intervention."""
        return await self._send(requests.writing("POST", f"/v1/jobs/{job_id}/{verb}", fields, key), Job)

    async def quotes(
        self,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's own name
        *,
        request: Mapping[str, Any] | None = None,
        providers: Sequence[str] | None = None,
    ) -> list[Quote]:
        """Return what a job would cost at each provider, cheapest first."""
        fields = requests.body(input=input, request=request, providers=providers)
        return (await self._send(requests.writing("POST", "/v1/quotes", fields), page_of(Quote))).data

    async def upload(
        self, provider: str, file: bytes, *, filename: str, content_type: str, max_cost: str | None = None
    ) -> File:
        """Upload an image to a provider; its `url` is for a job's `images`."""
        form = requests.body(provider=provider, max_cost=max_cost)
        wanted = requests.uploading("/v1/files", form, (filename, file, content_type))
        return await self._send(wanted, File)

    async def spend(self, *, since: str | None = None, all_projects: bool | None = None) -> Spend:
        """Return what the project spent, and what is left of today's cap."""
        wanted = requests.query(since=since, all=all_projects)
        return await self._send(Request(method="GET", path="/v1/spend", query=wanted), Spend)

    async def providers(self) -> list[Provider]:
        """Return what each provider accepts, and whether it is configured."""
        return (await self._send(Request(method="GET", path="/v1/providers"), page_of(Provider))).data

    async def create_endpoint(self, url: str, *, idempotency_key: str | None = None, **fields: Any) -> NewEndpoint:
        """Make an endpoint; its `secret` is in the answer. `fields` are those of the API, such as `event_types`."""
        body = {"url": url, **fields}
        return await self._send(requests.writing("POST", "/v1/endpoints", body, idempotency_key), NewEndpoint)

    async def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint."""
        return await self._send(Request(method="GET", path=f"/v1/endpoints/{endpoint_id}"), Endpoint)

    def endpoints(self) -> AsyncIterator[Endpoint]:
        """Yield the endpoints, newest first."""
        return self._pages("/v1/endpoints", Endpoint, {})

    async def change_endpoint(self, endpoint_id: str, **fields: Any) -> Endpoint:
        """Change an endpoint's fields; `status` enables or disables it."""
        return await self._send(requests.writing("PATCH", f"/v1/endpoints/{endpoint_id}", fields), Endpoint)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its pending deliveries are canceled."""
        await self._request(requests.writing("DELETE", f"/v1/endpoints/{endpoint_id}"))

    async def rotate_secret(
        self, endpoint_id: str, *, grace_s: int = 86_400, secret: str | None = None, idempotency_key: str | None = None
    ) -> RotatedSecret:
        """Give an endpoint a new secret; the former one signs too for `grace_s`."""
        fields = requests.body(grace_s=grace_s, secret=secret)
        path = f"/v1/endpoints/{endpoint_id}/secret-rotations"
        return await self._send(requests.writing("POST", path, fields, idempotency_key), RotatedSecret)

    async def secret(self, endpoint_id: str) -> str:
        """Return an endpoint's secret."""
        return (await self._send(Request(method="GET", path=f"/v1/endpoints/{endpoint_id}/secret"), Secret)).secret

    async def test_endpoint(self, endpoint_id: str) -> Delivery:
        """Send an endpoint a `relay.test`."""
        return await self._send(requests.writing("POST", f"/v1/endpoints/{endpoint_id}/tests"), Delivery)

    async def redeliver_to(
        self, endpoint_id: str, *, which: str, since: str | None = None, until: str | None = None
    ) -> Redelivery:
        """Send an endpoint again what it did not receive: `undelivered`, `failed`, `missing` or `all`."""
        fields = requests.body(which=which, since=since, until=until)
        path = f"/v1/endpoints/{endpoint_id}/redeliveries"
        return await self._send(requests.writing("POST", path, fields), Redelivery)

    async def count_redeliveries(
        self, endpoint_id: str, *, which: str, since: str | None = None, until: str | None = None
    ) -> int:
        """Return how many events `redeliver_to` would send."""
        fields = requests.body(which=which, since=since, until=until, dry_run=True)
        path = f"/v1/endpoints/{endpoint_id}/redeliveries"
        return (await self._send(requests.writing("POST", path, fields), RedeliveryCount)).count

    async def event(self, event_id: str) -> Event:
        """Return an event."""
        return await self._send(Request(method="GET", path=f"/v1/events/{event_id}"), Event)

    def events(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the API's own name
        job: str | None = None,
        after: str | None = None,
        undelivered: bool | None = None,
    ) -> AsyncIterator[Event]:
        """Yield events, newest first; with `after` those behind it in the order of commits."""
        wanted = requests.query(type=type, job=job, after=after, undelivered=undelivered)
        return self._pages("/v1/events", Event, wanted)

    async def stream(
        self,
        *,
        after: str | None = None,
        type: str | None = None,  # noqa: A002 - the API's own name
    ) -> AsyncGenerator[Notification]:
        """Yield events as they happen, without end, from `after` an event's id on; a lost connection is made again.

        Raise RelayError at the fourth 429 in a row, whatever connections were lost meanwhile, and at any other refusal.
        """
        lost = refusals = 0
        while True:
            messages, pause_s = Messages(after), 0.0
            try:
                async with self._stream(after, type, None) as response:
                    lost = refusals = 0
                    async for received in response.aiter_bytes():
                        for message in messages.feed(received):
                            yield msgspec.json.decode(message.data, type=Notification)
                        after = messages.last_id
            except httpx.TransportError:
                lost += 1
            except RelayError as error:
                refusals += 1
                pause_s = requests.pause_after_refusal_s(error, refusals)
            await asyncio.sleep(max(messages.retry_s, pause_s or requests.pause_s(lost, None)))

    @asynccontextmanager
    async def _stream(
        self, after: str | None, kind: str | None, until_s: float | None
    ) -> AsyncIterator[httpx.Response]:
        """Open the event stream; raise RelayError if relay refuses it, and httpx.TransportError if it is not there."""
        silence_s = SILENCE_S if until_s is None else max(0.1, min(SILENCE_S, until_s - time.monotonic()))
        async with self._http.stream(
            "GET",
            f"{self._url}/v1/events/stream",
            params=requests.query(type=kind),
            headers={name.encode(): value.encode() for name, value in self._headers.items()} | requests.position(after),
            timeout=httpx.Timeout(self._timeout_s, read=silence_s),
        ) as response:
            if not response.is_success:
                retry_after = response.headers.get("retry-after")
                refused = requests.problem(response.status_code, await response.aread(), retry_after)
                if response.status_code in AGAIN - {TOO_MANY}:
                    raise httpx.ReadError(str(refused))
                raise refused
            yield response

    async def delivery(self, delivery_id: str) -> DeliveryWithAttempts:
        """Return a delivery with its attempts."""
        return await self._send(Request(method="GET", path=f"/v1/deliveries/{delivery_id}"), DeliveryWithAttempts)

    def deliveries(
        self,
        *,
        endpoint: str | None = None,
        status: str | None = None,
        event: str | None = None,
        job: str | None = None,
    ) -> AsyncIterator[Delivery]:
        """Yield deliveries, newest first."""
        wanted = requests.query(endpoint=endpoint, status=status, event=event, job=job)
        return self._pages("/v1/deliveries", Delivery, wanted)

    async def redeliver(self, delivery_id: str, *, idempotency_key: str | None = None) -> Delivery:
        """Send the same event to the same endpoint again."""
        path = f"/v1/deliveries/{delivery_id}/redeliveries"
        return await self._send(requests.writing("POST", path, None, idempotency_key), Delivery)

    async def callback(self, callback_id: str) -> Callback:
        """Return a callback as received."""
        return await self._send(Request(method="GET", path=f"/v1/callbacks/{callback_id}"), Callback)

    def callbacks(self, *, job: str | None = None, verdict: str | None = None) -> AsyncIterator[CallbackHead]:
        """Yield callbacks without their bodies, newest first."""
        return self._pages("/v1/callbacks", CallbackHead, requests.query(job=job, verdict=verdict))

    async def release(self, callback_id: str, *, idempotency_key: str | None = None) -> Callback:
        """Apply a quarantined callback."""
        path = f"/v1/callbacks/{callback_id}/releases"
        return await self._send(requests.writing("POST", path, None, idempotency_key), Callback)

    async def approve(self, job_id: str, *, approve: bool = True, reason: str | None = None) -> Job:
        """Let a job that waits for an approval be sent at its price, or refuse it."""
        return await self._intervene(job_id, "approvals", requests.body(approve=approve, reason=reason), None)

    async def bulk(self, action: str, filter: Mapping[str, Any], **fields: Any) -> BulkResult:  # noqa: A002
        """Count the jobs that match (`dry_run=True`), or act on those that matched then (`as_of` of that answer)."""
        given = {"action": action, "filter": dict(filter), **fields}
        return await self._send(requests.writing("POST", "/v1/bulk-actions", given), BulkResult)

    async def search(self, q: str, *, limit: int | None = None) -> list[Hit]:
        """Return what an id, a provider's id, metadata or a part of a URL finds."""
        wanted = requests.query(q=q, limit=limit)
        return (await self._send(Request(method="GET", path="/v1/search", query=wanted), Hits)).data

    async def stats(self, *, since: str | None = None, until: str | None = None, bucket: str | None = None) -> Stats:
        """Return the numbers of a time: jobs, deliveries, latency, backlog and cost."""
        wanted = requests.query(**{"from": since, "to": until, "bucket": bucket})
        return await self._send(Request(method="GET", path="/v1/stats", query=wanted), Stats)

    def alerts(self, *, state: str | None = None, kind: str | None = None) -> AsyncIterator[Alert]:
        """Yield the conditions that are open, or those of a `state`."""
        return self._pages("/v1/alerts", Alert, requests.query(state=state, kind=kind))

    def audit(self, **filters: str | None) -> AsyncIterator[AuditEntry]:
        """Yield what was changed, newest first; `filters` are those of the API, such as `verb`."""
        return self._pages("/v1/audit", AuditEntry, requests.query(**filters))

    def payments(self, **filters: str | bool | None) -> AsyncIterator[Payment]:
        """Yield payments, newest first; `filters` are those of the API, such as `state`."""
        return self._pages("/v1/payments", Payment, requests.query(**filters))

    async def receipts(self, **filters: str | bool | None) -> str:
        """Return the payments as CSV."""
        wanted = requests.query(**filters)
        return (await self._request(Request(method="GET", path="/v1/receipts", query=wanted))).decode()

    async def whoami(self) -> Whoami:
        """Return the key that this client has, and its project."""
        return await self._send(Request(method="GET", path="/v1/whoami"), Whoami)

    def keys(self, *, live: bool | None = None, project: str | None = None) -> AsyncIterator[Key]:
        """Yield API keys without their text, newest first."""
        return self._pages("/v1/keys", Key, requests.query(live=live, project=project))

    async def create_key(self, name: str, scopes: Sequence[str], *, project: str | None = None) -> NewKey:
        """Make an API key; its text is in this answer alone."""
        fields = requests.body(name=name, scopes=list(scopes), project=project)
        return await self._send(requests.writing("POST", "/v1/keys", fields), NewKey)

    async def revoke_key(self, key_id: str) -> Key:
        """Stop an API key from working."""
        return await self._send(requests.writing("POST", f"/v1/keys/{key_id}/revocations"), Key)

    async def archive(self) -> Archive:
        """Return which results of the project are copied, and how many are."""
        return await self._send(Request(method="GET", path="/v1/archive"), Archive)

    async def copies(self, job_id: str) -> list[Copy]:
        """Return the copies of a job's results, with their tries."""
        page = await self._send(Request(method="GET", path=f"/v1/jobs/{job_id}/copies"), page_of(Copy))
        return list(page.data)

    async def copy(self, job_id: str, *, idempotency_key: str | None = None) -> list[Copy]:
        """Copy results of a job that have no copy or whose copy failed, try pending ones now, and return the copies."""
        path = f"/v1/jobs/{job_id}/copies"
        page = await self._send(requests.writing("POST", path, None, idempotency_key), page_of(Copy))
        return list(page.data)

    async def change_archive(self, mode: str | None) -> Archive:
        """Choose which results of the project are copied; None for what the relay's setting says."""
        return await self._send(requests.writing("PATCH", "/v1/archive", {"mode": mode}), Archive)

    async def backfill_archive(self, **wanted: Any) -> Backfill:
        """Copy results that have no copy, of a part of the jobs; pass its `next_cursor` as `cursor` to go on."""
        return await self._send(requests.writing("POST", "/v1/archive/backfills", requests.body(**wanted)), Backfill)

    def projects(self) -> AsyncIterator[Project]:
        """Yield the projects that the key sees."""
        return self._pages("/v1/projects", Project, {})

    async def create_project(self, name: str) -> Project:
        """Make a project."""
        return await self._send(requests.writing("POST", "/v1/projects", {"name": name}), Project)

    async def probe(self, endpoint_id: str) -> DeliveryWithAttempts:
        """Try a held or disabled endpoint now, and return the one attempt."""
        return await self._send(requests.writing("POST", f"/v1/endpoints/{endpoint_id}/probes"), DeliveryWithAttempts)

    def history(self, endpoint_id: str) -> AsyncIterator[EndpointNote]:
        """Yield what happened to an endpoint, newest first."""
        return self._pages(f"/v1/endpoints/{endpoint_id}/history", EndpointNote, {})

    def redeliveries(self, endpoint_id: str) -> AsyncIterator[Redelivery]:
        """Yield the batches of redeliveries to an endpoint, newest first."""
        return self._pages(f"/v1/endpoints/{endpoint_id}/redeliveries", Redelivery, {})

    async def redelivery(self, endpoint_id: str, redelivery_id: str) -> Redelivery:
        """Return a batch and its progress."""
        path = f"/v1/endpoints/{endpoint_id}/redeliveries/{redelivery_id}"
        return await self._send(Request(method="GET", path=path), Redelivery)

    async def stop_redelivery(self, endpoint_id: str, redelivery_id: str) -> Redelivery:
        """Stop a batch; what it made stays."""
        path = f"/v1/endpoints/{endpoint_id}/redeliveries/{redelivery_id}/cancellations"
        return await self._send(requests.writing("POST", path), Redelivery)

    async def _pages(self, path: str, kind: type[Answer], wanted: dict[str, str]) -> AsyncIterator[Answer]:
        """Yield the items of all pages; a page may be empty although another one follows."""
        while True:
            page = await self._send(Request(method="GET", path=path, query=wanted), page_of(kind))
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            wanted = wanted | {"cursor": page.next_cursor}

    async def _send(self, request: Request, kind: type[Answer]) -> Answer:
        """Return the answer to a request."""
        return msgspec.json.decode(await self._request(request), type=kind)

    async def _request(self, request: Request) -> bytes:
        """Return the body of the answer to a request, made again while that may help."""
        return (await self._respond(request)).content

    async def _respond(self, request: Request) -> httpx.Response:
        """Return the answer to a request, made again while that may help; a redirect is not followed."""
        for tried in range(1, TRIES_MAX + 1):
            retry_after = None
            try:
                response = await self._http.request(
                    request.method,
                    self._url + request.path,
                    params=request.query,
                    content=None if request.body is None else msgspec.json.encode(request.body),
                    data=request.form,
                    files=request.files,
                    headers=self._headers | request.headers,
                    timeout=self._timeout_s + request.timeout_s,
                    follow_redirects=False,
                )
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if response.is_success or response.has_redirect_location:
                    return response
                retry_after = response.headers.get("retry-after")
                if response.status_code not in AGAIN or (tried == TRIES_MAX and response.status_code == TOO_MANY):
                    raise requests.problem(response.status_code, response.content, retry_after)
                reason = f"it answers {response.status_code}"
            if tried == TRIES_MAX:
                raise RelayUnavailable(f"relay at {self._url} does not answer: {reason}")
            await asyncio.sleep(requests.pause_s(tried, retry_after))
        raise AssertionError("the loop ends by itself")
