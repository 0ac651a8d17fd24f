"""Makes the TLS context that all outbound connections share, and describes certificate and handshake failures."""

import asyncio
import os
import ssl
from functools import cache
from pathlib import Path
from typing import Final

from relay.errors import SettingsError

FILE, FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_CERTIFICATE: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted, or comes without its chain",
    23: "was revoked",
    62: "is for another name",
    64: "is for another address",
}
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


class Trust:
    """The TLS context that all outbound connections share, made for the first connection that needs it.

    Loading the authorities costs 18 ms and 2 MB at start. With `SSL_CERT_FILE` or `SSL_CERT_DIR` they are loaded now,
    so that a start shows what is wrong with these; SettingsError then.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        if context is None and (os.environ.get(FILE) or os.environ.get(FOLDER)):
            context = tls_context()
        self._context = context
        self._loading: asyncio.Future[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the context; its first caller loads it in a thread, in which OpenSSL does not hold up the loop."""
        if self._context is None:
            self._loading = self._loading or asyncio.ensure_future(asyncio.to_thread(tls_context))
            self._context = await asyncio.shield(self._loading)  # a caller's time-out does not end it
        return self._context


def tls_context() -> ssl.SSLContext:
    """Return the client context of this process: at least TLS 1.2, HTTP/1.1, certificate and name verified.

    The trusted authorities are the system's; `SSL_CERT_FILE` replaces its file and `SSL_CERT_DIR` its folder, as in
    OpenSSL itself. If the system has no such file, as in a small image, Mozilla's authorities (certifi) are used.
    Raise SettingsError if one of the two variables names a path without certificates.
    """
    return _loaded(os.environ.get(FILE), os.environ.get(FOLDER))


@cache  # loading the authorities takes 20 ms
def _loaded(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return a context with the authorities that the two variables name."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509"]:
        if file:
            raise SettingsError(f"{FILE} must name a file of PEM certificates that relay can read")
        if not folder:
            import certifi  # noqa: PLC0415 - it takes 3 ms to load

            context.load_verify_locations(cafile=certifi.where())
    if folder and not all(Path(each).is_dir() for each in folder.split(os.pathsep)):
        raise SettingsError(f"{FOLDER} must name a folder of certificates")
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Debian leaves it to OpenSSL, whose minimum may be older
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_failure(error: Exception) -> str:
    """Return what is wrong with the certificate or the handshake, without names and addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        otherwise = f"was not accepted ({error.verify_message})"  # OpenSSL's texts hold no name
        return f"TLS failed: the certificate {_CERTIFICATE.get(error.verify_code, otherwise)}"
    if isinstance(error, ConnectionError):
        return "TLS failed: the connection was closed in the handshake"
    reason = getattr(error, "reason", None)
    return "TLS failed: what answers speaks no TLS" if reason in _NO_TLS else "TLS failed: the handshake"
