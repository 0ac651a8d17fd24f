"""The stand-in provider of development mode: it speaks EvoLink's contract, and calls and charges nobody."""

from relay.providers.evolink import EvoLink


class Sandbox(EvoLink):
    """EvoLink's adapter under another name, pointed at this machine."""

    name = "sandbox"
    base_url = "http://127.0.0.1:8000"
