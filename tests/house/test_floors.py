"""The shape of relay/, kept by machine: imports only point down, words keep their meaning.

Each rule reads the syntax trees and yields what it finds as `file:line: reason`. Further down, each is shown what
breaks it, and has to say so.
"""

import ast
import graphlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "relay"

# The floor of each room, lowest first: the name behind `relay.`, a module or a package. A new one is entered here.
FLOORS = {
    room: floor
    for floor, rooms in enumerate(
        (
            (
                *("relay", "model", "security", "settings"),
                *("errors", "clock", "log", "metrics", "validation", "shutdown"),
            ),
            ("lifecycle", "client"),
            ("providers", "storage", "payments", "outbound", "sandbox"),
            ("context",),
            ("deliveries", "callbacks", "jobs"),
            ("uploads", "archive"),
            ("app",),
            ("web",),
            ("cli", "__main__"),
        )
    )
    for room in rooms
}
APART = (2, 4)  # on these floors no room knows another; on every other one they may, without going in cycles
ROOMS_MAX = 28  # so many entries of relay/ are taken in at a glance

# Libraries that live behind one door.
DOORS = {
    "starlette": ("web", "sandbox"),
    "sqlite3": ("storage",),
    "aiosqlite": ("storage",),
    "asyncpg": ("storage",),
    "httpx": ("outbound", "cli", "sandbox", "client"),
    "httpcore": ("outbound",),
    "certifi": ("outbound",),
}
# Modules of relay that only a few may import, or that one may not.
GUESTS_OF_SANDBOX = ("relay.cli.dev", "relay.cli.simulate")
# What a module must not reach, whatever lies between.
FORBIDDEN = {
    "relay.jobs.status_checks": (("relay.payments", "relay.jobs.payment"), "a status check must not move money"),
    "relay.callbacks.receiver": (("relay.payments", "relay.jobs.payment"), "a callback must not move money"),
    "relay.storage.apply_updates": (("relay.outbound", "httpx"), "nothing on the network is awaited in a transaction"),
}

EMPTY_NAMES = re.compile(r"(utils?|helpers?|commons?|managers?|services?)")
UNUSED_WORDS = re.compile(r"subscription|topic", re.IGNORECASE)
CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*|__\w+__")
CONTAINERS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}
DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


class Module:
    """One file of the package, parsed."""

    def __init__(self, package: Path, path: Path) -> None:
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        self.path = path.relative_to(package.parent).as_posix()
        self.name = ".".join(parts).removesuffix(".__init__")
        self.is_package = path.name == "__init__.py"
        self.room = (*self.name.split("."), "relay")[1]
        self.text = path.read_text()
        self.tree = ast.parse(self.text)

    def at(self, line: int, reason: str) -> str:
        """Return a finding as it is shown."""
        return f"{self.path}:{line}: {reason}"


Modules = dict[str, Module]
Rule = Callable[[Modules], Iterator[str]]


def read(package: Path) -> Modules:
    """Every module of a package by its dotted name."""
    found = [Module(package, path) for path in sorted(package.rglob("*.py"))]
    return {module.name: module for module in found}


def imports(module: Module, modules: Modules) -> Iterator[tuple[int, str]]:
    """Yield the line and dotted name of each import, wherever it stands; a module of relay by its full name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = module.name.split(".")[: len(module.name.split(".")) - node.level + module.is_package]
                base = ".".join((*around, *filter(None, [base])))
            full = {f"{base}.{name.name}" for name in node.names}
            yield from ((node.lineno, name) for name in sorted({name if name in modules else base for name in full}))


def room_of(name: str) -> str:
    """`relay.storage.rows` → `storage`; the package itself is the room `relay`."""
    return (*name.split("."), "relay")[1]


def has_a_floor(modules: Modules) -> Iterator[str]:
    """Every room is in the table."""
    for module in modules.values():
        if module.room not in FLOORS:
            yield module.at(
                1, f"{module.room} has no floor: enter it in FLOORS in tests/house/test_floors.py, or name it otherwise"
            )


def points_down(modules: Modules) -> Iterator[str]:
    """Let imports go to a lower floor, to one's own room, or to a neighbor where neighbors may know each other."""
    for module in modules.values():
        floor = FLOORS.get(module.room, 0)
        for line, target in imports(module, modules):
            room = room_of(target)
            if target.split(".")[0] != "relay" or room == module.room or room not in FLOORS:
                continue
            if FLOORS[room] > floor:
                yield module.at(
                    line, f"floor {floor} imports {target} of floor {FLOORS[room]}: imports only point down"
                )
            if FLOORS[room] == floor and floor in APART:
                yield module.at(line, f"{module.room} imports {target}: no room of floor {floor} knows another")


