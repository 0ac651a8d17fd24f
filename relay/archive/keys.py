"""The key of a copy: made of the operator's template and of ids alone, so that no text of a client is part of it."""

from typing import Final

from relay.archive.content_types import EXTENSIONS
from relay.clock import rfc3339
from relay.storage.copies import DueCopy

OTHER: Final = "bin"


def object_key(template: str, copy: DueCopy, content_type: str) -> str:
    """Return the key of a copy, the same at each try."""
    return template.format(
        project=copy.project_id,
        provider=copy.provider,
        date=rfc3339(copy.created_at)[:10],
        job=copy.job_id,
        n=copy.number,
        kind=copy.kind,
        ext=EXTENSIONS.get(content_type, OTHER),
    )
