"""The unified `input`: last frames, references, options, and the fields that a provider cannot honour."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import CallbackFieldReserved, FieldError, InvalidInput
from relay.model.job import Input, Reference
from relay.providers import PROVIDERS
from relay.providers.base import Provider
from relay.providers.native import OPTIONS_MAX_BYTES, OPTIONS_MAX_DEPTH, native_body, native_from_input
from relay.providers.stablestudio import StableStudio
from tests.support.rows import rows

FIRST, LAST, THIRD = (f"https://example.com/{name}.png" for name in ("a", "b", "c"))
VIDEO = Reference(url="https://example.com/a.mp4", kind="video")
AUDIO = Reference(url="https://example.com/a.mp3", kind="audio")
BASE = Input(images=[FIRST], prompt="slow push in")
EXAMPLES: dict[str, Any] = {
    "last_frame": LAST,
    "references": [THIRD],
    "negative_prompt": "fog",
    "audio": True,
    "seed": 7,
    "mode": "keyframe",
}
EVOLINK, RELAYDANCE, KINOVI = (PROVIDERS[name] for name in ("evolink", "relaydance", "kinovi"))
providers = rows("provider", PROVIDERS.values())
HONOURED = [(one, field) for one in PROVIDERS.values() for field in EXAMPLES if field in one.honours]
REFUSED = [(one, field) for one in PROVIDERS.values() for field in EXAMPLES if field not in one.honours]


def label(value: Any) -> str:
    """Return a provider's name or a field's."""
    return str(getattr(value, "name", value))


WITH_ALL_FIELDS = {
    "fal": "fal-ai/veo3.1",
    "kie": "wan/2-7-image-to-video",
    "kling": "kling-v2-6",
    "replicate": "kwaivgi/kling-v3-video",
    "wavespeed": "kwaivgi/kling-v3.0",
}
"""A model of each provider whose default model does not have every field that the provider honours."""


def made(provider: Provider, **fields: Any) -> dict[str, Any]:
    """Return the native body of the minimal input with other fields."""
    return native_from_input(provider, msgspec.structs.replace(BASE, **fields))


def refused(provider: Provider, **fields: Any) -> list[FieldError]:
    """Return the errors of the minimal input with other fields."""
    with pytest.raises(InvalidInput) as raised:
        made(provider, **fields)
    return raised.value.errors


@rows(("provider", "field"), REFUSED)
def test_a_field_that_a_provider_cannot_honour_is_refused_by_name(provider: Provider, field: str) -> None:
    """Refuse a field without a place in the provider's body, and name it and the provider."""
    errors = refused(provider, **{field: EXAMPLES[field]})
    assert [(one.path, one.message) for one in errors] == [
        (f"input.{field}", f"{provider.title} does not support {field}")
    ]


@rows(("provider", "field"), [pair for pair in HONOURED if pair[1] in ("last_frame", "negative_prompt")])
def test_a_field_that_a_provider_honours_is_in_its_body(provider: Provider, field: str) -> None:
    """Put a field that the provider honours into its body, and never drop it."""
    model = WITH_ALL_FIELDS.get(provider.name)
    assert EXAMPLES[field] in msgspec.json.encode(made(provider, model=model, **{field: EXAMPLES[field]})).decode()


@providers
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_reference_is_in_the_body_or_refused(provider: Provider, kind: Any) -> None:
    """Put a reference of each honoured kind into the body; refuse another kind by the place in the list."""
    url = f"https://example.com/reference.{kind}"
    fields = {"images": [], "references": [THIRD, Reference(url=url, kind=kind)]}
    if "references" not in provider.honours:
        assert "input.references" in [one.path for one in refused(provider, **fields)]
    elif kind != "image" and f"references.{kind}" not in provider.honours:
        message = f"{provider.title} does not support {kind} here"
        assert FieldError("input.references[1]", message) in refused(provider, **fields)
    else:
        assert url in msgspec.json.encode(made(provider, **fields)).decode()


@rows("provider", [one for one, field in HONOURED if field == "last_frame"])
def test_a_last_frame_is_the_second_image(provider: Provider) -> None:
    """Make the same body of a last frame in its own field as of a second image, where two images are frames."""
    mode = {"mode": "keyframe"} if provider is RELAYDANCE else {}
    assert made(provider, last_frame=LAST) == made(provider, images=[FIRST, LAST], **mode)


