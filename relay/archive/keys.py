"""The key of a copy: made of the operator's template and of ids alone, so that no text of a client is part of it.

No two tries that might write at the same time have the same key, and no key is used again once its object is to be
deleted: from the second such key of a result on, the number of the key follows that of the result, as in `job_…-0_2`.
"""

from typing import Final

from relay.archive.content_types import EXTENSIONS
from relay.clock import rfc3339
from relay.storage.copies import DueCopy

OTHER: Final = "bin"


def object_key(template: str, copy: DueCopy, content_type: str, writes: int) -> str:
    """Return the key of a copy: the `writes`th, counted from 1."""
    return template.format(
        project=copy.project_id,
        provider=copy.provider,
        date=rfc3339(copy.created_at)[:10],
        job=copy.job_id,
        n=copy.number if writes <= 1 else f"{copy.number}_{writes}",
        kind=copy.kind,
        ext=EXTENSIONS.get(content_type, OTHER),
    )
