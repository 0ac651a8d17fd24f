"""Standard Webhooks signatures: the published vector, the official libraries in both directions, and every refusal."""

import asyncio
import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from relay.security import signatures
from tests.support.oracles import Library, NodeVerify
from tests.support.rows import rows

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"webhook-id": ID, "webhook-timestamp": str(TIMESTAMP), "webhook-signature": SIGNATURE}

visible = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != ".")
event_ids = st.text(visible, min_size=1, max_size=64)
bodies = st.text(max_size=200).map(str.encode)  # the official libraries read a body as UTF-8
secrets = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
Oracle = type[standardwebhooks.Webhook]


@pytest.fixture(scope="module", params=["standardwebhooks", "svix"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """Return an official library's class, which is loaded here: not every worker needs what takes so long."""
    found: Oracle = import_module(request.param).Webhook
    return found


def headers_of(event_id: str, timestamp_s: int, signature: str) -> dict[str, str]:
    """Return the three headers of a notification."""
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": signature}


def test_signs_the_published_vector() -> None:
    """The vector that is published for the standard comes out letter for letter."""
    assert signatures.sign([SECRET], ID, TIMESTAMP, BODY) == SIGNATURE


def test_verifies_the_published_vector() -> None:
    """The published vector is proven, in whatever case the header names come."""
    signatures.verify(SECRET, HEADERS, BODY, TIMESTAMP)
    signatures.verify(SECRET, {name.title(): value for name, value in HEADERS.items()}, BODY, TIMESTAMP)


@given(st.lists(secrets, min_size=1, max_size=3), event_ids, bodies)
def test_libraries_accept_what_relay_signs(oracle: Oracle, live: list[str], event_id: str, body: bytes) -> None:
    """A receiver that holds any one of the live secrets accepts, so that a rotation needs no appointment."""
    now_s = int(time.time())
    headers = headers_of(event_id, now_s, signatures.sign(live, event_id, now_s, body))
    for secret in live:
        if oracle is standardwebhooks.Webhook:
            standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)
        else:
            oracle(secret).verify(body, headers)


@given(secrets, event_ids, bodies, st.integers(0, 4_000_000_000))
def test_relay_accepts_what_libraries_sign(
    oracle: Oracle, secret: str, event_id: str, body: bytes, timestamp_s: int
) -> None:
    """What an official library signed is proven."""
    signature = oracle(secret).sign(event_id, datetime.fromtimestamp(timestamp_s, UTC), body.decode())
    signatures.verify(secret, headers_of(event_id, timestamp_s, signature), body, timestamp_s)


@pytest.mark.parametrize("library", ["standardwebhooks", "svix"])
def test_node_libraries_accept_what_relay_signs(node_verify: NodeVerify, library: Library) -> None:
    """The official Node libraries accept both secrets of a rotation, and text that is not ASCII."""
    now_s, live = int(time.time()), [signatures.new_secret(), signatures.new_secret()]
    body = '{"prompt":"äöü ☂ 🎬"}'.encode()
    headers = headers_of("evt_1", now_s, signatures.sign(live, "evt_1", now_s, body))
    assert all(node_verify(secret, headers, body, library) for secret in live)


def test_new_secrets_are_good_and_differ() -> None:
    """A new secret holds 32 bytes, passes its own check, and is never the same twice."""
    made = {signatures.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(signatures.check_secret(secret)) for secret in made} == {32}


@rows(
    ("secret", "said"),
    [
        ("", "begin with whsec_"),
        (SECRET.removeprefix("whsec_"), "begin with whsec_"),
        ("WHSEC_" + SECRET.removeprefix("whsec_"), "begin with whsec_"),
        ("whsk_" + "A" * 44, "begin with whsec_"),
        ("whsec_not base64!", "base64"),
        ("whsec_" + "ä" * 32, "base64"),
        ("whsec_" + "\ud800" * 32, "base64"),
        ("whsec_" + base64.b64encode(bytes(range(32))).decode().rstrip("="), "padded"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 30).decode(), "base64"),
        ("whsec_" + base64.b64encode(b"\0" * 25).decode().replace("AA==", "AB=="), "base64"),
        (SECRET + "\n", "base64"),
        ("whsec_", "24 to 64 bytes, not 0"),
        ("whsec_" + base64.b64encode(b"k" * 23).decode(), "24 to 64 bytes, not 23"),
        ("whsec_" + base64.b64encode(b"k" * 65).decode(), "24 to 64 bytes, not 65"),
    ],
)
def test_check_secret_names_what_is_wrong(secret: str, said: str) -> None:
    """A malformed secret is refused with the rule that it breaks."""
    with pytest.raises(ValueError, match=said):
        signatures.check_secret(secret)


