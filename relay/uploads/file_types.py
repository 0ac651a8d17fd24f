"""What a file is: an image of a type that providers accept, recognized by its first bytes; and a safe file name."""

import re
from collections.abc import Mapping
from typing import Final

from relay.errors import FieldError, InvalidInput

SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "image/jpeg": (".jpg", ".jpeg"),
    "image/png": (".png",),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
}
START_BYTES: Final = 12
"""The first bytes of each type of image."""
_UNDECLARED: Final = ("", "application/octet-stream")


def image_type(start: bytes) -> str | None:
    """Return the type by an image's first 12 bytes: JPEG, PNG, GIF or WebP; None for anything else.

    https://mimesniff.spec.whatwg.org/#matching-an-image-type-pattern
    """
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def checked_type(start: bytes, declared: str | None) -> str:
    """Return a file's type; raise InvalidInput unless it is an image that providers accept, of the declared type.

    A file without a type, or of `application/octet-stream`, is not declared: its bytes alone count.
    """
    if not start:
        raise InvalidInput([FieldError("file", "is empty")])
    found, said = image_type(start), (declared or "").partition(";")[0].strip().lower()
    said = "image/jpeg" if said == "image/jpg" else said
    if found is None or said not in (*SUFFIXES, *_UNDECLARED):
        must = f"must be one of {', '.join(SUFFIXES)}"
        was = "its first bytes are none of these" if said in (*SUFFIXES, *_UNDECLARED) else "it is declared otherwise"
        raise InvalidInput([FieldError("file", f"{must}; {was}")])
    if said not in (found, *_UNDECLARED):
        raise InvalidInput([FieldError("file", f"is declared as {said}, and its first bytes are those of {found}")])
    return found


def plain_name(name: str, type_: str) -> str:
    """Return a file's name without folders, in letters that every header and URL accepts, with its type's ending."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[-80:].lstrip(".-") or "image"
    return plain if plain.lower().endswith(SUFFIXES[type_]) else plain + SUFFIXES[type_][0]
