"""Targets of texts that decide: tokens, cookies, JSON, URLs, addresses, times, signatures, event streams, secrets."""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

import h11
import httpx
import msgspec
from standardwebhooks import Webhook
from starlette.datastructures import QueryParams

from relay import clock
from relay.client.requests import Message, Messages, pause_s, position
from relay.errors import BadBody, RelayError, Unreadable
from relay.model import ids, result_urls
from relay.model.backoff import RETRY_AFTER_MAX_MS, next_delay_ms, parse_retry_after
from relay.model.job import Output, OutputKind
from relay.model.text import kept
from relay.payments import header
from relay.payments.challenge import read_challenge
from relay.providers.base import check_url
from relay.security import signatures, strict_json
from relay.security.callback_tokens import CallbackTokens
from relay.security.redaction import CUT, Redactor
from relay.security.signed_cookies import SignedCookies
from relay.security.url_policy import AddressPolicy
from relay.web.client_address import client_address
from tests.fuzz.target import Choices, Target
from tests.support.provider_cases import NOW_MS, answer

KEYS: Final = ["an old key that is long enough to sign", "a new key that is long enough to sign"]
JOB: Final = "job_01980000000070008000000000000001"
TOKENS: Final = CallbackTokens(KEYS, "production")
EXPIRES_MS: Final = NOW_MS + 1000
MADE: Final = {TOKENS.make(name, ids.new_id(ids.JOB), EXPIRES_MS): name for name in ("evolink", "kinovi")}
OLD: Final = {CallbackTokens(KEYS[:1], "production").make("evolink", ids.new_id(ids.JOB), EXPIRES_MS): "evolink"}


def _worded(error: Exception, outcome: str) -> str:
    """Return an outcome; raise AssertionError unless the error says why."""
    assert str(error)
    return outcome


def token(data: bytes) -> str:
    """Check that a token opens only if relay made exactly this text, for this provider."""
    provider, _, text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace").partition("/")
    found = TOKENS.verify(provider, text, NOW_MS)
    if found is None:
        assert (MADE | OLD).get(text) != provider
        return "refused"
    assert (MADE | OLD).get(text) == provider
    assert found.expires_at_ms == EXPIRES_MS
    return "opened"


class Kept(msgspec.Struct, frozen=True):
    """What a cookie of the test holds."""

    name: str
    number: int = 0


COOKIES: Final = SignedCookies(KEYS, "production")
COOKIE: Final = COOKIES.make("session", Kept("a", 5))
OTHER_COOKIE: Final = COOKIES.make("note", Kept("a", 5))


def cookie(data: bytes) -> str:
    """Check that a cookie is read only if relay made its content for this purpose."""
    text = data.decode("latin-1")
    found = COOKIES.read("session", text, Kept)
    if found is None:
        assert text != COOKIE
        return "refused"
    assert found == Kept("a", 5)
    return "read"


def strict(data: bytes) -> str:
    """Check that what the strict parser reads, the standard library reads alike."""
    try:
        parsed = strict_json.parse(data)
    except BadBody as error:
        return _worded(error, "refused")
    text = data.decode().removeprefix("\ufeff")
    if not parsed.surrogates:
        assert same(parsed.value, json.loads(text))
    assert msgspec.json.encode(parsed.value) is not None
    return "read" if not parsed.duplicates else "read, with a key twice"