@given(st.one_of(st.text(), st.text().map(lambda text: "whsec_" + text)))
def test_check_secret_raises_nothing_else(text: str) -> None:
    """Any text is a key of 24 to 64 bytes in its only spelling, or a ValueError that does not repeat a long text."""
    try:
        key = signatures.check_secret(text)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
        assert 24 <= len(key) <= 64
        assert text == "whsec_" + base64.b64encode(key).decode()
    assert len(text) < 16 or text.removeprefix("whsec_") not in said


def test_sign_refuses_to_send_unsigned() -> None:
    """No secret is an error, and not an empty header."""
    with pytest.raises(ValueError, match="nothing to sign with"):
        signatures.sign([], ID, TIMESTAMP, BODY)


@rows("event_id", ["", "evt.1", "evt 1", "evt\n", "evt_ä", "e" * 257])
def test_ids_are_plain(event_id: str) -> None:
    """An id that could be read as more than an id is neither signed nor accepted."""
    with pytest.raises(ValueError, match="an id is"):
        signatures.sign([SECRET], event_id, TIMESTAMP, BODY)
    with pytest.raises(signatures.SignatureInvalid, match="webhook-id"):
        signatures.verify(SECRET, HEADERS | {"webhook-id": event_id}, BODY, TIMESTAMP)


def test_a_full_stop_cannot_move_the_borders() -> None:
    """A MAC over `a.1614265330.2.x` proves neither the id `a.1614265330` nor, for another time, the id `a`."""
    oracle = standardwebhooks.Webhook(SECRET)
    signature = oracle.sign(f"a.{TIMESTAMP}", datetime.fromtimestamp(2, UTC), "x")
    with pytest.raises(signatures.SignatureInvalid):
        signatures.verify(SECRET, headers_of(f"a.{TIMESTAMP}", 2, signature), b"x", 2)


@rows("name", HEADERS)
def test_every_header_is_needed(name: str) -> None:
    """One missing header is a refusal that names it."""
    with pytest.raises(signatures.SignatureInvalid, match=name):
        signatures.verify(SECRET, {key: value for key, value in HEADERS.items() if key != name}, BODY, TIMESTAMP)


@rows(
    "timestamp",
    [
        *("", "nan", "inf", "-1", "+1614265330", " 1614265330", "1614265330\n", "1614265330.0", "16_14265330", "1e9"),
        *("١٦١٤٢٦٥٣٣٠", "²", "1" * 13, "0x60", "\ud800"),
    ],
)
def test_timestamps_are_digits(timestamp: str) -> None:
    """A timestamp that `int` or `float` might read, but that is not 1 to 12 ASCII digits, is malformed."""
    with pytest.raises(signatures.SignatureInvalid, match=r"webhook-timestamp is missing or malformed"):
        signatures.verify(SECRET, HEADERS | {"webhook-timestamp": timestamp}, BODY, TIMESTAMP)


@rows("age_s", [-300, 300])
def test_the_window_has_two_sides(age_s: int) -> None:
    """Exactly 300 s either way is in time, a second more is not, and the window can be set."""
    signatures.verify(SECRET, HEADERS, BODY, TIMESTAMP + age_s)
    late_s = TIMESTAMP + age_s + (1 if age_s > 0 else -1)
    with pytest.raises(signatures.SignatureInvalid, match="300 s"):
        signatures.verify(SECRET, HEADERS, BODY, late_s)
    signatures.verify(SECRET, HEADERS, BODY, late_s, tolerance_s=301)


