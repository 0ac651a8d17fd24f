"""The schemes by which providers sign callbacks: published vectors, and forged, replayed and other keys' signatures."""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.callbacks.verify import BY_SIGNATURE, BY_TOKEN, Proof, verify
from relay.context import ConfiguredProvider
from relay.model.job import Verification
from relay.outbound.jwks import parse_keys
from relay.providers.evolink import EvoLink
from relay.security import callback_signatures, signatures
from relay.security.callback_signatures import (
    SECRETS_MAX,
    TEXT_SECRET_MAX,
    TEXT_SECRET_MIN,
    VERIFIER_NAMES,
    VERIFIERS,
    Proven,
    VerifierName,
    check_secrets,
)
from relay.security.signatures import AGE_MAX_S, SignatureInvalid, Signed
from tests.support.provider_cases import answer
from tests.support.rows import rows


class Vector(msgspec.Struct, frozen=True, kw_only=True):
    """A callback that its secret signed: the header with the signature, the one with the time, and when it was sent."""

    scheme: VerifierName
    secret: str
    headers: Mapping[str, str]
    body: bytes
    at_s: int
    proven: Proven = Proven.WHOLE_BODY

    @property
    def signature_header(self) -> str:
        """The name of the header that has the signature."""
        return next(name for name in self.headers if "signature" in name)


