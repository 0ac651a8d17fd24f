"""relay's metrics, as a Prometheus scrape shows them."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.metrics import METRICS, UNKNOWN_STATUSES_MAX, Metrics
from relay.sandbox.faults import Faults
from tests.support.calling_back import post
from tests.support.running import KEY, Running, relay

pytestmark = pytest.mark.anyio


async def scraped(running: Running) -> dict[str, float]:
    """Return each sample by `name{labels}`."""
    answer = await running.client.get("/metrics", headers={"authorization": ""})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {sample.name + str(sorted(sample.labels.values())): sample.value for sample in samples}


async def test_a_scrape_shows_what_ended_which_jobs(tmp_path: Path) -> None:
    """Count callbacks, checks, submissions, events, attempts and ends by their source, each with its provider."""
    async with relay(tmp_path) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: len(sink.received) == 2)
        await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 2)
        running.world.next_faults.append(Faults(lost=True))
        lost = await running.submit("kinovi")
        await running.world.finish(lost["provider_job_id"])
        await running.client.post(f"/v1/jobs/{lost['id']}/status-checks")
        await running.client.post("/callbacks/evolink/wrong")
        await running.client.post("/callbacks/unknown/wrong")
        counted = await scraped(running)
        assert {
            "relay_callbacks_total['evolink', 'recorded']": 1,
            "relay_callbacks_refused_total['evolink']": 1,
            "relay_callbacks_refused_total['unknown']": 1,
            "relay_submissions_total['accepted', 'evolink']": 1,
            "relay_status_checks_total['evolink', 'status']": 1,
            "relay_jobs_finished_total['callback', 'evolink', 'fetch', 'succeeded']": 1,
            "relay_jobs_finished_total['fetch', 'kinovi', 'status_check', 'succeeded']": 1,
            "relay_events_total['job.succeeded']": 2,
            "relay_attempts_total['ok']": 2,
        }.items() <= counted.items()


async def test_an_unknown_status_is_counted_each_time_and_logged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log one warning for two jobs with the same unpublished status."""
    async with relay(tmp_path) as running:
        for _ in range(2):
            job = await running.submit()
            await post(running, b'{"id":"%s","status":"pondering"}' % job["provider_job_id"].encode())
        assert (await scraped(running))["relay_unknown_words_total['evolink']"] == 2
        assert capsys.readouterr().err.count("provider.unknown_status") == 1


async def test_a_refused_key_is_reported_once_for_its_provider(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log one error for many refused checks, and a line when the key is accepted again."""
    async with relay(tmp_path) as running:
        for _ in range(3):
            running.world.next_faults.append(Faults(lost=True, check_status=401, check_times=1))
        for job in [await running.submit() for _ in range(3)]:
            await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        assert (await scraped(running))["relay_provider_key_refused['evolink']"] == 1
        assert capsys.readouterr().err.count("provider.key_refused") == 1
        again = (await running.get("/v1/jobs"))["data"][0]
        await running.client.post(f"/v1/jobs/{again['id']}/status-checks")
        assert (await scraped(running))["relay_provider_key_refused['evolink']"] == 0
        assert capsys.readouterr().err.count("provider.key_accepted") == 1


def test_every_metric_is_named_also_before_it_counts_anything() -> None:
    """Show every metric before the first job, with names in the format's form."""
    families = {family.name: family for family in text_string_to_metric_families(Metrics().exposition().decode())}
    assert {metric.name for metric in METRICS} == set(families)
    assert {name: families[name].type for name in families} == {metric.name: metric.kind for metric in METRICS}


def test_memory_of_unknown_statuses_is_bounded() -> None:
    """Bound the memory for unknown statuses and the warnings about them."""
    metrics = Metrics()
    news = [metrics.unknown_status("evolink", str(number)) for number in range(3 * UNKNOWN_STATUSES_MAX)]
    assert sum(news) == UNKNOWN_STATUSES_MAX


async def test_metrics_may_need_a_key(tmp_path: Path) -> None:
    """Answer 401 without RELAY_METRICS_KEY, with another key and with an API key, if it is set."""
    async with relay(tmp_path, RELAY_METRICS_KEY="a-key-of-prometheus") as running:
        for given, status in (("a-key-of-prometheus", 200), ("a-key-of-prometheuS", 401), (KEY, 401)):
            answer = await running.client.get("/metrics", headers={"authorization": f"Bearer {given}"})
            assert answer.status_code == status
        assert (await running.client.get("/metrics", headers={"authorization": ""})).status_code == 401