def test_one_good_signature_among_others_is_enough() -> None:
    """Signatures of other versions and other keys are passed over, up to a limit."""
    others = [
        "v1a,AAAA",
        "v1",
        "",
        "v2," + SIGNATURE[3:],
        signatures.sign([signatures.new_secret()], ID, TIMESTAMP, BODY),
    ]
    signatures.verify(SECRET, HEADERS | {"webhook-signature": " ".join([*others, SIGNATURE])}, BODY, TIMESTAMP)
    with pytest.raises(signatures.SignatureInvalid):
        signatures.verify(SECRET, HEADERS | {"webhook-signature": "x " * 16 + SIGNATURE}, BODY, TIMESTAMP)


@given(st.integers(0, len(BODY) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    """One changed bit of the body is refused."""
    changed = bytearray(BODY)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(signatures.SignatureInvalid, match="is valid"):
        signatures.verify(SECRET, HEADERS, bytes(changed), TIMESTAMP)


@rows(
    "signature",
    [
        *(
            "v1a," + SIGNATURE[3:],
            "V1," + SIGNATURE[3:],
            SIGNATURE[3:],
            SIGNATURE[:-1],
            SIGNATURE.replace("OE=", "OF="),
        ),
        *(SIGNATURE.replace(",", ", "), "v1,é" + SIGNATURE[4:], "v1,\ud800", "v1,", ","),
    ],
)
def test_near_signatures_are_refused(signature: str) -> None:
    """Another version, another spelling and text that is not ASCII are refused, not an error."""
    with pytest.raises(signatures.SignatureInvalid, match="is valid"):
        signatures.verify(SECRET, HEADERS | {"webhook-signature": signature}, BODY, TIMESTAMP)


wild = st.text(st.characters(), max_size=40)


@given(st.dictionaries(st.sampled_from(list(HEADERS)) | wild, st.sampled_from(list(HEADERS.values())) | wild))
def test_any_headers_are_proven_or_refused(headers: dict[str, str]) -> None:
    """Whatever the headers hold, only the right ones pass, and nothing but SignatureInvalid is raised."""
    named = {name.lower(): value for name, value in headers.items()}
    try:
        signatures.verify(SECRET, headers, BODY, TIMESTAMP)
        proven = True
    except signatures.SignatureInvalid:
        proven = False
    assert proven == (HEADERS.items() <= named.items())


def test_a_malformed_secret_is_the_operators_mistake() -> None:
    """A secret that is none is a ValueError, so that a sender is not blamed for it."""
    with pytest.raises(ValueError, match="whsec_"):
        signatures.verify("secret", HEADERS, BODY, TIMESTAMP)


def test_a_signature_by_the_project_key_is_made_once_for_4096_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the signature of an event among its endpoints within a second; forget the oldest of 4,097, and no other."""
    made: list[tuple[str, int]] = []
    signs = signatures.sign_v1a

    def counted(sign_bytes: Callable[[bytes], bytes], event_id: str, timestamp_s: int, body: bytes) -> str:
        made.append((event_id, timestamp_s))
        return signs(sign_bytes, event_id, timestamp_s, body)

    async def seeds(_: str) -> list[bytes]:
        return [bytes(32)]

    monkeypatch.setattr(signatures, "sign_v1a", counted)
    keys = signatures.SigningKeys(seeds)
    asyncio.run(keys.load("prj_1"))
    first = [keys.sign("prj_1", f"evt_{number}", TIMESTAMP, BODY) for number in range(4096)]
    assert [keys.sign("prj_1", f"evt_{number}", TIMESTAMP, BODY) for number in range(4096)] == first
    assert len(made) == len(set(first)) == 4096
    keys.sign("prj_1", "evt_0", TIMESTAMP + 1, BODY)
    keys.sign("prj_1", "evt_1", TIMESTAMP, BODY)
    assert made[4096:] == [("evt_0", TIMESTAMP + 1)]
    keys.sign("prj_1", "evt_0", TIMESTAMP, BODY)
    assert made[4097:] == [("evt_0", TIMESTAMP)]
