"""Plays one seed: real processes, a real database, providers, subscribers and clients, and the faults of its plan."""

import asyncio
import base64
import contextlib
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from bench.certificate import made as certificate
from relay.sandbox.contract import API_KEY, ProviderJob, StandIn
from relay.sandbox.evolink import EvoLink
from relay.sandbox.kinovi import Kinovi
from relay.sandbox.providers import base_urls
from relay.sandbox.relaydance import RelayDance
from relay.sandbox.serving import serve
from relay.sandbox.stablestudio import StableStudio
from relay.sandbox.world import Sandbox
from relay.sandbox.x402org import X402Org
from tests.chaos.buckets import RunBucket, opened
from tests.chaos.checker import Broken, check
from tests.chaos.databases import Database, PostgreSQLDatabase, SQLiteFile
from tests.chaos.injector import Injector
from tests.chaos.links import Link, link
from tests.chaos.manifest import Answer, Call, Manifest, Stored, StoredObject
from tests.chaos.plan import JobPlan, Operation, Plan
from tests.chaos.relays import Place, Program
from tests.chaos.results import ResultServer, body_of, digest_of
from tests.chaos.subscriber import Subscriber, subscribing

KEY: Final = "an-admin-key-for-the-chaos"
PACE_S: Final = 0.4
CALLBACK_TIMEOUT_S: Final = 1.5
CLIENT_TIMEOUT_S: Final = 4.0
ASK_S, CONFLICT_S = 60.0, 2.0
"""How long a client repeats a request without an answer, and one that is 409."""
PATIENCE_S, PATIENCE_MAX_S = 60.0, 240.0
"""How long a run waits for its end while nothing changes, and in all: a busy machine is slow, not wrong."""
PAUSE_S: Final = 0.2
CAP_PER_JOB, CAP_IN_A_DAY = 700_000, 1_400_000
ARCHIVE_WAIT_S: Final = 2.0
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SETTINGS: Final[Mapping[str, str]] = {
    "RELAY_HOST": "127.0.0.1",
    "RELAY_SECRET_KEYS": "a-key-that-is-for-the-chaos-alone",
    "RELAY_API_KEY": KEY,
    "RELAY_ALLOW_HTTP": "1",
    "RELAY_ALLOW_NETWORKS": "127.0.0.0/8",
    "RELAY_SHUTDOWN_S": "2",
    "RELAY_LEASE_S": "3",
    "RELAY_RETRY_SCHEDULE_S": ",".join(["0", *["1"] * 49]),
    "RELAY_SUBMIT_TIMEOUT_S": "1",
    "RELAY_SUBMIT_WAIT_S": "1",
    "RELAY_STATUS_CHECK_FIRST_S": "1.5",
    "RELAY_CONFIRM_WAIT_S": "1",
    "RELAY_LOOKUP_CACHE_S": "0.5",
    "RELAY_CHECK_AT_START": "0",
    "RELAY_ARCHIVE_WAIT_S": f"{ARCHIVE_WAIT_S:g}",
    "RELAY_ARCHIVE_RETRY_S": "60",
    "RELAY_ARCHIVE_TIMEOUT_S": "3",
    "RELAY_ARCHIVE_MAX_BYTES": "20000000",
    "RELAY_SPEND_MAX_PER_JOB": f"{CAP_PER_JOB / 1e6:.2f}",
    "RELAY_SPEND_MAX_PER_DAY": f"{CAP_IN_A_DAY / 1e6:.2f}",
}
STREAM: Final = "/v1/events/stream?type=job.*"
_EVENT: Final = re.compile(r"^id: *(\S+)", re.MULTILINE)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed showed: figures, and what it broke.

    `cut_short` counts stops that took longer than the processes had. `waited` says what was not at its end at which
    time after the faults; `copies` counts how copies ended, `results_met` the bad answers of the server of results.
    `log` is the log of every process.
    """

    seed: int
    database: str
    jobs: int
    events: int
    deliveries: int
    callbacks: int
    notifications: int
    seconds: float
    made: dict[str, int]
    skipped: dict[str, int]
    harmed: int
    copies: dict[str, int]
    results_met: dict[str, int]
    memory_mb: float
    broken: list[Broken]
    cut_short: int
    waited: list[str]
    log: list[str]

    @property
    def replay(self) -> str:
        """Return the command that plays the seed again."""
        return f"python -m bench chaos --seeds {self.seed}-{self.seed} --database {self.database} --logs"


class Scene:
    """One run."""

    def __init__(self, plan: Plan, database: Database, folder: Path, program: tuple[str, ...]) -> None:
        self.plan = plan
        self.run = Manifest(cap_per_job=CAP_PER_JOB, cap_in_a_day=CAP_IN_A_DAY)
        self.places: list[Place] = []
        self.links: dict[str, Link] = {}
        self._database = database
        self._folder = folder
        self._program = program
        self._ahead_s = 0.0
        self._luck = random.Random(f"{plan.seed} {plan.database} subscriber")
        self._stand_ins: dict[str, StandIn] = {
            "evolink": EvoLink(),
            "relaydance": RelayDance(),
            "kinovi": Kinovi(),
            "stablestudio": StableStudio(self._now_s),
            "x402org": X402Org(self._now_s),
        }
        for stand_in in self._stand_ins.values():
            stand_in.callback_timeout_s = CALLBACK_TIMEOUT_S
            stand_in.accept = partial(self._accept, stand_in.accept)  # type: ignore[method-assign]
        self.world = Sandbox(self._stand_ins, pace_s=PACE_S, time_scale=0.3)
        self.subscriber = Subscriber(plan.failing, self._luck)
        self.results = ResultServer({job.marker: job.result for job in plan.jobs})
        self._planned = {job.marker: job for job in plan.jobs}
        self._bucket: RunBucket
        self._next_copy_at: float | None = None
        self.waited: list[str] = []
        self._standing: list[str] = []
        self._secrets: dict[str, list[str]] = {}
        self._turns = cycle((0, 1))

    def _now_s(self) -> int:
        """Return the time of those providers whose offers and sign-ins end: in the end relay's clock agrees with it."""
        return int(time.time() + self._ahead_s)

    def _accept(self, accept: Callable[..., ProviderJob], *arguments: Any) -> ProviderJob:
        """Return a provider's new job, whose results are on the server of results, under its marker."""
        job = accept(*arguments)
        job.results_at = f"http://results.chaos.test:{self.links['results'].port}/{_marker(job.body)}"
        return job

    async def play(self) -> Outcome:
        """Play the plan, wait until nothing is left to do, and judge."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with AsyncExitStack() as stack:
            await self._around(stack)
            injector = Injector(self.places, self.links, self._database)
            client = await stack.enter_async_context(self._client())
            self.run.began_s = time.time()
            try:
                await asyncio.gather(*[(await place.start()).ready() for place in self.places])
                await self._make_endpoints(client)
                streaming = asyncio.create_task(self._stream())
                load_s = loop.time()
                async with asyncio.TaskGroup() as group:
                    for fault in self.plan.faults:
                        group.create_task(injector.inject(fault, load_s))
                    for number, operation in enumerate(self.plan.operations):
                        group.create_task(self._operate(client, operation, number, load_s))
                    for job in self.plan.jobs:
                        group.create_task(self._submit(client, job, load_s))
                await injector.heal()
                self._ahead_s = injector.ahead_s
                self.run.clocks_agree = not injector.ahead_s
                self.subscriber.well = True
                await self._quiet(client, injector)
                streaming.cancel()
                await asyncio.gather(streaming, return_exceptions=True)
            finally:
                await asyncio.gather(*(place.stop(process) for place in self.places for process in place.processes[:]))
            await self._collect(injector)
        broken = check(self.run)
        return Outcome(
            seed=self.plan.seed,
            database=self.plan.database,
            jobs=len(self.run.stored.jobs),
            events=len(self.run.stored.events),
            deliveries=len(self.run.stored.deliveries),
            callbacks=len(self.run.callbacks),
            notifications=len(self.run.notifications),
            seconds=round(loop.time() - began_s, 1),
            made=dict(injector.made),
            skipped=dict(injector.skipped),
            harmed=sum(one.harmed for one in self.links.values()),
            copies=dict(Counter(one.error or one.state for one in self.run.stored.copies)),
            results_met=dict(self.results.met),
            memory_mb=max(self.run.memory_mb.values(), default=0.0),
            broken=broken,
            log=[line for place in self.places for line in place.lines],
            cut_short=self.run.cut_short,
            waited=self.waited,
        )

    async def _around(self, stack: AsyncExitStack) -> None:
        """Open everything around relay, with a link to each part, and make the places of its processes."""
        stack.push_async_callback(self.world.close)
        providers_at = await stack.enter_async_context(serve(self.world.app))
        context, environ = None, dict(SETTINGS)
        if self.plan.tls:
            authority, pem, key = certificate(self._folder, "b.chaos.test")
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(pem, key)
            environ["SSL_CERT_FILE"] = str(authority)
        plain = await stack.enter_async_context(subscribing(self.subscriber))
        other = await stack.enter_async_context(subscribing(self.subscriber, context)) if context else plain
        ports = {"provider": int(providers_at.rpartition(":")[2]), "subscriber_a": plain, "subscriber_b": other}
        ports["results"] = await stack.enter_async_context(self.results.serving())
        self._bucket = stack.enter_context(opened(self.plan.bucket, self._folder))
        if self._bucket.port is not None:
            ports["store"] = self._bucket.port
        for name, port in ports.items():
            self.links[name] = await stack.enter_async_context(link(partial(list, [port])))
        self.links["ingress"] = await stack.enter_async_context(link(self._serving))
        if isinstance(self._database, PostgreSQLDatabase):
            server_port = self._database.server.port
            self.links["database"] = await stack.enter_async_context(link(partial(list, [server_port])))
            self._database.through(self.links["database"].port)
        environ |= {
            "DATABASE_URL": self._database.url,
            "RELAY_PUBLIC_URL": f"http://127.0.0.1:{self.links['ingress'].port}",
        }
        environ |= self._bucket.environ(self.links["store"].port if "store" in self.links else 0)
        if self.plan.paid:
            environ["RELAY_WALLET_KEY"] = "0x" + "22" * 32
        for name, base_url in base_urls(f"http://provider.chaos.test:{self.links['provider'].port}").items():
            environ |= {f"RELAY_{name.upper()}_API_KEY": API_KEY, f"RELAY_{name.upper()}_BASE_URL": base_url}
        program = Program(self._program, environ, self._folder)
        for number, words in enumerate(self.plan.layout):
            self.places.append(Place(f"{words[0]}-{number}", words, program, self.run))

    def _serving(self) -> list[int]:
        """Return the ports that requests go to, in turn."""
        first = [place.ports for place in self.places if place.ports]
        if len(first) > 1 and next(self._turns):
            first.reverse()
        return [port for ports in first for port in ports]

    def _client(self) -> httpx.AsyncClient:
        """Return a client of relay, behind the link."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.links['ingress'].port}",
            headers={"authorization": f"Bearer {KEY}"},
            trust_env=False,
            timeout=CLIENT_TIMEOUT_S,
        )

    async def _make_endpoints(self, client: httpx.AsyncClient) -> None:
        """Make three standing endpoints; all of this is before the first fault."""
        scheme = "https" if self.plan.tls else "http"
        origins = [f"http://a.chaos.test:{self.links['subscriber_a'].port}"] * 2
        origins.append(f"{scheme}://b.chaos.test:{self.links['subscriber_b'].port}")
        for number, origin in enumerate(origins):
            body = {"url": f"{origin}/standing-{number}", "event_types": ["job.*"], "timeout_s": 1}
            answer = await self._asked(client, "/v1/endpoints", body, f"endpoint-{number}")
            assert answer is not None, "no process takes requests"
            made = answer.raise_for_status().json()
            self._standing.append(made["id"])
            self._secrets[f"/standing-{number}"] = [made["secret"]]

    async def _submit(self, client: httpx.AsyncClient, job: JobPlan, begins_s: float) -> None:
        """Submit a job, repeated under its key until it is answered for good; then do what an operator does to it."""
        await asyncio.sleep(max(0.0, begins_s + job.at_s - asyncio.get_running_loop().time()))
        body: dict[str, Any] = {
            "provider": job.provider,
            "input": {"images": ["https://example.com/a.png"], "prompt": job.prompt, "duration_s": 5},
            "deadline_s": job.deadline_s,
            "archive": job.archive,
        }
        if job.has_own_endpoint:
            url = f"http://a.chaos.test:{self.links['subscriber_a'].port}/own-{job.number}"
            body["notify"] = [{"url": url, "secret": SECRET}]
        answer = await self._asked(client, "/v1/jobs", body, job.marker)
        if answer is None or answer.status_code != 202:
            return
        shown = answer.json()
        self.run.accepted.setdefault(job.marker, set()).add(shown["id"])
        if job.verb:
            await asyncio.sleep(self._luck.random())
            given = {"reason": "chaos"} if job.verb == "failures" else {}
            await self._asked(client, f"/v1/jobs/{shown['id']}/{job.verb}", given, f"{job.marker}verb")

    async def _operate(self, client: httpx.AsyncClient, operation: Operation, number: int, begins_s: float) -> None:
        """Do what an operator does to an endpoint."""
        await asyncio.sleep(max(0.0, begins_s + operation.at_s - asyncio.get_running_loop().time()))
        path = f"/v1/endpoints/{self._standing[operation.endpoint]}"
        match operation.kind:
            case "disable":
                await self._asked(client, path, {"status": "disabled"}, f"off-{number}", "PATCH")
                await asyncio.sleep(operation.for_s)
                await self._asked(client, path, {"status": "active"}, f"on-{number}", "PATCH")
            case "rotate":
                secret = f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}"
                self._secrets[f"/standing-{operation.endpoint}"].append(secret)
                await self._asked(client, f"{path}/secret-rotations", {"secret": secret}, f"rotate-{number}")
            case _:
                wanted = {"since": "-24h", "which": "all"}
                await self._asked(client, f"{path}/redeliveries", wanted, f"redeliver-{number}")

    async def _asked(
        self, client: httpx.AsyncClient, path: str, body: object, key: str, method: str = "POST"
    ) -> httpx.Response | None:
        """Return the answer to a request; None if none comes in time.

        It is repeated while there is no answer, or 503. So is a 409, for a while: a process that was killed between the
        key and the job has acknowledged nothing and sent nothing, and the key is not free again.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + ASK_S
        while loop.time() < until_s:
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.request(method, path, json=body, headers={"idempotency-key": key})
                self._note(path, answer)
                if answer.status_code == 409:
                    until_s = min(until_s, loop.time() + CONFLICT_S)
                elif answer.status_code != 503:
                    return answer
            await asyncio.sleep(PAUSE_S)
        return None

    def _note(self, path: str, answer: httpx.Response) -> None:
        """Note an answer."""
        self.run.answers.append(Answer(path, answer.status_code, answer.headers.get("retry-after", "")))

    async def _stream(self) -> None:
        """Read the stream of events, and go on where it was cut."""
        headers: dict[str, str] = {}
        async with self._client() as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    async with client.stream(
                        "GET", "/v1/events/stream?type=job.*", headers=headers, timeout=30
                    ) as answer:
                        if answer.status_code != 200:
                            await answer.aread()
                            self._note("stream", answer)
                        else:
                            async for line in answer.aiter_lines():
                                if found := _EVENT.match(line):
                                    self.run.streamed.append(found[1])
                                    headers["last-event-id"] = found[1]
                await asyncio.sleep(PAUSE_S)

    async def _quiet(self, client: httpx.AsyncClient, injector: Injector) -> None:
        """Return when every job has ended, every delivery too, and providers and streams have nothing left to say.

        Where nothing but copies is left, and no event waits for one, the clocks go ahead to their next tries.
        """
        loop = asyncio.get_running_loop()
        began_s = changed_s = loop.time()
        waiting, calm = ["nothing was read"], 0
        while calm < 2 and loop.time() < min(changed_s + PATIENCE_S, began_s + PATIENCE_MAX_S):
            before = waiting
            try:
                waiting = await self._waiting(client)
            except (httpx.HTTPError, KeyError) as error:
                waiting = [f"relay could not be asked: {error!r}"]
            if waiting != before:
                changed_s = loop.time()
            if self._next_copy_at is not None:
                injector.hasten(max(0.0, self._next_copy_at - time.time() - injector.ahead_s))
            calm = 0 if waiting else calm + 1
            self.waited.append(f"{loop.time() - began_s:.1f} s: {waiting[:4]}")
            await asyncio.sleep(PAUSE_S)
        self.run.unfinished += [f"after {loop.time() - began_s:.0f} s: {one}" for one in waiting]

    async def _waiting(self, client: httpx.AsyncClient) -> list[str]:
        """Return what is not at its end; an operator has every endpoint probed that is held."""
        self._next_copy_at = None
        found = []
        for path in ("/v1/jobs?status=open&limit=100", "/v1/deliveries?status=pending&limit=100"):
            answer = await client.get(path)
            self._note(path, answer)
            found += [f"{one['object']} {one['id']} {one['status']}" for one in answer.json()["data"]]
        endpoints = (await client.get("/v1/endpoints?limit=100")).json()["data"]
        for one in endpoints:
            path = f"/v1/endpoints/{one['id']}"
            if one["status"] == "held":
                self._note("probe", await client.post(f"{path}/probes"))
            if one["status"] == "disabled":
                self._note("enable", await client.patch(path, json={"status": "active"}))
            batches = (await client.get(f"{path}/redeliveries")).json()["data"]
            if self.plan.database == "sqlite":  # on PostgreSQL a batch ends a minute after everything has gone out
                found += [f"batch {one['id']} {one['status']}" for one in batches if one["status"] != "finished"]
        if self.world._running:
            found.append("a provider still calls back")
        return found or self._missing(await self._database.stored())

    def _missing(self, stored: Stored) -> list[str]:
        """Return which copies are not at their end, and what a batch of redeliveries may still send."""
        copying = [f"copy {one.number} of {one.job}: {one.state} {one.error}" for one in stored.copies if one.waits]
        had = {(one.endpoint, one.event) for one in stored.deliveries if one.state == "delivered"}
        lacking = [
            f"{event.id} for {endpoint}"
            for endpoint in self._standing
            for event in stored.events
            if (endpoint, event.id) not in had
        ]
        due = [one.due_at / 1000 for one in stored.copies if one.due_at is not None]
        calm = not any(one.held_until or one.leased_by for one in stored.copies)
        self._next_copy_at = max(due) if due and calm and not lacking else None
        return copying + lacking

    async def _collect(self, injector: Injector) -> None:
        """Complete the manifest."""
        run = self.run
        run.ended_s = time.time() + injector.ahead_s
        run.stored = await self._database.stored()
        run.callbacks = [
            Call(self._provider(one.url), one.body) for one in self.world.callbacks if one.status_code == 200
        ]
        for one in self.world.callbacks:
            if one.status_code is not None:
                run.answers.append(Answer("callback", one.status_code, "unknown"))
        run.created = dict(Counter(_marker(job.body) for job in self.world.jobs.values() if not job.owner))
        for stand_in in self._stand_ins.values():
            if isinstance(stand_in, StableStudio | X402Org):
                run.ledger |= stand_in.till.ledger
        await self._collect_copies()
        ids = {urlsplit(one.url).path: one.id for one in run.stored.endpoints}
        run.notifications = self.subscriber.notifications(ids)
        run.endpoints = {
            one.id: (tuple(self._secrets.get(urlsplit(one.url).path, [SECRET])), one.job)
            for one in run.stored.endpoints
        }

    async def _collect_copies(self) -> None:
        """Complete what the manifest has of results and their copies."""
        run, contents = self.run, await asyncio.to_thread(self._bucket.contents)
        run.archive_wait_s = ARCHIVE_WAIT_S
        run.objects, run.unfinished_objects = contents.objects, contents.unfinished
        for job in run.stored.jobs:
            if job.marker in self._planned:
                result = self._planned[job.marker].result
                size = len(body_of(job.marker, result.size))
                run.results[job.id] = StoredObject(digest_of(job.marker, result.size), size)
                run.result_faults[job.id] = result.fault

    def _provider(self, url: str) -> str:
        """Return the provider that a callback URL belongs to."""
        return url.partition("/callbacks/")[2].partition("/")[0]


def _marker(body: dict[str, Any]) -> str:
    """Return the marker in a submission's prompt, wherever its provider keeps that."""
    found = re.search(r"chaos-\d+-", msgspec.json.encode(body).decode())
    return found[0] if found else "?"


async def play(
    plan: Plan, database: Database, folder: Path, program: tuple[str, ...] = ("tests.chaos.steered",)
) -> Outcome:
    """Return what a plan showed of a program: relay, unless it is another module with its first arguments."""
    try:
        return await Scene(plan, database, folder, program).play()
    finally:
        if isinstance(database, SQLiteFile):
            database.release()
