"""What the tests of the adapters share: recorded bodies, answers made of them, and any JSON at all."""

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from relay.model.job import JobState
from relay.model.provider_http import ProviderResponse
from relay.providers.base import SubmittedJob

RECORDINGS = Path(__file__).parents[1] / "recordings"
NOW_MS = 1_790_000_000_000
JOB_ID = "job_01"
"""relay's own id of a job."""


def without_known(message: str) -> str:
    """Return the error of a field without the list of known fields, which tests/unit/test_validation.py tests."""
    return message.partition("; there are ")[0]


# Text with NUL and lone surrogates in it, and numbers of any size: a decoder may let them through.
texts = st.text(st.characters(codec=None), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)

# Objects whose names mean something to an adapter, with the wrong things under them.
_WORDS_OF_PROVIDERS = """
    id task_id taskId status state data error code message type param fail_reason output outputs results
    result_data url video_url result_url content metadata lastFrameImage progress usage credits_reserved
    creditsUsed task_info estimated_time completeTime errors path required limit model prompt seconds
    duration quality image_urls inputs urls imageUrls videoUrls audioUrls mode role resolution ratio
    aspectRatio outputResolution generate_audio callback_url
    task_status task_status_msg task_info external_id external_task_id task_result videos update_time billing
    task base_resp status_code status_msg file_id file download_url challenge total_seconds
    charge_type amount currency final_unit_deduction model_name contents settings options text audio
"""
_NAMES = _WORDS_OF_PROVIDERS.split()
_WORDS = st.sampled_from(
    ["completed", "FAILURE", "success", "fail", "expired", "Cancelled", "odd", "https://example.com/a.mp4", "100%", "5"]
)
_named = st.recursive(
    scalars | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=6),
    max_leaves=20,
)
bodies = st.dictionaries(st.sampled_from(_NAMES) | texts, _named, max_size=8)


def recorded(provider: str, kind: str, name: str) -> Any:
    """One recorded body, decoded."""
    return msgspec.json.decode((RECORDINGS / provider / kind / f"{name}.json").read_bytes())


def recordings(provider: str, kind: str) -> list[Path]:
    """Return the recorded bodies of a kind (`requests`, `callbacks`, `answers`)."""
    return sorted((RECORDINGS / provider / kind).glob("*.json"))


def answer(status_code: int, body: object, content_type: str = "application/json") -> ProviderResponse:
    """Return an answer with a body: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return ProviderResponse(status_code=status_code, content_type=content_type, body=raw)


def asked(provider_job_id: str | None, **fields: Any) -> SubmittedJob:
    """Return a submitted job, to ask its provider about it."""
    given: dict[str, Any] = {"job_id": JOB_ID, "state": JobState.SUBMITTED} | fields
    return SubmittedJob(provider_job_id=provider_job_id, **given)
