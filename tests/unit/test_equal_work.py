"""Refusals cost the same work, whichever part of a secret is wrong: what is called is compared, not the time.

`hmac.compare_digest` takes the same time for texts of one length, so what is left is what is called around it.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

from relay.model import ids
from relay.security import callback_signatures, signatures
from relay.security.callback_tokens import CallbackTokens
from relay.security.signed_cookies import SignedCookies
from relay.web.dashboard.session import Session, csrf_matches
from tests.support.provider_cases import NOW_MS
from tests.support.rows import rows
from tests.unit.test_callback_signatures import NAMED

KEYS: Final = ["an old key that is long enough to sign", "a new key that is long enough to sign"]
TOKENS: Final = CallbackTokens(KEYS, "production")
TOKEN: Final = TOKENS.make("evolink", ids.new_id(ids.JOB), NOW_MS + 1000)
SECRET: Final = "whsec_" + "A" * 32
BODY: Final = b'{"status":"completed"}'


def calls(work: Callable[[], object]) -> list[str]:
    """Return the functions that some work calls, in order, those in C included."""
    made: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        """Keep the name of what is called."""
        if event == "call":
            made.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
        elif event == "c_call":
            made.append(argument.__qualname__)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


def changed(text: str, at: int) -> str:
    """Return the text with another letter at a place; the last one stays one that a token may end with."""
    other = "M" if text[at] != "M" else "Q"
    return text[:at] + other + text[at:][1:]


FORGED: Final = {
    "its first letter": changed(TOKEN, 0),
    "its job": changed(TOKEN, 25),
    "the first letter of its MAC": changed(TOKEN, 36),
    "the last letter of its MAC": changed(TOKEN, 78),
    "another environment's": CallbackTokens(["another key, which is long enough"], "staging").make(
        "evolink", ids.new_id(ids.JOB), NOW_MS
    ),
    "cut": TOKEN[:-1],
    "longer": TOKEN + "A",
    "empty": "",
    "a padding": TOKEN[:-1] + "=",
    "letters of no token": "é" * 79,
    "NUL": "\0" * 79,
}


@rows("wrong", FORGED)
def test_each_wrong_token_costs_the_same_work(wrong: str) -> None:
    """Make the same calls for every token that relay did not make, and compare two MACs for each key."""
    TOKENS.verify("evolink", TOKEN, NOW_MS)
    forged = calls(partial(TOKENS.verify, "evolink", changed(TOKEN, 40), NOW_MS))
    assert TOKENS.verify("evolink", FORGED[wrong], NOW_MS) is None
    assert calls(partial(TOKENS.verify, "evolink", FORGED[wrong], NOW_MS)) == forged
    assert forged.count("compare_digest") == len(KEYS)


def test_another_providers_token_costs_the_same_work() -> None:
    """Make the same calls for a token of another provider as for a forged one."""
    TOKENS.verify("kinovi", TOKEN, NOW_MS)
    forged = calls(partial(TOKENS.verify, "kinovi", changed(TOKEN, 40), NOW_MS))
    assert calls(partial(TOKENS.verify, "kinovi", TOKEN, NOW_MS)) == forged


def test_each_wrong_signature_costs_the_same_work() -> None:
    """Make the same calls wherever a signature differs, and compare by `compare_digest` alone."""
    good = signatures.sign([SECRET], "msg_1", NOW_MS // 1000, BODY)

    def verified(signature: str) -> list[str]:
        """Return the calls of a verification, which must fail."""
        headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW_MS // 1000), "webhook-signature": signature}

        def work() -> None:
            """Verify."""
            try:
                signatures.verify(SECRET, headers, BODY, NOW_MS // 1000)
            except signatures.SignatureInvalid:
                return
            raise AssertionError("a wrong signature is valid")

        work()
        return calls(work)

    wrong = [verified(changed(good, at)) for at in (3, 4, 20, len(good) - 2)]
    assert wrong[0].count("compare_digest") == 1
    assert all(one == wrong[0] for one in wrong)
    assert verified(good[:-1]) == verified("v1,") == wrong[0]


@rows("name", NAMED)
def test_each_wrong_signature_of_a_provider_costs_the_same_work(name: str) -> None:
    """Make the same calls wherever a provider's signature differs, and compare by `compare_digest` alone."""
    vector = NAMED[name]
    good = vector.headers[vector.signature_header]

    def verified(signature: str) -> list[str]:
        """Return the calls of a verification, which must fail."""
        headers = {**vector.headers, vector.signature_header: signature}

        def work() -> None:
            """Verify."""
            with contextlib.suppress(signatures.SignatureInvalid):
                callback_signatures.verify(vector.scheme, (vector.secret,), headers, vector.body, vector.at_s)
                raise AssertionError("a wrong signature is valid")

        work()
        return calls(work)

    wrong = [verified(other_digit(good, at)) for at in (len(good) - 40, len(good) - 20, len(good) - 2)]
    assert wrong[0].count("compare_digest") == 1
    assert all(one == wrong[0] for one in wrong)


def other_digit(text: str, at: int) -> str:
    """Return the text with another digit at a place, which is one of hexadecimal and of base64."""
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def test_each_wrong_value_of_a_form_costs_the_same_work() -> None:
    """Compare the value that a form sends back by `compare_digest` alone, and so the mark of a key."""
    session = Session(key_id="k", project_id="p", began_at=0, seen_at=0, csrf="abcdefgh")
    wrong = [calls(partial(csrf_matches, session, given)) for given in ("xbcdefgh", "abcdefgx", "", "é")]
    assert all(one == wrong[0] for one in wrong)
    assert wrong[0].count("compare_digest") == 1
    cookies = SignedCookies(KEYS, "production")
    mark = cookies.mark("a key")
    marks = [calls(partial(cookies.marked, "a key", changed(mark, at))) for at in (0, 30)]
    assert marks[0] == marks[1]
    assert marks[0].count("compare_digest") == len(KEYS)
