"""The mutation run: it names files that exist, and changes each limit of them in every way that it promises."""

import ast

from tests.mutations import CONCERNED, ROOT, mutants
from tests.support.rows import rows


@rows("file", CONCERNED)
def test_a_mutated_file_and_its_tests_exist(file: str) -> None:
    """Find the file, its tests and at least one mutant, each of which changes the text and is still Python."""
    text = (ROOT / file).read_bytes()
    assert [test for test in CONCERNED[file] if not (ROOT / test).exists()] == []
    found = mutants(file)
    for mutant in (found[0], found[-1]):
        changed = text[: mutant.start] + mutant.new.encode() + text[mutant.end :]
        assert text[mutant.start : mutant.end].decode() == mutant.old
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
