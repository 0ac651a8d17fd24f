"""Whom relay trusts over TLS: one context, shared by all that it calls, providers and endpoints alike."""

import os
import ssl
from pathlib import Path
from typing import Final

import certifi

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


def trusted() -> ssl.SSLContext:
    """A client's context: TLS 1.2 at least, HTTP/1.1, certificate and name verified.

    The authorities are the system's, where `SSL_CERT_FILE` replaces its file and `SSL_CERT_DIR` its folder, as OpenSSL
    itself does it. Where the system has no such file, as in a small image, those that Mozilla trusts count too.
    SettingsError where one of the two names what holds no authority.
    """
    file, folder = os.environ.get(FILE), os.environ.get(FOLDER)
    context = ssl.create_default_context()  # reading a file of authorities takes 15 ms of a start: one is enough
    if not context.cert_store_stats()["x509"]:
        if file:
            raise SettingsError(f"{FILE} must name a file of PEM certificates that relay can read")
        if not folder:
            context.load_verify_locations(cafile=certifi.where())
    if folder and not all(Path(one).is_dir() for one in folder.split(os.pathsep)):
        raise SettingsError(f"{FOLDER} must name a folder of certificates")
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Debian leaves it to OpenSSL, whose own least may be older
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_words(error: Exception) -> str:
    """What is wrong with the certificate or the handshake; no name and no address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        otherwise = f"was not accepted ({error.verify_message})"  # texts of OpenSSL's that hold no name
        return f"TLS failed: the certificate {_CERTIFICATE.get(error.verify_code, otherwise)}"
    if isinstance(error, ConnectionError):
        return "TLS failed: the connection was closed in the handshake"
    reason = getattr(error, "reason", None)
    return "TLS failed: what answers speaks no TLS" if reason in _NO_TLS else "TLS failed: the handshake"
