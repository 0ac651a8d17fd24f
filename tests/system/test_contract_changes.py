"""The contract: `docs/openapi.json` is what relay answers, and no change breaks what the last release promised."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.providers import PROVIDERS
from relay.web import openapi
from relay.web.routes import API
from tests.support.contract_changes import CONTRACT, Document, breaking, released
from tests.support.oracles import ROOT


def document() -> Document:
    """Return the contract of this checkout as JSON reads it."""
    found: Document = json.loads((ROOT / CONTRACT).read_text())
    return found


def test_the_committed_contract_is_the_present_one() -> None:
    """Commit docs/openapi.json with each change of the API, so that the change is seen."""
    made = json.loads(openapi.encoded(openapi.document(API, PROVIDERS, "/")))
    assert document() == made, "run: ./deploy/dev openapi"


def test_nothing_that_was_released_is_broken(tmp_path: Path) -> None:
    """Keep every route, parameter, field and notification of the last tagged release."""
    old = released()
    if old is not None:
        assert breaking(old, document(), tmp_path) == []


def remove_a_field(new: Document) -> None:
    """Answer jobs without the time of their creation."""
    del new["components"]["schemas"]["Job"]["properties"]["created_at"]
    new["components"]["schemas"]["Job"]["required"].remove("created_at")


def make_a_field_optional(new: Document) -> None:
    """Leave the time of a job's creation out now and then."""
    new["components"]["schemas"]["Job"]["required"].remove("created_at")


def remove_a_route(new: Document) -> None:
    """Have no route for what was spent."""
    del new["paths"]["/v1/spend"]


def remove_a_parameter(new: Document) -> None:
    """Refuse a filter that lists had."""
    parameters = new["paths"]["/v1/events"]["get"]["parameters"]
    parameters[:] = [parameter for parameter in parameters if parameter["name"] != "undelivered"]


def remove_a_notification(new: Document) -> None:
    """Send one type of notification no more."""
    del new["webhooks"]["job.succeeded"]


def remove_a_field_of_notifications(new: Document) -> None:
    """Send notifications without the project."""
    del new["components"]["schemas"]["Notification"]["properties"]["project"]
    new["components"]["schemas"]["Notification"]["required"].remove("project")


def remove_a_header_of_notifications(new: Document) -> None:
    """Send one type of notification without the number of the attempt."""
    operation = new["webhooks"]["job.failed"]["post"]
    operation["parameters"] = [header for header in operation["parameters"] if header["name"] != "relay-attempt"]


PLANTED: dict[Callable[[Document], None], str] = {
    remove_a_field: "created_at",
    make_a_field_optional: "created_at",
    remove_a_route: "/v1/spend",
    remove_a_parameter: "undelivered",
    remove_a_notification: "job.succeeded",
    remove_a_field_of_notifications: "project",
    remove_a_header_of_notifications: "relay-attempt",
}


@pytest.mark.parametrize("change", PLANTED, ids=lambda change: change.__name__)
def test_a_removal_is_found(change: Callable[[Document], None], tmp_path: Path) -> None:
    """Find each kind of removal, and name what is gone."""
    old = document()
    new = copy.deepcopy(old)
    change(new)
    found = breaking(old, new, tmp_path)
    assert found
    assert any(PLANTED[change] in line for line in found)


def test_an_addition_breaks_nothing(tmp_path: Path) -> None:
    """Accept a new field of an answer and a new optional parameter."""
    old = document()
    new = copy.deepcopy(old)
    new["components"]["schemas"]["Job"]["properties"]["planted"] = {"type": "string"}
    new["components"]["schemas"]["Job"]["required"].append("planted")
    new["paths"]["/v1/events"]["get"]["parameters"].append(
        {"name": "planted", "in": "query", "schema": {"type": "string"}}
    )
    assert breaking(old, new, tmp_path) == []