@rows(
    ("fields", "message"),
    [
        ({"images": []}, "needs the first frame in images"),
        ({"images": [FIRST, THIRD]}, "cannot be given with 2 images"),
        ({"mode": "reference"}, "cannot be given with mode reference"),
    ],
)
def test_a_last_frame_needs_one_first_frame(fields: dict[str, Any], message: str) -> None:
    """Refuse a last frame without one first frame."""
    assert FieldError("input.last_frame", message) in refused(KINOVI, last_frame=LAST, **fields)


@rows("provider", [KINOVI, StableStudio("b")])
def test_references_are_no_frames(provider: Provider) -> None:
    """Refuse references beside frames where the mode decides what an image is."""
    message = "cannot be given with images unless mode is reference"
    assert FieldError("input.references", message) in refused(provider, references=[THIRD])
    errors = refused(provider, references=[THIRD], mode="keyframe")
    assert FieldError("input.references", "cannot be given with mode keyframe") in errors
    assert made(provider, references=[THIRD], mode="reference") == made(provider, images=[], references=[FIRST, THIRD])


def test_references_have_their_roles_at_relaydance() -> None:
    """Give each reference the role of its kind, behind the images."""
    content = made(RELAYDANCE, references=[VIDEO, AUDIO, THIRD])["metadata"]["content"]
    assert [(one["role"], one[one["type"]]["url"]) for one in content] == [
        ("reference_image", FIRST),
        ("reference_image", THIRD),
        ("reference_video", VIDEO.url),
        ("reference_audio", AUDIO.url),
    ]


def test_references_have_their_fields_at_kinovi() -> None:
    """Put references of each kind into the field of their kind, in reference mode."""
    inputs = made(KINOVI, images=[], references=[VIDEO, AUDIO, THIRD])["inputs"]
    assert (inputs["urls"], inputs["videoUrls"], inputs["audioUrls"]) == ([THIRD], [VIDEO.url], [AUDIO.url])
    assert inputs["mode"] == "reference"


def test_a_wrong_reference_is_named_by_its_place() -> None:
    """Name each medium with a bad URL by its place in the input, not by that in the body."""
    bad = "https://127.0.0.1/"
    errors = refused(RELAYDANCE, references=[Reference(url=f"{bad}v", kind="video"), f"{bad}i"], images=[f"{bad}f"])
    assert {one.path for one in errors} == {"input.references[0]", "input.references[1]", "input.images[0]"}
    assert [one.path for one in refused(EVOLINK, last_frame=f"{bad}l")] == ["input.last_frame"]


def test_options_go_into_the_body() -> None:
    """Merge the options into the body at their places, and leave the rest as it is without them."""
    body = made(KINOVI, provider_options={"inputs": {"bitrate_mode": "high"}})
    assert body["inputs"].pop("bitrate_mode") == "high"
    assert body == made(KINOVI)
    extra = made(RELAYDANCE, provider_options={"metadata": {"watermark": False}})
    assert extra["metadata"]["watermark"] is False


def test_an_option_may_repeat_a_field() -> None:
    """Accept an option that is equal to what a field became, and refuse another value, which names the field."""
    assert made(EVOLINK, duration_s=5, provider_options={"duration": 5}) == made(EVOLINK, duration_s=5)
    for wrong in (6, 5.0, "5", True, None):
        assert refused(EVOLINK, duration_s=5, provider_options={"duration": wrong}) == [
            FieldError("input.provider_options.duration", "is set by relay from the input: use input.duration_s")
        ]
    same = {"metadata": {"content": made(RELAYDANCE)["metadata"]["content"]}}
    assert made(RELAYDANCE, provider_options=same) == made(RELAYDANCE)


def test_an_option_is_checked_as_a_native_body_is() -> None:
    """Name an option that breaks a published limit, or that the provider's body does not have."""
    errors = refused(KINOVI, provider_options={"inputs": {"bitrate_mode": "low", "odd": 1}})
    assert {one.path for one in errors} == {
        "input.provider_options.inputs.bitrate_mode",
        "input.provider_options.inputs.odd",
    }
    assert [one.path for one in refused(EVOLINK, provider_options={"extra": "http://10.0.0.1/"})] == [
        "input.provider_options.extra"
    ]


