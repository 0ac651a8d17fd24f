"""The oracles themselves: they accept what the standard's own library signed, and refuse everything else."""

from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks

from tests.support.oracles import Library, NodeVerify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = '{"type":"job.succeeded","data":{"prompt":"a slow push in, äöü ☂"}}'.encode()

libraries = pytest.mark.parametrize("library", ["standardwebhooks", "svix"])


def signed(body: bytes, age_s: int = 0) -> dict[str, str]:
    """Return the three headers for a body, made by the Python library of the standard."""
    when = datetime.now(UTC) - timedelta(seconds=age_s)
    signature = standardwebhooks.Webhook(SECRET).sign("evt_1", when, body.decode())
    return {"webhook-id": "evt_1", "webhook-timestamp": str(int(when.timestamp())), "webhook-signature": signature}


@libraries
def test_node_accepts_what_the_standard_signed(node_verify: NodeVerify, library: Library) -> None:
    """A body that the Python library signed is accepted by the Node library, byte for byte."""
    assert node_verify(SECRET, signed(BODY), BODY, library)


@libraries
def test_node_refuses_a_changed_body(node_verify: NodeVerify, library: Library) -> None:
    """One changed byte is refused."""
    assert not node_verify(SECRET, signed(BODY), BODY.replace(b"slow", b"fast"), library)


@libraries
def test_node_refuses_another_secret(node_verify: NodeVerify, library: Library) -> None:
    """A signature made with another secret is refused."""
    assert not node_verify(OTHER_SECRET, signed(BODY), BODY, library)


@libraries
def test_node_refuses_an_old_timestamp(node_verify: NodeVerify, library: Library) -> None:
    """A notification of an hour ago is refused, so each attempt has to be signed anew."""
    assert not node_verify(SECRET, signed(BODY, age_s=3600), BODY, library)


@libraries
def test_node_says_when_it_was_asked_wrongly(node_verify: NodeVerify, library: Library) -> None:
    """A secret that is none is no refusal: the oracle fails aloud and does not count as an answer."""
    with pytest.raises(AssertionError, match="no answer"):
        node_verify("", signed(BODY), BODY, library)


def test_python_libraries_agree() -> None:
    """Both Python libraries accept what one of them signed, and refuse a changed body."""
    import svix  # noqa: PLC0415 - not every worker needs what takes so long to load

    standardwebhooks.Webhook(SECRET).verify(BODY, signed(BODY))
    svix.Webhook(SECRET).verify(BODY, signed(BODY))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY + b" ", signed(BODY))
    with pytest.raises(svix.WebhookVerificationError):
        svix.Webhook(SECRET).verify(BODY + b" ", signed(BODY))
