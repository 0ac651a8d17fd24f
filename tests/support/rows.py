"""A test that goes through a table, instead of a test per row: hundreds of tiny tests cost more than their checks."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])


def rows(names: str | Sequence[str], table: Iterable[Any]) -> Callable[[Test], Test]:
    """Call the test with each row of a table; an error names its row. It is written like `pytest.mark.parametrize`.

    Fixtures are those of the one test, which all rows share. Rows after the first that fails are not tried.
    """
    single = isinstance(names, str)
    arguments = [names] if isinstance(names, str) else list(names)
    given = [(value,) if single else tuple(value) for value in table]
    assert given, "a table without a row tests nothing"
    assert all(len(values) == len(arguments) for values in given)

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)
        kept = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        assert len(kept) + len(arguments) == len(signature.parameters), f"{arguments} are not all arguments"
        shown = signature.replace(parameters=kept)
        called: Any
        if inspect.iscoroutinefunction(test):

            async def called(*positional: Any, **fixtures: Any) -> None:
                shared = shown.bind(*positional, **fixtures).arguments
                for values in given:
                    with row(*values):
                        await test(**shared, **dict(zip(arguments, values, strict=True)))

        else:

            def called(*positional: Any, **fixtures: Any) -> None:
                shared = shown.bind(*positional, **fixtures).arguments
                for values in given:
                    with row(*values):
                        test(**shared, **dict(zip(arguments, values, strict=True)))

        functools.update_wrapper(called, test)
        del called.__wrapped__
        called.__signature__ = shown
        result: Test = called
        return result

    return decorate


@contextmanager
def row(*values: object) -> Iterator[None]:
    """Add the row to whatever the block raises; pytest shows it below the error."""
    try:
        yield
    except BaseException as error:  # pytest's own failures are no Exceptions
        error.add_note(f"in the row {', '.join(_shown(value) for value in values)}")
        raise


def _shown(value: object) -> str:
    """Return a value as a row names it: by its name, if it has one."""
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else repr(value)[:200]