REPLICATE = Vector(  # published with Standard Webhooks, and in replicate-python
    scheme="standard-webhooks",
    secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    headers={
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    body=b'{"test": 2432232314}',
    at_s=1614265330,
)
KLING = Vector(  # published on Kling's page on callbacks
    scheme="standard-webhooks",
    secret="whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=",
    headers={
        "webhook-id": "9876543210",
        "webhook-timestamp": "1781080794",
        "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
    },
    body=(
        b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
    ),
    at_s=1781080794,
)
WAVESPEED = Vector(  # made by the text of its page, whose own examples do not verify
    scheme="wavespeed-v3",
    secret="whsec_test-wavespeed-secret",
    headers={
        "webhook-id": "pred_test_1",
        "webhook-timestamp": "1764237600",
        "webhook-signature": "v3,f60cf70f3c2ae9e0187216fa2d92e5692b180c5c92e89110a9af631bb9fa26f3",
    },
    body=(
        b'{"id":"pred_test_1","model":"bytedance/seedance-2.0/image-to-video",'
        b'"outputs":["https://cdn.example.com/out.mp4"],'
        b'"urls":{"get":"https://api.wavespeed.ai/api/v3/predictions/pred_test_1/result"},'
        b'"has_nsfw_contents":[false],"status":"completed","created_at":"2026-11-27T10:00:00Z","error":"",'
        b'"executionTime":61000,"timings":{"inference":61000}}'
    ),
    at_s=1764237600,
)
OPENROUTER = Vector(  # made by the text of its guide
    scheme="openrouter",
    secret="test-openrouter-secret",
    headers={
        "x-openrouter-signature": ("t=1764237600,v1=a04f2ac3921da71f6d768101e5f7afb8fd96f6dee53193ccce2db71dbfc25362")
    },
    body=(
        b'{"type":"video.generation.completed","created_at":"2026-11-27T10:00:00.000Z",'
        b'"data":{"id":"gen-vid-1764237540-AbCdEfGhIjKlMnOpQrSt","status":"completed",'
        b'"generation_id":"gen-1764237540-abcdef","model":"bytedance/seedance-2.0",'
        b'"unsigned_urls":["https://openrouter.ai/api/v1/videos/gen-vid-1764237540-AbCdEfGhIjKlMnOpQrSt/content?index=0"],'
        b'"usage":{"cost":0.336,"is_byok":false}}}'
    ),
    at_s=1764237600,
)
KIE = Vector(  # made by the text of its page on verification
    scheme="shared-header",
    secret="test-kie-key",
    headers={
        "x-webhook-timestamp": "1763683200",
        "x-webhook-signature": "fCr5pgJFvvEldT1Os4lstbIvFeG+Zp0AlWyc5YPR6YQ=",
    },
    body=b'{"code":200,"data":{"taskId":"ee603959-debb-48d1-98c4-a6d1c717eba6","state":"success"}}',
    at_s=1763683200,
    proven=Proven.ORIGIN_ONLY,
)
NAMED = {"replicate": REPLICATE, "kling": KLING, "wavespeed": WAVESPEED, "openrouter": OPENROUTER, "kie": KIE}
each = rows("vector", NAMED.values())
OTHER = {
    "standard-webhooks": "whsec_" + base64.b64encode(b"o" * 32).decode(),
    "wavespeed-v3": "whsec_other-secret",
    "openrouter": "other-secret",
    "shared-header": "other-secret",
}


def verified(
    vector: Vector,
    *,
    secrets: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    after_s: int = 0,
) -> Proven:
    """Return what a vector proves, as it is or changed."""
    return callback_signatures.verify(
        vector.scheme,
        (vector.secret,) if secrets is None else secrets,
        vector.headers if headers is None else headers,
        vector.body if body is None else body,
        vector.at_s + after_s,
    )


@each
def test_a_published_vector_verifies(vector: Vector) -> None:
    """Accept it, and say what it proves."""
    assert verified(vector) is vector.proven


@each
def test_each_secret_of_a_rotation_verifies(vector: Vector) -> None:
    """Accept the right secret in any place of a list, and no list without it."""
    other = OTHER[vector.scheme]
    assert verified(vector, secrets=(other, vector.secret)) is vector.proven
    assert verified(vector, secrets=(vector.secret, other)) is vector.proven
    with pytest.raises(SignatureInvalid):
        verified(vector, secrets=(other,))
    with pytest.raises(SignatureInvalid):
        verified(vector, secrets=())


@each
def test_a_replay_is_refused_by_its_age(vector: Vector) -> None:
    """Accept a signature up to five minutes old or early, and not a second more."""
    for after_s in (AGE_MAX_S, -AGE_MAX_S):
        assert verified(vector, after_s=after_s) is vector.proven
    for after_s in (AGE_MAX_S + 1, -AGE_MAX_S - 1):
        with pytest.raises(SignatureInvalid, match="time is more than"):
            verified(vector, after_s=after_s)


@each
def test_another_body_is_refused_unless_the_scheme_covers_less(vector: Vector) -> None:
    """Refuse a changed byte where the body is signed; accept it where only the task's id is."""
    changed = vector.body + b" "
    if vector.proven is Proven.ORIGIN_ONLY:
        assert verified(vector, body=changed) is Proven.ORIGIN_ONLY
        with pytest.raises(SignatureInvalid):
            verified(vector, body=vector.body.replace(b"ee603959", b"ee603950"))
        return
    with pytest.raises(SignatureInvalid):
        verified(vector, body=changed)


@each
def test_every_changed_character_of_a_signature_is_refused(vector: Vector) -> None:
    """Refuse the signature with any one of its characters replaced, cut or repeated."""
    name = vector.signature_header
    text = vector.headers[name]
    for index, letter in enumerate(text):
        forged = text[:index] + ("0" if letter != "0" else "1") + text[index + 1 :]
        with pytest.raises(SignatureInvalid):
            verified(vector, headers={**vector.headers, name: forged})
    with pytest.raises(SignatureInvalid):
        verified(vector, headers={**vector.headers, name: text[:-1]})


@each
def test_a_missing_header_is_refused(vector: Vector) -> None:
    """Refuse a callback without one of the headers, and one without any."""
    for name in vector.headers:
        with pytest.raises(SignatureInvalid):
            verified(vector, headers={other: text for other, text in vector.headers.items() if other != name})
    with pytest.raises(SignatureInvalid):
        verified(vector, headers={})


@rows("vector", [REPLICATE, KLING, WAVESPEED])
def test_one_of_several_signatures_is_enough(vector: Vector) -> None:
    """Accept the right signature as the second of two, as during a rotation."""
    name = vector.signature_header
    version = vector.headers[name].partition(",")[0]
    for text in (f"{version},AAAA {vector.headers[name]}", f"v9,x {vector.headers[name]} {version},AAAA"):
        assert verified(vector, headers={**vector.headers, name: text}) is Proven.WHOLE_BODY


def test_one_of_several_openrouter_signatures_is_enough() -> None:
    """Accept `v1` twice, and refuse `t` twice, because then the signed time is not known."""
    text = OPENROUTER.headers["x-openrouter-signature"]
    twice = {"x-openrouter-signature": f"{text},v1={'0' * 64}"}
    assert verified(OPENROUTER, headers=twice) is Proven.WHOLE_BODY
    with pytest.raises(SignatureInvalid):
        verified(OPENROUTER, headers={"x-openrouter-signature": f"{text},t=1764237600"})


def test_the_schemes_do_not_accept_each_other() -> None:
    """Refuse WaveSpeed's signature under Standard Webhooks, whose header names are the same, and the reverse."""
    for scheme, vector in (("standard-webhooks", WAVESPEED), ("wavespeed-v3", REPLICATE)):
        secret = REPLICATE.secret if scheme == "standard-webhooks" else WAVESPEED.secret
        with pytest.raises(SignatureInvalid):
            verified(msgspec.structs.replace(vector, scheme=scheme), secrets=(secret,))


def test_wavespeeds_key_is_text_and_not_base64() -> None:
    """Take the text behind `whsec_` as the key, even where it could be base64."""
    secret, at, body = "whsec_" + base64.b64encode(b"k" * 32).decode(), 1764237600, b"{}"
    mac = hmac.digest(secret.removeprefix("whsec_").encode(), f"e.{at}.".encode() + body, "sha256").hex()
    headers = {"webhook-id": "e", "webhook-timestamp": str(at), "webhook-signature": f"v3,{mac}"}
    assert callback_signatures.verify("wavespeed-v3", (secret,), headers, body, at) is Proven.WHOLE_BODY


def test_kies_task_id_may_have_its_other_name() -> None:
    """Verify by `task_id` where the body has no `taskId`, and refuse a body with neither or that is no JSON."""
    body = KIE.body.replace(b"taskId", b"task_id")
    assert verified(KIE, body=body) is Proven.ORIGIN_ONLY
    for other in (KIE.body.replace(b"taskId", b"id"), b'{"data":[]}', b"[1]", b"not JSON", b""):
        with pytest.raises(SignatureInvalid, match="taskId"):
            verified(KIE, body=other)


def test_the_fal_vector_verifies_by_a_key_without_a_name() -> None:
    """Read fal's published key, which may have no `kid`, and verify its signature by each key of the set."""
    body = (
        b'{"request_id":"123e4567-e89b-12d3-a456-426614174000",'
        b'"gateway_request_id":"123e4567-e89b-12d3-a456-426614174000","status":"OK",'
        b'"payload":{"video":{"url":"https://v3b.fal.media/files/b/a/out.mp4","content_type":"video/mp4",'
        b'"file_name":"out.mp4","file_size":1234567},"seed":42}}'
    )
    digest = hashlib.sha256(body).hexdigest()
    assert digest == "d04c3f8b731588e0a62d3eb5902285c5df9c2701477abb45d88269baf3452565"
    signed = Signed(
        key_id=None,
        message=f"123e4567-e89b-12d3-a456-426614174000\nuser_1\n1735689600\n{digest}".encode(),
        signature=bytes.fromhex(
            "8c266754a731285e22e68dd72ec25480beeb6fdd1e3320074905cd36a6e193f1"
            "9eaa4b09987f278ad6852c17d4104beaf1af04d0a0be24cf783a90cf6ffac20a"
        ),
        timestamp_s=1735689600,
    )
    (key,) = parse_keys(
        answer(200, {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"}]})
    ).values()
    assert signatures.is_signed_by(key, signed)
    assert not signatures.is_signed_by(key, msgspec.structs.replace(signed, message=signed.message + b" "))
    assert not signatures.is_signed_by(b"k" * 32, signed)


texts = st.text(st.characters(codec=None), max_size=40)
names = st.sampled_from(sorted({name for vector in NAMED.values() for name in vector.headers}))


@given(scheme=st.sampled_from(sorted(VERIFIERS)), headers=st.dictionaries(names, texts), body=st.binary(max_size=80))
def test_any_headers_are_refused_and_nothing_else(scheme: VerifierName, headers: dict[str, str], body: bytes) -> None:
    """Raise SignatureInvalid for whatever a stranger sends, in any scheme, and no other exception."""
    with pytest.raises(SignatureInvalid):
        callback_signatures.verify(scheme, (OTHER[scheme],), headers, body, 1764237600)


@rows("scheme", sorted(VERIFIERS))
def test_each_scheme_checks_the_form_of_its_secrets(scheme: VerifierName) -> None:
    """Accept one to four secrets of the scheme's own form, and say what is wrong without a secret in it."""
    good = OTHER[scheme]
    assert check_secrets(scheme, good) == (good,)
    assert check_secrets(scheme, " ".join([good] * SECRETS_MAX)) == (good,) * SECRETS_MAX
    for wrong in (" ".join([good] * (SECRETS_MAX + 1)), "", f"{good} sec-rét", f"{good} {'s' * 7}"):
        with pytest.raises(ValueError, match="must") as raised:
            check_secrets(scheme, wrong)
        assert good not in str(raised.value)
        assert "sec-r" not in str(raised.value)


def test_a_text_secret_has_its_bounds() -> None:
    """Accept 8 to 512 characters of a text secret, and not one fewer or more."""
    for length in (TEXT_SECRET_MIN, TEXT_SECRET_MAX):
        assert check_secrets("openrouter", "s" * length) == ("s" * length,)
    for length in (TEXT_SECRET_MIN - 1, TEXT_SECRET_MAX + 1):
        with pytest.raises(ValueError, match="visible ASCII"):
            check_secrets("openrouter", "s" * length)
    assert (TEXT_SECRET_MIN, TEXT_SECRET_MAX, SECRETS_MAX) == (8, 512, 4)


@rows("scheme", sorted(set(VERIFIER_NAMES) - set(VERIFIERS)))
def test_a_scheme_without_a_secret_refuses_one(scheme: VerifierName) -> None:
    """Refuse to start with a secret that could verify nothing."""
    with pytest.raises(ValueError, match="must not be set"):
        check_secrets(scheme, "whsec_" + base64.b64encode(b"o" * 32).decode())


class Shared(EvoLink):
    """EvoLink's contract with a signature that does not cover the body."""

    verifier = "shared-header"


class Whole(EvoLink):
    """EvoLink's contract with a signature that covers the body."""

    verifier = "openrouter"


def proof(adapter: EvoLink, vector: Vector, headers: Mapping[str, str], after_s: int = 0) -> Proof:
    """Return how far a callback of a configured provider is proven."""
    provider = ConfiguredProvider(adapter, adapter.base_url, "key", callback_secrets=(vector.secret,))
    return verify(provider, headers, vector.body, (vector.at_s + after_s) * 1000)


def test_only_a_signature_of_the_whole_body_proves_a_callback() -> None:
    """Leave a callback proven by its token where the signature covers less, so that a status check confirms it."""
    assert proof(Whole(), OPENROUTER, OPENROUTER.headers) == BY_SIGNATURE
    assert proof(Shared(), KIE, KIE.headers) == BY_TOKEN
    assert BY_TOKEN.verification is Verification.TOKEN
    assert BY_SIGNATURE.verification is Verification.SIGNATURE


@rows("after_s", [None, AGE_MAX_S + 1])
def test_a_missing_or_old_signature_is_forged_in_every_scheme(after_s: int | None) -> None:
    """Quarantine an unsigned and a replayed callback where a secret is set, whatever a signature would prove."""
    for adapter, vector in ((Whole(), OPENROUTER), (Shared(), KIE)):
        headers = {} if after_s is None else vector.headers
        judged = proof(adapter, vector, headers, after_s or 0)
        assert judged.forged
        assert judged.verification is Verification.TOKEN
        assert vector.secret not in judged.forged
