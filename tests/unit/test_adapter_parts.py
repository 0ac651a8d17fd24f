"""What adapters share to build requests: models in paths, queries, relay's own ids, and where published keys are."""

import pytest

from relay.lifecycle import operator_actions
from relay.model.job import Disposition, Job, JobState
from relay.providers.base import (
    MODEL_MAX,
    MODEL_SEGMENTS_MAX,
    find_callback_field,
    keys_at,
    path_model,
    submission_id,
    submitted_job,
    with_query,
    without_model,
)
from relay.settings import parse_base_url
from tests.support.rows import rows


def job(**fields: object) -> Job:
    """Return a job that was submitted."""
    given = {
        "id": "job_1",
        "project_id": "prj_1",
        "provider": "evolink",
        "state": JobState.PENDING,
        "created_at": 1,
        "updated_at": 1,
        "deadline_at": 9,
        "submission_started_at": 1,
    }
    return Job(**given | fields)  # type: ignore[arg-type]


@rows("model", ["a", "A.b_c-1/d", "/".join(["a"] * MODEL_SEGMENTS_MAX), "m" * MODEL_MAX, "bytedance/seedance-2.0/x"])
def test_a_model_of_plain_segments_goes_into_the_path(model: str) -> None:
    """Return the model, up to six segments and 200 characters, and leave it out of the body."""
    body: dict[str, object] = {"model": model, "prompt": "a"}
    assert path_model(body) == model
    assert without_model(body) == {"prompt": "a"}
    assert body["model"] == model


@rows(
    "model",
    [
        *("", "/a", "a/", "a//b", "..", "a/../b", "a/.b", "-a", "a b", "a?b", "a#b", "a%2fb", "a\\b", "a:b", "\u00e9"),
        *("/".join(["a"] * (MODEL_SEGMENTS_MAX + 1)), "m" * (MODEL_MAX + 1), "a\n", None, 5, ["a"]),
    ],
)
def test_a_model_that_would_change_the_path_is_refused(model: object) -> None:
    """Return no model for a name that leads elsewhere, is too long, or is no text."""
    assert path_model({"model": model}) == ""
    assert path_model(model) == ""


def test_a_query_holds_a_callback_url_escaped() -> None:
    """Escape the whole value, leave out what is None, and continue a query that is there."""
    url = "https://r.example/callbacks/x/a?b&c=d#e"
    assert with_query("/m", hook=url) == "/m?hook=https%3A%2F%2Fr.example%2Fcallbacks%2Fx%2Fa%3Fb%26c%3Dd%23e"
    assert with_query("/m?a=1", hook="b", other=None) == "/m?a=1&hook=b"
    assert with_query("/m", hook=None) == "/m"


@rows("place", ["", "metadata", "inputs", "input", "options"])
def test_a_callback_field_is_found_wherever_providers_have_one(place: str) -> None:
    """Find it at the top level and in each object that a provider has it in, and the query's name at the top level."""
    fields = {"callback_url": "https://example.com"}
    assert find_callback_field({place: fields} if place else fields) == ".".join(filter(None, (place, "callback_url")))
    assert find_callback_field({"fal_thing": 1}, "fal_thing") == "fal_thing"
    assert find_callback_field({"fal_thing": 1}) is None


def test_each_submission_of_a_job_has_its_own_id() -> None:
    """Return the job's id, and another one if the job has ended before, since a provider may accept an id once."""
    assert submission_id(job()) == "job_1"
    again = job(last_final_event="evt_1", sequence=3)
    assert submission_id(again) == "job_1_3"
    assert submitted_job(again).job_id == "job_1_3"


def test_published_keys_are_at_the_configured_origin() -> None:
    """Read a path at the provider's origin, a URL at its own, and both at the origin that replaces them."""
    api, mine, url = "https://api.example.com", "http://127.0.0.1:9/fal", "https://keys.example.com/jwks.json"
    assert keys_at("/jwks.json", api, None) == (api, "/jwks.json")
    assert keys_at(url, api, None) == ("https://keys.example.com", "/jwks.json")
    assert keys_at("/jwks.json", api, mine) == (mine, "/jwks.json")
    assert keys_at(url, api, mine) == (mine, "/jwks.json")


def test_a_base_url_may_have_a_path() -> None:
    """Keep a gateway's path without its last slash, and refuse a query, a fragment and credentials."""
    assert parse_base_url("https://gateway.example.com/v1/acme/ ") == "https://gateway.example.com/v1/acme"
    assert parse_base_url("http://127.0.0.1:9") == "http://127.0.0.1:9"
    for wrong in ("https://a.example/?b=c", "https://a.example/#b", "https://u:p@a.example", "ftp://a.example", "a"):
        with pytest.raises(ValueError, match="must be a URL such as"):
            parse_base_url(wrong)


@rows(("accepted", "disposition"), [(True, Disposition.RECORDED), (False, Disposition.STALE)])
def test_a_cancellation_that_the_provider_reported_first_is_recorded(accepted: bool, disposition: Disposition) -> None:
    """Record a cancellation that the provider took and reported before its answer, and no other one of an ended job."""
    before = job(state=JobState.CANCELED)
    after = operator_actions.canceled(before, confirmed=False, now_ms=5, accepted=accepted)
    assert (after.disposition, after.announce, after.job) == (disposition, None, before)
