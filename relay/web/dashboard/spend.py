"""The page of what was spent: jobs that wait for an approval, caps, sums, the ledger and its receipts."""

from typing import Any, Final

from starlette.responses import Response

from relay.web.dashboard.in_process import ApiCall
from relay.web.dashboard.view import Form, PageRoute, Verb, View, text_of

Json = dict[str, Any]
PAGE: Final = 50
STATES: Final = ("reserved", "paid", "unknown", "lost", "void")


async def index(view: View) -> Response:
    """Show the project's spending; an operator who asks for `all=1` sees that of all projects."""
    me = await view.get("/v1/whoami")
    every = "true" if me["operator"] and view.query("all") == "1" else None
    after, _ = view.times()
    spent = await view.get("/v1/spend", {"all": every, "since": after})
    waiting = (await view.get("/v1/jobs", {"reason": "awaiting_approval", "limit": str(PAGE)}))["data"]
    query = _filters(view, every) | {"limit": str(PAGE), "cursor": view.query("cursor") or None}
    ledger = await view.get("/v1/payments", query)
    return await view.page(
        "spend.html",
        me=me,
        every=every,
        spent=spent,
        waiting=waiting,
        payments=ledger["data"],
        next_cursor=ledger["next_cursor"],
        states=STATES,
    )


async def receipts(view: View) -> Response:
    """Send the ledger of the page's filters as CSV."""
    every = "true" if view.query("all") == "1" else None
    return await view.answer(ApiCall(route="GET /v1/receipts", path={}, query=_filters(view, every)))


def _filters(view: View, every: str | None) -> dict[str, str | None]:
    """Return the ledger's filters of the page's query."""
    after, before = view.times()
    return {"state": view.query("state") or None, "created_after": after, "created_before": before, "all": every}


def _decision(form: Form) -> Json:
    """Return the decision of a form: the button that was pressed, and the reason if one was typed."""
    reason = text_of(form, "reason")
    return {"approve": text_of(form, "approve") == "true"} | ({"reason": reason} if reason else {})


def _decided(answer: Json, _form: Form) -> str:
    """Return what became of a job."""
    approved = answer["approval"]["approved"]
    return f"The job `{answer['id']}` is {'approved and' if approved else 'not approved:'} now `{answer['status']}`."


PAGES: Final = (PageRoute("/spend", index), PageRoute("/spend/receipts", receipts))
VERBS: Final = (
    Verb(
        path="/spend/{id}/approvals",
        route="POST /v1/jobs/{id}/approvals",
        title="Approval",
        body=_decision,
        done=_decided,
    ),
)
