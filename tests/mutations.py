"""Mutation run: change one constant or comparison at a time, and see whether a test fails.

    python -m tests.mutations [--list] [--workers N] [--only LINE] [file ...]

Without files it mutates every file of `CONCERNED`. It is no part of the ordinary suite: a full run takes half an hour.
A mutant is killed when a test fails or does not end in time; one that survives is a rule that no test holds, or a
change that makes no difference. Each worker has a private copy of the checkout, so the checkout itself never changes.
"""

import argparse
import ast
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
CONCERNED: Final[dict[str, tuple[str, ...]]] = {
    "relay/deliveries/lane.py": ("tests/unit/test_lane_limits.py",),
    "relay/model/backoff.py": ("tests/unit/test_backoff.py", "tests/unit/test_check_limits.py"),
    "relay/jobs/rate_limit.py": (
        "tests/unit/test_room_limits.py",
        "tests/unit/test_pace.py",
        "tests/flow/test_check_times.py",
    ),
    "relay/lifecycle/reports.py": (
        "tests/unit/test_report_limits.py",
        "tests/unit/test_check_limits.py",
        "tests/unit/test_lifecycle.py",
    ),
    "relay/lifecycle/checks.py": ("tests/unit/test_check_limits.py", "tests/unit/test_lifecycle.py"),
    "relay/jobs/status_checks.py": (
        "tests/flow/test_check_times.py",
        "tests/flow/test_timer_limits.py",
        "tests/flow/test_check_answers.py",
        "tests/unit/test_pace.py",
        "tests/flow/test_check.py",
        "tests/flow/test_confirmation.py",
    ),
    "relay/security/fair_share.py": ("tests/unit/test_room_limits.py",),
    "relay/security/shares.py": ("tests/unit/test_room_limits.py",),
    "relay/deliveries/dispatcher.py": (
        "tests/storage/test_flow_limits.py",
        "tests/flow/test_delivery_times.py",
        "tests/flow/test_lanes.py",
        "tests/flow/test_fair.py",
    ),
    "relay/deliveries/turns.py": ("tests/unit/test_turns.py",),
    "relay/archive/archiver.py": (
        "tests/flow/test_archive_times.py",
        "tests/flow/test_archive_left.py",
        "tests/flow/test_archive_shown.py",
        "tests/flow/test_archive_keyed.py",
        "tests/flow/test_archive_faults.py",
        "tests/flow/test_archive.py",
    ),
    "relay/archive/copier.py": (
        "tests/flow/test_archive_keyed.py",
        "tests/flow/test_archive.py",
        "tests/flow/test_archive_left.py",
        "tests/flow/test_archive_faults.py",
    ),
    "relay/deliveries/attempt_writer.py": ("tests/storage/test_settling.py",),
    "relay/deliveries/attempt.py": (
        "tests/flow/test_retries.py",
        "tests/flow/test_redaction.py",
        "tests/api/test_sending_again.py",
    ),
    "relay/jobs/alerts.py": ("tests/flow/test_alerts.py",),
    "relay/jobs/sweeper.py": ("tests/flow/test_sweep_times.py", "tests/flow/test_expiring.py"),
    "relay/deliveries/redelivery.py": (
        "tests/storage/test_flow_limits.py",
        "tests/api/test_sending_again.py",
    ),
    "relay/deliveries/event_stream.py": (
        "tests/storage/test_flow_limits.py",
        "tests/flow/test_delivery_times.py",
        "tests/flow/test_stream_turns.py",
    ),
    "relay/uploads/file_uploads.py": (
        "tests/flow/test_form_limits.py",
        "tests/flow/test_uploads.py",
        "tests/flow/test_check_times.py",
    ),
    "relay/storage/boots.py": ("tests/storage/test_boots.py",),
    "relay/jobs/resuming.py": ("tests/storage/test_boots_postgres.py",),
    "relay/cli/diagnosis.py": ("tests/system/test_doctor.py",),
    "relay/cli/platforms.py": ("tests/unit/test_platforms.py",),
    "relay/web/client_address.py": ("tests/unit/test_client_address.py",),
    "relay/storage/endpoint_status.py": ("tests/storage/test_flow_limits.py", "tests/flow/test_delivery_times.py"),
    "relay/web/request_body.py": ("tests/unit/test_room_limits.py", "tests/api/test_bodies.py"),
    "relay/web/connections.py": ("tests/unit/test_room_limits.py", "tests/api/test_connections.py"),
    "relay/web/api/files.py": (
        "tests/flow/test_form_limits.py",
        "tests/flow/test_timer_limits.py",
        "tests/flow/test_uploads.py",
    ),
}
"""Each file that is mutated, and the tests that must notice, the quickest first."""
COPIED: Final = ("relay", "tests", "docs", "bench", "deploy", "pyproject.toml", "README.md", "CHANGELOG.md", "Procfile")
PRELOADED: Final = ("hypothesis.stateful", "httpx", "starlette.applications", "uvicorn", "msgspec", "structlog")
"""Libraries that every test needs: imported once, since each mutant's tests run in a fork of this process."""
REWRITTEN: Final = "ignore::pytest.PytestAssertRewriteWarning"
"""pytest would rewrite assertions of its plugins, hypothesis and anyio, and warns that they are imported already."""
LARGE: Final = 1_000
"""A whole number from here on is doubled and halved; a smaller one becomes its neighbours."""
SWAPPED: Final[dict[type[ast.cmpop], str]] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
UNNEGATED: Final[dict[type[ast.cmpop], str]] = {ast.IsNot: "is", ast.NotIn: "in"}
SIGNS: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.IsNot: "is not", ast.NotIn: "not in",
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of one file: bytes `start` to `end` become `new`."""

    file: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        """Return the place and the change."""
        return f"{self.file}:{self.line}: {self.old} → {self.new}"


class Outcome(NamedTuple):
    """Whether the tests passed with a mutant, or with none, whether they were too slow, and how long they took."""

    mutant: Mutant | None
    passed: bool
    late: bool
    taken_s: float


class Source:
    """A file's bytes, and where its nodes are in them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.text = (ROOT / file).read_bytes()
        self._starts = [0]
        for line in self.text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Return the first byte of a node and the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def replaced(self, node: ast.expr, new: str) -> Mutant:
        """Return the mutant in which a whole node has another text."""
        start, end = self.span(node)
        return Mutant(self.file, node.lineno, start, end, self.text[start:end].decode(), new)

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Mutant:
        """Return the mutant in which the operator between two operands is another one."""
        start = self.text.index(old.encode(), self.span(left)[1], self.span(right)[0])
        return Mutant(self.file, left.lineno, start, start + len(old), old, new)