def reaches_nothing_forbidden(modules: Modules) -> Iterator[str]:
    """Keep a module from reaching what it must not, by any chain of imports; the finding names the chain."""
    for start, (targets, reason) in FORBIDDEN.items():
        chains = {start: start} if start in modules else {}
        waiting = list(chains)
        while waiting:
            name = waiting.pop(0)
            for line, target in imports(modules[name], modules):
                if target in chains:
                    continue
                chains[target] = f"{chains[name]} → {target}"
                if any(target == bad or target.startswith(bad + ".") for bad in targets):
                    yield modules[name].at(line, f"{reason}: {chains[target]}")
                elif target in modules:
                    waiting.append(target)


def is_taken_in_at_a_glance(modules: Modules) -> Iterator[str]:
    """Hold the number of rooms."""
    rooms = {module.room for module in modules.values()} - {"relay"} | {"__init__"}
    if len(rooms) > ROOMS_MAX:
        yield modules["relay"].at(
            1, f"relay/ has {len(rooms)} entries, {ROOMS_MAX} at most: {', '.join(sorted(rooms))}"
        )


def has_no_circles(modules: Modules) -> Iterator[str]:
    """No module imports itself by way of others."""
    graph = {name: {target for _, target in imports(module, modules)} - {name} for name, module in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        yield modules[circle[0]].at(1, "imports go in a circle: " + " ← ".join(circle))


def keeps_the_doors(modules: Modules) -> Iterator[str]:
    """Yield a library with a door of its own is imported behind it, and the sandbox by the commands that start it."""
    for module in modules.values():
        for line, target in imports(module, modules):
            top = target.split(".")[0]
            if top in DOORS and module.room not in DOORS[top]:
                yield module.at(line, f"{top} may be imported only in relay/{', relay/'.join(DOORS[top])}")
            if target.startswith("relay.sandbox") and module.room != "sandbox" and module.name not in GUESTS_OF_SANDBOX:
                yield module.at(
                    line, f"the sandbox is no part of the product: only {', '.join(GUESTS_OF_SANDBOX)} import it"
                )


def holds_no_state(modules: Modules) -> Iterator[str]:
    """Yield a module's level holds constants: nothing that one request could leave there for another."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Global):
                yield module.at(
                    node.lineno, f"`global {', '.join(node.names)}`: hand the thing in, or keep it in an object"
                )
        for statement in module.tree.body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or not is_container(statement.value):
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for name in (ast.unparse(target) for target in targets):
                if not CONSTANT.fullmatch(name):
                    yield module.at(
                        statement.lineno, f"{name} is mutable state of the module (a constant is UPPER_CASE)"
                    )


def is_container(value: ast.expr | None) -> bool:
    """Whether the expression makes a list, a dict, a set or the like."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in CONTAINERS
    return isinstance(value, DISPLAYS)


def explains_itself(modules: Modules) -> Iterator[str]:
    """Yield a module says why it exists, and has a name that says what is in it."""
    for module in modules.values():
        if module.tree.body and not ast.get_docstring(module.tree):
            yield module.at(1, "a module needs a docstring that says why it exists")
        for part in module.name.split("."):
            if EMPTY_NAMES.fullmatch(part):
                yield module.at(1, f"`{part}` says nothing of what is in it: name the file after its noun")


def keeps_to_its_words(modules: Modules) -> Iterator[str]:
    """relay says endpoint, event and delivery; the words it does not use are nobody's names."""
    for module in modules.values():
        for line, name in sorted(set(identifiers(module.tree))):
            if UNUSED_WORDS.search(name):
                yield module.at(line, f"`{name}`: relay says endpoint (who wants events) and event type (which ones)")


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is given or used, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name


RULES: tuple[Rule, ...] = (
    *(has_a_floor, points_down, reaches_nothing_forbidden, is_taken_in_at_a_glance, has_no_circles, keeps_the_doors),
    *(holds_no_state, explains_itself, keeps_to_its_words),
)


def test_relay_keeps_the_rules() -> None:
    """No file of relay/ breaks a rule."""
    modules = read(PACKAGE)  # which takes longer than all the rules
    findings = [f"{finding} ({rule.__name__})" for rule in RULES for finding in rule(modules)]
    assert not findings, "\n" + "\n".join(findings)


BROKEN = [
    (has_a_floor, "cellar.py", "", "relay/cellar.py:1: cellar has no floor"),
    (
        points_down,
        "model/job.py",
        "\nfrom relay import app",
        "relay/model/job.py:2: floor 0 imports relay.app of floor 6",
    ),
    (
        points_down,
        "model/job.py",
        "def late() -> None:\n    import relay.app",
        "relay/model/job.py:2: floor 0 imports relay.app",
    ),
    (points_down, "storage/rows.py", "from ..web import routes", "floor 2 imports relay.web of floor 7"),
    (points_down, "storage/__init__.py", "from ..outbound import sender", "no room of floor 2 knows another"),
    (points_down, "callbacks/receiver.py", "from relay.jobs import sweeper", "no room of floor 4 knows another"),
    (
        reaches_nothing_forbidden,
        "jobs/status_checks.py",
        "from relay.payments import policy",
        "relay/jobs/status_checks.py:1: a status check must not move money",
    ),
    (
        reaches_nothing_forbidden,
        "jobs/status_checks.py",
        "from relay.jobs import sweeper",
        "relay.jobs.status_checks → relay.jobs.sweeper → relay.jobs.submission → relay.jobs.payment",
    ),
    (has_no_circles, "jobs/submission.py", "from relay.jobs import sweeper", "imports go in a circle"),
    (
        keeps_the_doors,
        "app.py",
        "import starlette.routing",
        "relay/app.py:1: starlette may be imported only in relay/web",
    ),
    (
        keeps_the_doors,
        "jobs/submission.py",
        "from sqlite3 import connect",
        "sqlite3 may be imported only in relay/storage",
    ),
    (keeps_the_doors, "cli/serve.py", "from relay.sandbox import evolink", "the sandbox is no part of the product"),
    (holds_no_state, "app.py", "seen = {}", "relay/app.py:1: seen is mutable state"),
    (holds_no_state, "app.py", "seen: list[int] = list()", "seen is mutable state"),
    (holds_no_state, "app.py", "def f() -> None:\n    global seen", "relay/app.py:2: `global seen`"),
    (explains_itself, "app.py", "x = 1", "needs a docstring"),
    (explains_itself, "web/helpers.py", "", "`helpers` says nothing"),
    (keeps_to_its_words, "app.py", "\nclass SubscriptionRow: ...", "relay/app.py:2: `SubscriptionRow`"),
    (keeps_to_its_words, "app.py", "call(topic=1)", "`topic`"),
]


@pytest.mark.parametrize(("rule", "file", "text", "finding"), BROKEN)
def test_rule_finds_what_breaks_it(tmp_path: Path, rule: Rule, file: str, text: str, finding: str) -> None:
    """The rule names the file, the line and the reason."""
    written = {
        "__init__.py": "",
        "app.py": "",
        "jobs/payment.py": "",
        "jobs/sweeper.py": "import relay.jobs.submission",
        "jobs/submission.py": "from relay.jobs import payment",
        file: text,
    }
    for path, content in written.items():
        (tmp_path / "relay" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "relay" / path).write_text(content)
    findings = list(rule(read(tmp_path / "relay")))
    assert any(finding in found for found in findings), findings


def test_rules_leave_good_modules_alone(tmp_path: Path) -> None:
    """Constants, imports downwards, within a room and between neighbours are nobody's fault."""
    good = {
        "__init__.py": "",
        "clock.py": '"""Ids."""\nLETTERS = ["a"]\n_SEEN: dict[str, int] = {}\n__all__ = ["LETTERS"]\n',
        "model/__init__.py": "",
        "model/job.py": '"""Nouns."""\nfrom relay import clock\nfrom relay.clock import LETTERS\n',
        "storage/__init__.py": "",
        "storage/rows.py": '"""Rows."""\nimport sqlite3\nfrom relay import model\n',
        "storage/store.py": '"""Store."""\nfrom relay.storage import rows\nfrom .rows import model\n',
        "cli/dev.py": '"""Dev."""\nfrom relay.sandbox import evolink\n',
        "sandbox/evolink.py": '"""A stand-in."""\nimport starlette\nfrom relay import clock\n',
    }
    for path, content in good.items():
        (tmp_path / "relay" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "relay" / path).write_text(content)
    assert [finding for rule in RULES for finding in rule(read(tmp_path / "relay"))] == []