def test_every_error_is_named_at_once() -> None:
    """Name what is refused, what is beyond a limit, and each option that is wrong, in one list."""
    options = {"duration": 5, "odd": 1, "quality": "9k"}
    errors = refused(EVOLINK, images=[], seed=7, duration_s=99, references=[AUDIO], provider_options=options)
    assert {one.path for one in errors} == {
        "input.seed",
        "input.duration_s",
        "input.references",
        "input.provider_options.duration",
        "input.provider_options.odd",
        "input.provider_options.quality",
    }
    studio = refused(StableStudio("a"), images=[], references=[THIRD])
    assert [one.path for one in studio] == ["input.references"]
    x402 = refused(PROVIDERS["x402org"], images=[], references=[THIRD])
    assert [one.path for one in x402] == ["input.references", "input.images"]


@providers
def test_an_option_is_no_callback_url(provider: Provider) -> None:
    """Refuse a callback field in the options, where the provider would read it and anywhere else."""
    for name in ("callback_url", "webhook", "callBackUrl"):
        with pytest.raises(CallbackFieldReserved) as raised:
            native_body(provider, {"input": {"images": [FIRST], "provider_options": {name: "https://example.com/"}}})
        assert [one.path for one in raised.value.errors] == [f"input.provider_options.{name}"]
        deep = {"deep": [{name: "https://example.com/"}]}
        assert f"input.provider_options.deep[0].{name}" in [
            one.path for one in refused(provider, provider_options=deep)
        ]


def test_the_limits_of_options_are_those_of_the_api_page() -> None:
    """Have the limits that docs/api.md names."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert f"up to {OPTIONS_MAX_BYTES // 1024} KB and {OPTIONS_MAX_DEPTH} levels" in page


def test_options_have_a_largest_size() -> None:
    """Accept options of OPTIONS_MAX_BYTES as JSON, and none of one byte more."""
    room = OPTIONS_MAX_BYTES - len('{"prompt":""}')
    over = refused(EVOLINK, prompt=None, provider_options={"prompt": "a" * (room + 1)})
    assert over[0].message == f"must be at most {OPTIONS_MAX_BYTES} bytes of JSON, not {OPTIONS_MAX_BYTES + 1}"
    assert made(EVOLINK, prompt=None, provider_options={"prompt": "a" * room})["prompt"] == "a" * room


def test_options_have_a_greatest_depth() -> None:
    """Accept options of OPTIONS_MAX_DEPTH levels, and none of one more."""

    def nested(levels: int) -> dict[str, Any]:
        return {"x": nested(levels - 1)} if levels > 1 else {}

    message = f"must be at most {OPTIONS_MAX_DEPTH} levels deep"
    assert FieldError("input.provider_options", message) in refused(
        EVOLINK, provider_options=nested(OPTIONS_MAX_DEPTH + 1)
    )
    assert message not in [one.message for one in refused(EVOLINK, provider_options=nested(OPTIONS_MAX_DEPTH))]


@given(st.dictionaries(st.sampled_from(["seed", "generate_audio", "duration"]), st.none() | st.booleans()))
def test_options_never_change_what_the_fields_say(options: dict[str, Any]) -> None:
    """Keep every value that a field set, whatever the options are."""
    before = made(EVOLINK, duration_s=5, audio=True)
    try:
        after = made(EVOLINK, duration_s=5, audio=True, provider_options=options)
    except InvalidInput:
        return
    assert {name: after[name] for name in before} == before


def test_wrong_types_are_named_beside_the_other_errors() -> None:
    """Name a field of the wrong type, and check the others all the same."""
    wanted = {
        "images": [FIRST],
        "references": [{"url": 5}, {"url": FIRST, "kind": "text"}, 7],
        "provider_options": [],
        "negative_prompt": "fog",
    }
    errors = native_body(EVOLINK, {"input": wanted}).errors
    assert [one.path for one in errors] == [
        "input.references[0].url",
        "input.references[1].kind",
        "input.references[2]",
        "input.provider_options",
        "input.negative_prompt",
        "input.prompt",
    ]
