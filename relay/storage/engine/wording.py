"""The statements as PostgreSQL takes them: SQLite's text in its words, for a whole batch, and several in one."""

import re
from collections.abc import Sequence
from typing import Any, Final

from relay.storage.engine.database import Params
from relay.storage.engine.statements import PARAMETER, Numbered

_LIST: Final = re.compile(r"(NOT )?IN \(SELECT (?:value FROM json_each\((:[a-z_]+)\)|(\w+ FROM (?:found|taken)))\)")
_VALUES: Final = re.compile(r"VALUES \((.*)\)(\s+ON CONFLICT DO NOTHING)?\Z", re.DOTALL)
_KEY: Final = re.compile(r"/\* (?:FROM|,) many \*/ WHERE [\w.]+ = :([a-z_]+)")
_WRITTEN: Final = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_NUMBER: Final = "CAST(CAST({} AS TEXT) AS BIGINT)"
_FOR_UPDATE: Final = "/* for update */"
_AS_READ: Final = "/* as it was read */"
MOVED: Final = "something relay had read has changed, so it reads it again and writes it then"
"""What the server says, and writes into its log, when it refuses a batch that was not read under locks."""
_WORDS: Final = {
    "/* skip locked */": "FOR UPDATE SKIP LOCKED",
    "/* its version, */": "xmin AS version,",
    "/* that version, */": "version,",
    _AS_READ: "AND xmin = :version",
    "json_group_array(json_array(": "json_agg(json_build_array(",
    "/* which need not outlast a crash */": "AND (SELECT set_config('synchronous_commit', 'off', TRUE)) IS NOT NULL",
    "/* this transaction, */": _NUMBER.format("pg_current_xact_id()") + ",",
    "/* the oldest open transaction, */": _NUMBER.format("pg_snapshot_xmin(pg_current_snapshot())") + ",",
    "/* and no open transaction is older */": "AND position < "
    + _NUMBER.format("pg_snapshot_xmin(pg_current_snapshot())"),
    "/* the first open transaction here */ 0": """LEAST(
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT),
        (
            SELECT MIN(newest - CASE WHEN behind < 2147483648 THEN behind ELSE behind - 4294967296 END) FROM (
                SELECT newest, (newest - CAST(CAST(backend_xid AS TEXT) AS BIGINT)) & 4294967295 AS behind
                FROM pg_stat_activity,
                    (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT) AS newest) AS now
                WHERE datname = current_database() AND backend_xid IS NOT NULL
            ) AS sessions
        )
    )""",
    "/* or no transaction here had its number */": "OR ahead.position >= "
    + _NUMBER.format("pg_snapshot_xmax(pg_current_snapshot())"),
}
"""What a comment in a statement says here; transactions are numbered as they begin to write, never twice."""


class Statement(Numbered):
    """A statement as PostgreSQL takes it: `$1` for `:name`, its words for a list in JSON and for a comment.

    `many` is the same for a batch, and `types` are its parameters', once they are known. `writes` are the tables that
    it changes, `words` all that it is made of. `unlocked` is the text without its locks.
    """

    def __init__(self, text: str) -> None:
        text, guarded = _LIST.sub(_in_array, text), _AS_READ in text
        for comment, word in _WORDS.items():
            text = text.replace(comment, word)
        self.writes = frozenset(_WRITTEN.findall(text))
        super().__init__(text.replace("/* FROM many */ ", "").replace("/* , many */ ", ""), "$")
        self.unlocked, self.text = self.text, self.text.replace(_FOR_UPDATE, "FOR UPDATE")
        batch = "/* FROM many */" in text or "/* , many */" in text or _VALUES.search(text)
        self.many = Many(text, guarded=guarded) if batch else None
        self.words = frozenset(re.findall(r"\w+", self.text))
        self.types: list[str] | None = None


def _in_array(found: re.Match[str]) -> str:
    """A list in JSON as an array that an index is searched by; as rows it would be joined, perhaps the wrong way."""
    word = "<> ALL" if found[1] else "= ANY"
    return f"{word} (ARRAY(SELECT {found[3] or f'jsonb_array_elements_text(CAST({found[2]} AS JSONB))'}))"


def followed(first: str, then: str) -> str:
    """One statement that does what the first does, and reads what the second does by the ids that it gives."""
    return f"WITH taken AS ({first}) {then.replace('value FROM json_each(:ids)', 'id FROM taken')}"


class Many:
    """A statement that takes a whole batch: each parameter is an array, and `unnest` makes rows of them again.

    `text` has a place for the arrays and their types, which the server tells. `key` names the parameter by which rows
    are found, if any: a batch is sent in its order, since two processes that lock the same rows in two orders wait for
    each other.
    """

    def __init__(self, statement: str, *, guarded: bool = False) -> None:
        self.guarded = guarded
        self.names = list(dict.fromkeys(PARAMETER.findall(statement)))
        text = _VALUES.sub(r"SELECT \1 /* FROM many */\2", statement)
        rows = f"unnest({{arrays}}) AS many({', '.join(f'p_{name}' for name in self.names)})"
        self.text = PARAMETER.sub(r"many.p_\1", text)
        self.text = self.text.replace("/* FROM many */", f"FROM {rows}").replace("/* , many */", f", {rows}")
        found = _KEY.search(statement)
        self.key = found[1] if found else None

    def fits(self, many: Sequence[Params]) -> bool:
        """Whether each row is found once: a statement changes a row once, whatever its arrays say."""
        return self.key is None or len({params[self.key] for params in many}) == len(many)

    def arrays(self, many: Sequence[Params]) -> list[list[Any]]:
        """One array for each parameter."""
        key = self.key
        ordered = many if key is None else sorted(many, key=lambda params: params[key])
        return [[params[name] for params in ordered] for name in self.names]


def together(statements: Sequence[Statement], hint: str | None = None) -> str:
    """One statement that does what these do for a batch each, and what `hint` selects with them; their types are known.

    All of them see the tables as they were before it, so none may mention what another changes. What is guarded comes
    first, since its rows are selected, and locks them in their order; where one has changed, the statement fails.
    https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING
    """
    texts, number = [], 1
    selected = []
    for place, statement in enumerate(statements):
        assert statement.many is not None, "whoever asks has looked"
        assert statement.types is not None, "whoever asks has looked"
        arrays = [f"${number + index}::{name}[]" for index, name in enumerate(statement.types)]
        text = statement.many.text.format(arrays=", ".join(arrays))
        if statement.many.guarded:
            text += " RETURNING 1"
            good = f"(SELECT COUNT(*) FROM part_{place}) = CARDINALITY({arrays[0]})"  # noqa: S608 - no value is in it
            selected.append(f"CAST(CASE WHEN {good} THEN '1' ELSE '{MOVED}' END AS INTEGER)")
        texts.append(text)
        number += len(statement.types)
    selected += [hint] if hint else []
    texts += [f"SELECT {', '.join(selected)}"] if selected else []
    parts = ", ".join(f"part_{place} AS ({text})" for place, text in enumerate(texts[:-1]))
    return f"WITH {parts} {texts[-1]}" if parts else texts[-1]