def same(left: Any, right: Any) -> bool:
    """Return whether two JSON values are equal in their types too."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


POLICY: Final = AddressPolicy((), allow_http=True, own_hosts=frozenset({"relay.example", "[2606:4700::1111]"}))
OPENED: Final = AddressPolicy((ipaddress.ip_network("10.1.0.0/16"),), allow_http=True)
_HOST: Final = re.compile(r"[a-z0-9._-]+")


def url(data: bytes) -> str:
    """Check that a URL that passes is read alike by every client and leads to no private address."""
    text = data.decode("utf-8", "replace")
    if reasons := POLICY.check_url(text):
        assert all(reasons)
        return "refused"
    parsed, other = urlsplit(text), httpx.URL(text)
    host = parsed.hostname or ""
    assert parsed.scheme == other.scheme
    assert parsed.scheme in ("http", "https")
    assert parsed.username is None
    assert other.userinfo == b""
    assert other.raw_host.decode().lower() == host
    default = {"http": 80, "https": 443}[parsed.scheme]
    assert (other.port or default) == (parsed.port or default)
    assert host
    assert host.rstrip(".") not in ("relay.example", "2606:4700::1111", "localhost")
    assert text.isascii()
    assert text.isprintable()
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        assert _HOST.fullmatch(host)
        return "a name"
    assert public(literal)
    return "an address"


def public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether the standard library calls an address, and the IPv4 address within it, public."""
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    return all(one.is_global and not one.is_multicast and not one.is_reserved for one in (address, inner)) or (
        isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None and public(address.ipv4_mapped)
    )


def address(data: bytes) -> str:
    """Check that an address that may be connected to is public by the standard library too."""
    text = data.decode("latin-1")
    allowed = POLICY.may_connect(text)
    assert OPENED.may_connect(text) >= allowed
    if not allowed:
        return "refused"
    parsed = ipaddress.ip_address(text)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed in ipaddress.ip_network("64:ff9b::/96"):
        parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    assert public(parsed)
    return "allowed"


def any_address(data: bytes) -> str:
    """Check that any 4 or 16 bytes are refused unless the standard library calls that address public."""
    raw = (data[:16] if len(data) > 15 else data[:4]).ljust(4, b"\0")
    parsed = ipaddress.ip_address(raw)
    return address(str(parsed).encode())


def provider_url(data: bytes) -> str:
    """Check that a public URL in a request is one to every parser, and its host is neither local nor private."""
    text = data.decode("utf-8", "replace")
    if check_url(text, "u"):
        return "refused"
    parsed = urlsplit(text)
    assert parsed.scheme in ("http", "https")
    assert "@" not in parsed.netloc
    host = (parsed.hostname or "").rstrip(".")
    assert host
    assert not f".{host}".endswith((".localhost", ".local", ".internal"))
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        assert "." in host
        return "a name"
    assert literal.is_global
    assert not literal.is_multicast
    return "an address"


def result_url(data: bytes) -> str:
    """Check that a result is announced only if it is a URL, and that any text can be judged."""
    text = kept(data.decode("utf-8", "replace"))
    trimmed = result_urls.trimmed(text)
    usable, unusable = result_urls.parted([Output(url=trimmed, kind=OutputKind.VIDEO)])
    assert len(usable) + len(unusable) == 1
    result_urls.warning(trimmed)
    if unusable:
        return "unusable"
    assert re.match("https?://", usable[0].url, re.IGNORECASE)
    return "usable"


def retry_after(data: bytes) -> str:
    """Check that a Retry-After is milliseconds or nothing; dates agree with the standard library."""
    text = data.decode("latin-1")
    found = parse_retry_after(text, NOW_MS)
    delay = next_delay_ms((10, 20), 1, lambda: 0.5, found)
    assert delay is not None
    assert 16_000 <= delay <= RETRY_AFTER_MAX_MS * 1.2
    assert pause_s(1, text) <= 60.0
    if found is None:
        return "nothing"
    assert found >= 0
    stripped = text.strip(" \t")
    if re.fullmatch(r"-?[0-9]+", stripped):
        assert found == max(0, int(stripped)) * 1000
        return "seconds"
    try:
        at = parsedate_to_datetime(stripped)
    except (ValueError, TypeError, IndexError, OverflowError):
        return "a date that the library cannot read"
    at_ms = int(at.replace(tzinfo=UTC).timestamp()) * 1000
    short = re.search(r"-\d\d |\b00\d\d\b", stripped)  # of two digits of a year, either century
    assert short or found == max(0, at_ms - NOW_MS)
    return "a date"


