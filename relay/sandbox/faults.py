"""What a stand-in can be told to do wrong, one job at a time: by a test, by `relay simulate`, or in the prompt.

This is the one switchboard: the sentences are what `relay simulate --list` prints, the lists are what is checked.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay import validation

FINAL: Final = ("succeeded", "failed", "canceled")
PAUSE_MAX_S: Final = 600

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "submit": ("ok", "hang", "reset", "reset_after", "empty", "id_missing", "wrong_id", "error_in_200"),
    "outcome": (*FINAL, "no_output"),
    "version": (
        *("", "full", "minimal", "without_error"),
        *("documented", "new_api", "openai", "ark"),
        *("envelope", "state", "flat"),
        *("sync", "async"),
        *("list", "unsigned"),
        "no_payload",
        *("object", "without_input"),
    ),
    "check": ("ok", "not_found", "html", "hang", "reset", "empty", "lies"),
    "result": ("ok", "not_yet", "down", "locked"),
    "encoding": ("", "gzip", "utf-16", "bom"),
    "flips": ("", *FINAL),
    "malformed": ("", "not_json", "empty", "array", "nan", "deep", "twice", "nul", "surrogate", "bigint"),
    "signed": ("", "ok", "forged", "unknown_key"),
    "upset_url": ("", "slash", "query", "double_slash", "truncated"),
    "cancel": ("ok", "refused", "hang"),
    "pay": (
        *("ok", "facilitator_down", "settle_then_fail", "drop_after_settle", "again_402", "refused"),
        *("wrong_amount", "wrong_payee", "wrong_chain", "wrong_domain"),
    ),
}
"""The faults that take one word of a closed list; the empty word is their default and means: as published."""

_DIRECTIVE: Final = re.compile(r"\[sandbox:([^\]]{0,300})\]")


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The faults of one job; the defaults are a provider that works. ValueError for a word that is not in its list.

    `late_s` is multiplied by the sandbox's `time_scale`, as the pauses between tries are; other seconds are real ones.
    """

    submit: Annotated[
        str,
        Meta(
            description="How the submission is answered: `ok`, `hang` (never), `reset` (nothing is created), "
            "`reset_after` (the job is created), `empty` (200 without a body), `id_missing`, `wrong_id` (an id that "
            "the status route and the callbacks do not know), or `error_in_200` (the refusal of `status_code`, with "
            "200)."
        ),
    ] = "ok"
    status_code: Annotated[
        int, Meta(ge=200, le=599, description="Refuses the submission with this status in the provider's error shape.")
    ] = 200
    html: Annotated[bool, Meta(description="Refuses the submission with a proxy's HTML page.")] = False
    slow_s: Annotated[
        float, Meta(ge=0, le=PAUSE_MAX_S, description="Answers the submission only after so many seconds.")
    ] = 0.0
    early: Annotated[bool, Meta(description="The job ends and calls back before the submission is answered.")] = False

    outcome: Annotated[
        str, Meta(description="How the job ends: `succeeded`, `failed`, `canceled`, or `no_output` (without a result).")
    ] = "succeeded"
    flips: Annotated[
        str,
        Meta(
            description="After its last callback the job changes to this other end, `succeeded`, `failed` or "
            "`canceled`, and the status route and one more callback say so."
        ),
    ] = ""
    cancel: Annotated[
        str, Meta(description="How a cancellation is answered: `ok`, `refused` (409), or `hang` (never); EvoLink only.")
    ] = "ok"

    pay: Annotated[
        str,
        Meta(
            description="What goes wrong with the payment of a paid job: `ok` (nothing), `facilitator_down` (502, no "
            "money moves), `refused` (402 for want of funds, no money moves), `settle_then_fail` (500 though the money "
            "has moved), `drop_after_settle` (the connection is reset then), `again_402` (a new challenge then), or a "
            "challenge with a `wrong_amount`, `wrong_payee`, `wrong_chain` or `wrong_domain`."
        ),
    ] = "ok"
    pay_times: Annotated[
        int, Meta(ge=0, le=1000, description="Only the first so many sendings of a payment go wrong; 0 means all.")
    ] = 0

    check: Annotated[
        str,
        Meta(
            description="How a status check is answered: `ok`, `not_found`, `html` (a proxy's 502 page), "
            "`hang` (never), `reset`, `empty` (200 without a body), or `lies` (as `lie` says)."
        ),
    ] = "ok"
    check_status: Annotated[
        int, Meta(ge=200, le=599, description="Answers status checks with this status in the provider's error shape.")
    ] = 200
    check_retry_after_s: Annotated[
        int, Meta(ge=0, le=86_400, description="The retry-after of a `check_status` of 429 or 503; 0 sends none.")
    ] = 0
    check_times: Annotated[
        int, Meta(ge=0, le=1000, description="Only the first so many status checks are answered wrongly; 0 means all.")
    ] = 0
    lie: Annotated[
        str,
        Meta(
            max_length=100,
            description="With `check=lies`, the state that the status route claims: `pending`, `running`, "
            "`succeeded`, `failed`, `canceled`, or any other text as an unpublished status word.",
        ),
    ] = ""

    result: Annotated[
        str,
        Meta(
            description="How the second request for a result is answered, where the provider has one: `ok`, `not_yet` "
            "(as if the job went on), `down` (503), or `locked` (403, as for an account without funds)."
        ),
    ] = "ok"

    version: Annotated[
        str,
        Meta(
            description="Which published form is sent: EvoLink's `full`, `minimal` or `without_error`; RelayDance's "
            "`documented`, `new_api`, `openai` or `ark`; Kinovi's `envelope`, `state` or `flat`; x402.org's answer "
            "with the video (`sync`) or with where to ask for it (`async`); Replicate's output as a "
            "`list`; OpenRouter's results `unsigned` (behind its key) only; fal's callback without the result "
            "(`no_payload`) or its status without the error (`without_error`); Kling's status answer with one "
            "`object`; WaveSpeed's callback `without_input`."
        ),
    ] = ""
    lost: Annotated[bool, Meta(description="No callback is ever sent.")] = False
    late_s: Annotated[
        float, Meta(ge=0, le=PAUSE_MAX_S, description="The last callback is sent only so many seconds after the end.")
    ] = 0.0
    duplicate: Annotated[int, Meta(ge=0, le=100, description="So many more copies of the last callback.")] = 0
    changed: Annotated[
        bool, Meta(description="A second copy of the last callback comes with its result URLs signed anew.")
    ] = False
    reordered: Annotated[
        bool, Meta(description="A `running` comes after the end, where the provider has such a callback.")
    ] = False
    unknown_word: Annotated[
        str, Meta(max_length=100, description="Before the end, a callback comes with this status word.")
    ] = ""
    forged: Annotated[
        bool, Meta(description="Another callback goes to the same URL with a letter of its token changed.")
    ] = False
    signed: Annotated[
        str,
        Meta(
            description="The callback is signed, which counts with the sandbox alone: `ok`, `forged` (as if it were "
            "another body), or `unknown_key` (by a key that is not published)."
        ),
    ] = ""
    wrong_id: Annotated[bool, Meta(description="The callback is about another job of the provider.")] = False
    upset_url: Annotated[
        str,
        Meta(
            description="The callback URL is mangled: `slash` (one more at its end), `query` (a taskId appended), "
            "`double_slash` (before its path), or `truncated`."
        ),
    ] = ""

    huge: Annotated[int, Meta(ge=0, le=1 << 26, description="So many bytes of padding in the callback.")] = 0
    malformed: Annotated[
        str,
        Meta(
            description="The callback's body is `not_json`, `empty`, an `array` or `deep` (100,000 levels), says its "
            "status `twice`, or holds a `nan`, a `nul`, a lone `surrogate` or a `bigint` (5,000 digits)."
        ),
    ] = ""
    encoding: Annotated[
        str,
        Meta(description="The callback's body is compressed (`gzip`), in `utf-16`, or has a byte order mark (`bom`)."),
    ] = ""
    content_type: Annotated[
        str, Meta(max_length=100, description="The callback's content type, instead of application/json.")
    ] = ""
    chunked: Annotated[bool, Meta(description="The callback's body comes in chunks, without a content-length.")] = False
    drip_s: Annotated[
        float,
        Meta(ge=0, le=PAUSE_MAX_S, description="The callback's body comes in pieces, spread over so many seconds."),
    ] = 0.0
    cut: Annotated[
        bool, Meta(description="The connection ends in the middle of the callback's body, and no other try is made.")
    ] = False

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not in its list, and for an impossible lie."""
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                known = ", ".join(word for word in words if word)
                raise ValueError(f"{name} must be one of {known}; it is {getattr(self, name)!r}")
        if (self.check == "lies") != bool(self.lie):
            raise ValueError("check=lies and lie belong together: lie=failed says which state is claimed")


def sentences() -> dict[str, str]:
    """Each fault with its sentence, in the order of the switchboard."""
    fields = msgspec.inspect.type_info(Faults)
    assert isinstance(fields, msgspec.inspect.StructType)
    found = {}
    for field in fields.fields:
        assert isinstance(field.type, msgspec.inspect.Metadata)
        found[field.name] = str((field.type.extra_json_schema or {})["description"])
    return found


def of_names(given: Mapping[str, str]) -> Faults:
    """Return the faults of these names and texts; ValueError says in a sentence which name or value is not known."""
    unknown = [name for name in given if name not in Faults.__struct_fields__]
    if unknown:
        known = ", ".join(sorted(Faults.__struct_fields__))
        raise ValueError(f"the sandbox knows no fault {unknown[0]!r}; it knows {known}")
    for field in msgspec.structs.fields(Faults):
        try:
            msgspec.convert(given.get(field.name, field.default), field.type, strict=False)
        except msgspec.ValidationError:
            must = validation.describe(msgspec.inspect.type_info(field.type))
            raise ValueError(f"the fault {field.name} must be {must}, not {given[field.name][:40]!r}") from None
    try:
        return msgspec.convert(given, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def of_prompt(prompt: object) -> Faults | None:
    """Return the faults that a prompt asks for, `[sandbox: lost; outcome=failed]`; ValueError as `of_names`."""
    found = _DIRECTIVE.search(prompt) if isinstance(prompt, str) else None
    if found is None:
        return None
    pairs = (part.partition("=") for part in found[1].split(";") if part.strip())
    return of_names({name.strip(): value.strip() or "true" for name, _, value in pairs})
