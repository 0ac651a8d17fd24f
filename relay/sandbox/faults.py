"""What a stand-in can be told to do wrong, one job at a time: by a test, or by `[sandbox: …]` in the prompt."""

import re
from typing import Final

import msgspec

_DIRECTIVE: Final = re.compile(r"\[sandbox:([^\]]{0,300})\]")


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The faults of one job; the defaults are a provider that works."""

    submit: str = "ok"
    """`ok`, `hang`, `reset` (nothing is created), `reset_after` (it is), `empty` (200 without a body), `id_missing`."""
    status_code: int = 200
    """Refuses the submission with this status in the provider's own error shape."""
    html: bool = False
    """The refusal is a proxy's HTML page."""
    outcome: str = "succeeded"
    """How the job ends: `succeeded`, `failed`, `canceled`, `no_output`."""
    version: str = ""
    """Which published form of the callback is sent; empty for the provider's first."""
    lost: bool = False
    """No callback is ever sent."""
    early: bool = False
    """The job ends and calls back before the submission is answered."""
    duplicate: int = 0
    """So many more copies of the last callback."""
    reordered: bool = False
    """A `running` comes after the end, where the provider has such a callback."""
    forged: bool = False
    """Another callback goes to the same URL with a letter of its token changed."""
    wrong_id: bool = False
    """The callback is about another job of the provider."""
    huge: int = 0
    """So many bytes of padding in the callback."""


def of_prompt(prompt: object) -> Faults | None:
    """The faults that a prompt asks for, `[sandbox: lost=true; outcome=failed]`; ValueError when they are not known."""
    found = _DIRECTIVE.search(prompt) if isinstance(prompt, str) else None
    if found is None:
        return None
    pairs = (part.partition("=") for part in found[1].split(";") if part.strip())
    try:
        return msgspec.convert(
            {name.strip(): value.strip() or "true" for name, _, value in pairs}, Faults, strict=False
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"the sandbox does not know this fault: {error}") from None