def time(data: bytes) -> str:
    """Check that a time is RFC 3339 or refused, and what is read of it can be written again."""
    text = data.decode("utf-8", "replace")
    try:
        at_ms = clock.parse_time(text, NOW_MS)
    except ValueError:
        return "refused"
    shown = clock.rfc3339(at_ms)
    assert clock.parse_rfc3339(shown) == at_ms
    assert datetime.fromisoformat(shown).tzinfo is not None
    return "read"


SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ORACLE: Final = Webhook(SECRET)


def signature(data: bytes) -> str:
    """Check that a callback is proven exactly if its signature is the MAC of its bytes; the official library agrees."""
    head, _, body = data.partition(b"\n\n")
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\n"):
        name, _, value = line.partition(": ")
        headers[name] = value
    try:
        signatures.verify(SECRET, headers, body, NOW_MS // 1000)
    except signatures.SignatureInvalid as error:
        return _worded(error, "refused")
    lower = {name.lower(): value for name, value in headers.items()}
    content = f"{lower['webhook-id']}.{lower['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.digest(bytes(range(32)), content, hashlib.sha256)).decode()
    assert f"v1,{mac}" in lower["webhook-signature"].split(" ")
    assert abs(int(lower["webhook-timestamp"]) - NOW_MS // 1000) <= signatures.AGE_MAX_S
    return "proven"


def signed(data: bytes) -> str:
    """Check that the official library verifies what relay signs, and that a changed bit is refused."""
    choices = Choices(data)
    event_id, flipped = f"evt_{choices.below(256):x}", choices.below(256)
    body = choices.rest()
    now_s = int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": signatures.sign([SECRET], event_id, now_s, body),
    }
    signatures.verify(SECRET, headers, body, now_s)
    ORACLE.verify(body, headers) if _is_json(body) else None
    if body:
        changed = bytearray(body)
        changed[flipped % len(body)] ^= 1
        try:
            signatures.verify(SECRET, headers, bytes(changed), now_s)
        except signatures.SignatureInvalid:
            return "signed"
        raise AssertionError("a changed body is proven")
    return "signed, without a body"


def _is_json(body: bytes) -> bool:
    """Return whether the library can decode the body, which it does after it has verified it."""
    try:
        json.loads(body.decode())
    except (ValueError, RecursionError):
        return False
    return True


def secret(data: bytes) -> str:
    """Check that an accepted secret is one for the official library, and that a refusal does not repeat it."""
    text = data.decode("utf-8", "replace")
    try:
        key = signatures.check_secret(text)
    except ValueError as error:
        if len(text) >= 12 and text in str(error):
            raise AssertionError("the refusal repeats the secret") from error
        return _worded(error, "refused")
    assert Webhook(text)._whsecret == key
    return "accepted"


def event_stream(data: bytes) -> str:
    """Check that a stream is read alike however it is cut, and that each id can be sent back in a header."""
    choices = Choices(data)
    cuts = [choices.below(64) + 1 for _ in range(4)]
    raw = choices.rest()
    whole, pieces = Messages(), Messages()
    read = list(whole.feed(raw))
    again: list[Message] = []
    at = turn = 0
    while at < len(raw):
        again += pieces.feed(raw[at : at + cuts[turn % 4]])
        at, turn = at + cuts[turn % 4], turn + 1
    assert read == again
    assert whole.retry_s == pieces.retry_s
    assert 0 <= whole.retry_s < 3600
    for message in read:
        h11.Request(method="GET", target="/", headers=[(b"host", b"a"), *position(message.id).items()])
    return f"{min(len(read), 3)} messages"


def forwarded(data: bytes) -> str:
    """Check that the address of a client is an address or that of the connection, whatever a proxy's header holds."""
    scope: dict[str, Any] = {
        "headers": [(b"x-forwarded-for", part) for part in data.split(b"\n")],
        "client": ("::1", 5),
    }
    found = [client_address(f"xff:{count}")(scope) for count in (1, 2, 3)]
    scope["headers"] = [(b"cf-connecting-ip", part) for part in data.split(b"\n")]
    found.append(client_address("header:cf-connecting-ip")(scope))
    for one in found:
        assert one is not None
        ipaddress.ip_address(one)
    return "of the connection" if set(found) == {"::1"} else "of a header"


TOKEN: Final = next(iter(MADE))
REDACTOR: Final = Redactor(["sk-live/+key=0123456789", None, "short"], TOKENS.prefix)
_SPELLINGS: Final = (
    lambda text: text,
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: "".join(f"%{ord(char):02X}" for char in text),
    lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    lambda text: "".join(f"&#{ord(char)};" for char in text),
    lambda text: "".join(f"&#x{ord(char):X};" for char in text),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.urlsafe_b64encode(b"xy" + text.encode() + b"z").decode(),
)


def redacted(data: bytes) -> str:
    """Check that no spelling of a secret stays in a text, a JSON body or raw bytes."""
    choices = Choices(data)
    spelled = _SPELLINGS[choices.below(len(_SPELLINGS))]
    known = ("sk-live/+key=0123456789", TOKEN)[choices.below(2)]
    raw = choices.rest()
    around = raw.decode("utf-8", "replace")
    half = len(around) // 2
    hidden = around[:half] + " " + spelled(known) + " " + around[half:]
    clean = REDACTOR.text(hidden)
    assert known not in clean
    assert spelled(known) not in clean
    assert CUT in clean
    assert known.encode() not in REDACTOR.body(hidden.encode())
    document = msgspec.json.encode({"a": [hidden]})
    assert known not in json.loads(REDACTOR.body(document))["a"][0]
    REDACTOR.raw(raw)
    REDACTOR.body(raw)
    return "cut out"


def x402_header(data: bytes) -> str:
    """Check that a payment's challenge is read or unreadable, and that no amount in it is negative."""
    response = answer(402, data)
    response = msgspec.structs.replace(response, headers={"payment-required": data.decode("latin-1")})
    try:
        header.decode(data.decode("latin-1"))
        outcome = "a header"
    except Unreadable:
        outcome = "no header"
    try:
        challenge = read_challenge(response)
    except Unreadable as error:
        return _worded(error, outcome)
    assert all(offer.amount >= 0 for offer in challenge.offers)
    return f"{outcome}, a challenge"


def query(data: bytes) -> str:
    """Check that each value of a query is refused as an id or is one."""
    parameters: Mapping[str, str] = dict(QueryParams(data.decode("latin-1")))
    for value in parameters.values():
        try:
            ids.to_bytes(value)
        except (ValueError, RelayError):
            continue
        return "an id"
    return "no id"


_SIGNED_BODY: Final = b'{"status":"completed"}'
_SIGNATURE: Final = signatures.sign([SECRET], "msg_1", NOW_MS // 1000, _SIGNED_BODY)
_SIGNED: Final = (
    f"webhook-id: msg_1\nwebhook-timestamp: {NOW_MS // 1000}\nwebhook-signature: {_SIGNATURE}\n\n".encode()
    + _SIGNED_BODY
)
_OFFER: Final = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "250000",
    "payTo": "0x" + "1" * 40,
    "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "maxTimeoutSeconds": 60,
}
_CHALLENGE: Final = json.dumps({"x402Version": 2, "accepts": [_OFFER], "resource": {"url": "https://a.example/"}})
_URLS: Final = (
    *("https://app.example/hook", "http://app.example:8080/a?b=c", "https://[2606:2800:220:1::1]/", "https://8.8.8.8/"),
    *("https://relay.example/", "https://127.0.0.1/", "https://[::ffff:8.8.8.8]:8443/", "HTTPS://EXAMPLE.COM"),
    *("https://xn--bcher-kva.example/%41/../b", "https://user@app.example/", "https://0x7f.1/", "https://app.example."),
)
_URL_WORDS: Final = (
    *(b"https://", b"http://", b"//", b"@", b":", b"[", b"]", b"%", b"#", b"?", b"\\", b"127.0.0.1", b"localhost"),
    *(
        b"0x7f",
        b"0177",
        b"::ffff:",
        b"64:ff9b::",
        b"2002:",
        b"169.254.169.254",
        b"relay.example",
        b"xn--",
        b".",
        b"%00",
    ),
    *(b":443", b":80", b":0", b":65536", b"\t", b" ", "。".encode(), "\uff11".encode(), "ß".encode(), b"%2e", b"%40"),
)
_ADDRESS_WORDS: Final = tuple(
    word.encode()
    for word in ["::ffff:", "64:ff9b::", "2002:", "2001:", "3fff:", "fe80", "fc00", "ff02", "%", "0", "255", ".", ":"]
)
_HTTP_DATES: Final = (
    *("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"),
    *("Wed, 21 Oct 2026 07:28:00 GMT", "120", "0", "-5", "1e3", "²", "99999999999999"),
)
_ISO: Final = (
    "2026-10-21T07:28:00Z",
    "2026-10-21T07:28:00.123456+05:30",
    "2026-10-21",
    "-24h",
    "2026W431T07:28Z",
    "soon",
)
_STREAM: Final = (
    b"retry: 2000\n\nid: evt_1\nevent: job.succeeded\ndata: {\ndata: }\n\n: still here\n\nid: evt_2\r\ndata: x\r\n\r\n"
)

TARGETS: Final = (
    Target(
        name="tokens",
        check=token,
        seeds=[f"{name}/{text}".encode() for text, name in (MADE | OLD).items()],
        words=[b"evolink/", b"kinovi/", b"relaydance/", b"-", b"_", b"=", b"A", b"Q", b"%"],
        outcomes=frozenset({"opened"}),
    ),
    Target(
        name="cookies",
        check=cookie,
        seeds=[COOKIE.encode(), OTHER_COOKIE.encode()],
        words=[b".", b"e30", b"=", b"eyJuYW1lIjoiYSJ9"],
        outcomes=frozenset({"read", "refused"}),
    ),
    Target(
        name="json",
        check=strict,
        seeds=[
            b'{"a":[1,2.5e3,"\\u00e9",null,true],"b":{"a":"x"}}',
            b"[[]]",
            b'"text"',
            b'{"a":1,"a":2}',
            b"1e400",
            b"NaN",
        ],
        words=[
            b"\\ud800",
            b"\\u0000",
            b"\xef\xbb\xbf",
            b"1e999",
            b"-0",
            b"NaN",
            b"Infinity",
            b"[" * 70,
            b"/",
            b"\\",
            b'"',
            b"{}",
        ],
        structured=True,
        outcomes=frozenset({"read", "refused", "read, with a key twice"}),
    ),
    Target(
        name="urls",
        check=url,
        seeds=[one.encode() for one in _URLS],
        words=_URL_WORDS,
        outcomes=frozenset({"a name", "an address", "refused"}),
    ),
    Target(
        name="addresses",
        check=address,
        seeds=[b"8.8.8.8", b"2606:2800:220:1::1", b"::ffff:8.8.8.8", b"64:ff9b::808:808", b"127.0.0.1", b"2002::1"],
        words=_ADDRESS_WORDS,
        outcomes=frozenset({"allowed", "refused"}),
    ),
    Target(
        name="addresses-any",
        check=any_address,
        seeds=[
            bytes([8, 8, 8, 8]),
            bytes(16),
            b"\x20\x01\x0d\xb8" + bytes(12),
            b"\0\x64\xff\x9b" + bytes(8) + b"\x08" * 4,
        ],
        words=[b"\0\0", b"\xff\xff", b"\x20\x01", b"\x20\x02", b"\x3f\xff"],
        outcomes=frozenset({"allowed", "refused"}),
    ),
    Target(
        name="provider-urls",
        check=provider_url,
        seeds=[one.encode() for one in (*_URLS, "https://media.example.com/…?a=b#c")],
        words=_URL_WORDS,
        outcomes=frozenset({"a name", "an address", "refused"}),
    ),
    Target(
        name="result-urls",
        check=result_url,
        seeds=[one.encode() for one in (*_URLS, " https://cdn.example.com/a.mp4\u200b", "https://10.0.0.1/a", "a.mp4")],
        words=_URL_WORDS,
        outcomes=frozenset({"usable", "unusable"}),
    ),
    Target(
        name="retry-after",
        check=retry_after,
        seeds=[one.encode("latin-1") for one in _HTTP_DATES],
        words=[b"GMT", b"+0000", b"Sun", b"Nov", b"  ", b"\xb2", b"-", b"00", b"24:", b"60"],
        outcomes=frozenset({"seconds", "a date", "nothing"}),
    ),
    Target(
        name="times",
        check=time,
        seeds=[one.encode() for one in _ISO],
        words=[
            b"T",
            b"Z",
            b"+00:00",
            b"-23:59",
            b"0001-01-01",
            b"9999-12-31",
            b"24:00",
            b"W",
            b"d",
            b"s",
            "\uff11".encode(),
        ],
        outcomes=frozenset({"read", "refused"}),
    ),
    Target(
        name="signatures",
        check=signature,
        seeds=[_SIGNED, _SIGNED.replace(b"v1,", b"v2,x v1,")],
        words=[
            b"webhook-id: ",
            b"webhook-timestamp: ",
            b"webhook-signature: ",
            b"v1,",
            b" ",
            b".",
            b"\n\n",
            b"+",
            b"_1",
        ],
        outcomes=frozenset({"proven"}),
    ),
    Target(name="signing", check=signed, seeds=[b"ab{}", b"abtext", b"ab\xff\0"], outcomes=frozenset({"signed"})),
    Target(
        name="secrets",
        check=secret,
        seeds=[
            SECRET.encode(),
            b"whsec_",
            b"whsec_" + base64.b64encode(bytes(24)),
            b"whsec_" + base64.b64encode(bytes(65)),
        ],
        words=[b"whsec_", b"=", b"==", b"-", b"_", b"A", b"/", b"+"],
        outcomes=frozenset({"accepted", "refused"}),
    ),
    Target(
        name="event-streams",
        check=event_stream,
        seeds=[b"abcd" + _STREAM],
        words=[b"id: ", b"data: ", b"retry: ", b"event: ", b": ", b"\n", b"\r\n", b"\r", b"\0", b"9" * 5000, b"\xff"],
        outcomes=frozenset({"2 messages"}),
    ),
    Target(
        name="client-addresses",
        check=forwarded,
        seeds=[b"1.2.3.4, 5.6.7.8", b"::1", b"1.2.3.4\n5.6.7.8", b'for="[2001:db8::1]"'],
        words=[b",", b"\n", b" ", b"fe80::1%eth0", b":80", b"[", b"]"],
        outcomes=frozenset({"of a header"}),
    ),
    Target(
        name="redaction",
        check=redacted,
        seeds=[bytes([spelling, which]) + b"an error page" for spelling in range(len(_SPELLINGS)) for which in (0, 1)],
        words=[b"%25", b"\\u00", b"&#", b"\\\\", b"=", b"/", b"+", b"-", b"_", TOKEN[:9].encode(), b'{"a":"'],
        outcomes=frozenset({"cut out"}),
    ),
    Target(
        name="payment-challenges",
        check=x402_header,
        seeds=[_CHALLENGE.encode(), base64.b64encode(_CHALLENGE.encode())],
        words=[
            b"x402Version",
            b"accepts",
            b"amount",
            b"maxAmountRequired",
            b"network",
            b"eip155:",
            b"base",
            b"1e9",
            b"=",
        ],
        structured=True,
        outcomes=frozenset({"no header, a challenge", "a header, a challenge"}),
    ),
    Target(
        name="ids",
        check=query,
        seeds=[
            f"cursor={JOB}&limit=5".encode(),
            b"metadata[a]=b&cursor=evt_1",
            b"cursor=" + ids.new_id(ids.JOB).encode(),
        ],
        words=[b"cursor=", b"&", b"=", b"%", b"job_", b"evt_", b"+", b";"],
        outcomes=frozenset({"an id", "no id"}),
    ),
)
