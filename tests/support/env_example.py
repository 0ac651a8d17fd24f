"""Write `.env.example` from relay/settings.py: `./deploy/dev env`."""

import sys

from tests.support.documented import documented

HEAD = """\
# Every setting of relay, with its default; relay/settings.py declares them, and `./deploy/dev env` writes this file.
# Copy the lines that you change into relay.env. A line that is not set, or empty, means the default.
"""


def text() -> str:
    """Return the file: each setting as a comment with its meaning above."""
    lines = [f"# {setting.meaning}\n#{setting.name}={setting.default or ''}\n" for setting in documented()]
    return "\n".join([HEAD, *lines])


if __name__ == "__main__":
    sys.stdout.write(text())
