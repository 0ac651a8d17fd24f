"""What a URL that a provider is to fetch may be, and that a refused one is told why."""

from relay.providers.base import URL_MAX, check_url
from tests.support.rows import rows

MUST = f"must be a public https or http URL of at most {URL_MAX} characters, without credentials; this "
SCHEME = "does not begin with https:// or http://"
LETTERS = "has a blank, a control character or a backslash"
HOST = "has a host that is local, private or without a dot"
PLACE = "has no valid host and port"


@rows(
    ("url", "fault"),
    [
        ("x", SCHEME),
        ("", SCHEME),
        ("ftp://example.com/a", SCHEME),
        ("https://example.com/a b", LETTERS),
        ("https://example.com\\a", LETTERS),
        ("https://example.com/\n", LETTERS),
        ("https://user:hunter2@example.com/", "has a user name or password"),
        ("https:///a", PLACE),
        ("https://example.com:0/", PLACE),
        ("https://example.com:65536/", PLACE),
        ("https://[::1/", PLACE),
        ("https://localhost/a", HOST),
        ("https://nodot/a", HOST),
        ("https://10.0.0.1/a", HOST),
        ("https://[::1]/a", HOST),
        ("https://example.com/" + "a" * (URL_MAX - 19), f"has {URL_MAX + 1} characters"),
        (5, "is no text"),
    ],
)
def test_a_refused_url_is_told_why(url: object, fault: str) -> None:
    """Name the first rule that a URL breaks, and repeat no part of the URL."""
    (error,) = check_url(url, "images[0]")
    assert (error.path, error.message) == ("images[0]", MUST + fault)


@rows("url", ["https://example.com", "http://example.com:8080/a?b#c", "https://example.com/" + "a" * (URL_MAX - 20)])
def test_a_public_url_is_good(url: str) -> None:
    """Accept public hosts, any port, and a length up to the limit."""
    assert check_url(url, "images[0]") == []


def test_only_the_schemes_of_a_field_are_named() -> None:
    """Name https alone where a provider takes nothing else."""
    (error,) = check_url("http://example.com/a", "image", ("https",))
    assert error.message.startswith("must be a public https URL")
    assert error.message.endswith("this does not begin with https://")
