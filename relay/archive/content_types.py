"""What a result is, by its first bytes: what a server declares is not trusted, nor is a URL's ending."""

from collections.abc import Iterable
from typing import Final

from relay.uploads.file_types import image_type

START_BYTES: Final = 512
"""So many first bytes decide."""
UNKNOWN: Final = "application/octet-stream"
EXTENSIONS: Final = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/avi": "avi",
    "video/mp2t": "ts",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "audio/mpeg": "mp3",
    "audio/wave": "wav",
    "audio/mp4": "m4a",
    "audio/flac": "flac",
    "application/ogg": "ogg",
    "text/html": "html",
    "text/xml": "xml",
    "application/json": "json",
}
_BRANDS: Final = {b"qt  ": "video/quicktime", b"avif": "image/avif", b"avis": "image/avif", b"M4A ": "audio/mp4"}
_RIFF: Final = {b"AVI ": "video/avi", b"WAVE": "audio/wave"}
_PACKET, _SYNC = 188, 0x47


def sniffed(start: bytes) -> str:
    """Return the type by the first START_BYTES of a result; `application/octet-stream` for one that is not known.

    https://mimesniff.spec.whatwg.org/#matching-an-audio-or-video-type-pattern; ISO/IEC 14496-12 for the brands of
    `ftyp`, and 13818-1 for the packets of a transport stream.
    """
    if found := image_type(start):
        return found
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "video/mp4")
    if start[:4] == b"RIFF":
        return _RIFF.get(start[8:12], UNKNOWN)
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in start[:64] else "video/x-matroska"
    for beginning, kind in ((b"OggS", "application/ogg"), (b"fLaC", "audio/flac"), (b"ID3", "audio/mpeg")):
        if start.startswith(beginning):
            return kind
    if start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    if len(start) > _PACKET and start[0] == _SYNC and start[_PACKET] == _SYNC:
        return "video/mp2t"
    return _text(start)


def _text(start: bytes) -> str:
    """Return the type of a page, which servers send in place of a result that is gone."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "text/html"
    if text.startswith(b"<?xml"):
        return "text/xml"
    return "application/json" if text[:1] in (b"{", b"[") else UNKNOWN


def allowed(content_type: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern names the type: itself, or `video/*`."""
    return any(
        pattern == content_type or (pattern.endswith("/*") and content_type.startswith(pattern[:-1]))
        for pattern in patterns
    )