def mutants(file: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of its lines."""
    source = Source(file)
    return sorted(_mutants(source, ast.parse(source.text)), key=lambda one: (one.start, one.new))


def _mutants(source: Source, node: ast.AST) -> Iterator[Mutant]:
    """Yield the mutants below a node; assertions and annotations are left alone, for they bound nothing."""
    match node:
        case ast.Assert():
            return
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            for changed in _neighbours(number):
                yield source.replaced(node, changed)
        case ast.Compare():
            operands = [node.left, *node.comparators]
            for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
                if new := (SWAPPED | UNNEGATED).get(type(operator)):
                    yield source.between(left, right, SIGNS[type(operator)], new)
        case ast.Call(func=ast.Name(id="min" | "max") as function):
            yield source.replaced(function, "max" if function.id == "min" else "min")
        case ast.UnaryOp(op=ast.Not()):
            start, end = source.span(node.operand)
            yield source.replaced(node, source.text[start:end].decode())
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _mutants(source, child)


def _neighbours(number: int | float) -> list[str]:
    """Return what a number becomes: the next ones, or twice and half as much where it is large or has a fraction."""
    if isinstance(number, float):
        return [repr(number * 2), repr(number / 2)] if number else ["1.0"]
    if number >= LARGE:
        return [str(number * 2), str(number // 2)]
    return [str(number + 1), str(number - 1)] if number else ["1"]


class Copy:
    """A private copy of the checkout, in which tests run against one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changes = 0
        self._mutated: tuple[Path, bytes] | None = None
        self._pid = 0
        self.ends_s = 0.0
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
            elif source.exists():
                shutil.copy2(source, target)

    def start(self, tests: tuple[str, ...], timeout_s: float, mutant: Mutant | None = None) -> int:
        """Start the tests, with a mutant or as the code is; return the id of their process."""
        if mutant is not None:
            path = self._folder / mutant.file
            whole = path.read_bytes()
            self._mutated = path, whole
            self._write(path, whole[: mutant.start] + mutant.new.encode() + whole[mutant.end :])
        self.ends_s = time.monotonic() + timeout_s
        self._pid = os.fork()
        if self._pid == 0:
            _run_tests(self._folder, tests)
        return self._pid

    def end(self) -> None:
        """End whatever the tests started, and take the mutant back."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self._pid = 0
        if self._mutated is not None:
            self._write(*self._mutated)
            self._mutated = None

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file with a time of its own, so that Python does not run what it compiled of another mutant."""
        self._changes += 1
        path.write_bytes(content)
        os.utime(path, (self._changes, self._changes))


def _run_tests(folder: Path, tests: tuple[str, ...]) -> NoReturn:
    """Run tests in this forked process, as if Python had been started in the folder; exit with 0 where all pass."""
    os.setsid()
    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    sys.modules.pop("tests", None)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", REWRITTEN, *tests])
    os._exit(int(code))


def _outcomes(copies: list[Copy], jobs: Iterator[tuple[Mutant | None, tuple[str, ...], float]]) -> Iterator[Outcome]:
    """Run each job in a copy that is free, and yield what became of it; what does not end in time has failed."""
    idle = list(copies)
    running: dict[int, tuple[Copy, Mutant | None, float]] = {}
    more = True
    while more or running:
        while more and idle:
            job = next(jobs, None)
            if more := job is not None:
                mutant, tests, timeout_s = job
                copy = idle.pop()
                running[copy.start(tests, timeout_s, mutant)] = copy, mutant, time.monotonic()
        for pid, (copy, mutant, began_s) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = not ended and time.monotonic() > copy.ends_s
            if not ended and not late:
                continue
            copy.end()
            if late:
                os.waitpid(pid, 0)
            del running[pid]
            idle.append(copy)
            yield Outcome(mutant, not late and status == 0, late, time.monotonic() - began_s)
        time.sleep(0.01)


def run(files: list[str], only: int | None, workers: int) -> int:
    """Run every mutant of these files, print what became of each, and return how many survived."""
    chosen = [one for file in files for one in mutants(file) if only in (None, one.line)]
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(workers)]
        timeouts_s = {}
        for file in files:
            ((_, passed, _, taken_s),) = _outcomes(copies[:1], iter([(None, CONCERNED[file], 600.0)]))
            if not passed:
                raise SystemExit(f"the tests of {file} fail without any mutant")
            timeouts_s[file] = 4 * taken_s + 10
            print(f"{file}: its tests take {taken_s:.1f} s", flush=True)
        jobs = ((one, CONCERNED[one.file], timeouts_s[one.file]) for one in chosen)
        try:
            for outcome in _outcomes(copies, jobs):
                killed += not outcome.passed
                word = "SURVIVED" if outcome.passed else "too late" if outcome.late else "killed  "
                print(word, outcome.mutant, flush=True)
        finally:
            for copy in copies:
                copy.end()
    print(f"{killed} of {len(chosen)} mutants killed: {100 * killed / max(1, len(chosen)):.1f} %")
    return len(chosen) - killed


def main() -> int:
    """Read the command line; exit with 1 where a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--workers", type=int, default=2, help="how many mutants are tried concurrently")
    parser.add_argument("--only", type=int, metavar="LINE", help="only the mutants of this line")
    parser.add_argument("file", nargs="*", choices=[*CONCERNED, []], help="the files to mutate")
    given = parser.parse_args()
    files = given.file or list(CONCERNED)
    if given.list:
        for file in files:
            for one in mutants(file):
                print(one)
        return 0
    for name in PRELOADED:
        import_module(name)
    return int(run(files, given.only, given.workers) > 0)


if __name__ == "__main__":
    sys.exit(main())
