"""The stand-in provider of development mode: it speaks EvoLink's contract, and calls and charges nobody."""

from urllib.parse import quote

from relay.exchange import ApiRequest
from relay.providers.evolink import EvoLink


class Sandbox(EvoLink):
    """EvoLink's adapter under another name, pointed at this machine."""

    name = "sandbox"
    base_url = "http://127.0.0.1:8000"

    def cancellation(self, provider_job_id: str) -> ApiRequest | None:
        """`POST /v1/tasks/{id}/cancel`, a route of the stand-in's own."""
        return ApiRequest(method="POST", path=f"/v1/tasks/{quote(provider_job_id, safe='')}/cancel", body={})
