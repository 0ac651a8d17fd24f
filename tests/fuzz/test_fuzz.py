"""Each target of `tests/fuzz` for a moment; `python -m bench fuzz` runs them for hours."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.providers import PROVIDERS
from relay.providers.base import callbacks_expected
from tests.fuzz.mutating import Mutator
from tests.fuzz.run import run
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_was_found_once_stays_mended(name: str) -> None:
    """Hold the rule for the inputs to begin with and for each that broke it once; reach what they are to reach."""
    target = TARGETS[name]
    assert target.outcomes <= {target.check(data) for data in target.corpus()}


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), raw=st.binary(max_size=200))
def test_any_bytes(name: str, seed: int, raw: bytes) -> None:
    """Hold the rule for any bytes, and for recorded ones after some changes."""
    target, pool = TARGETS[name], TARGETS[name].corpus()
    random = Random(seed)
    target.check(raw)
    target.check(Mutator(random, target.words, pool, structured=target.structured).mutated(random.choice(pool)))


def test_each_provider_is_a_target() -> None:
    """Fuzz answers and requests of every provider, and the callbacks of each that sends some."""
    wanted = {f"{kind}-{name}" for name in PROVIDERS for kind in ("answers", "requests")}
    wanted |= {f"callbacks-{name}" for name, provider in PROVIDERS.items() if callbacks_expected(provider)}
    assert wanted <= TARGETS.keys()


def test_a_broken_rule_is_found() -> None:
    """Return the input that broke a rule, once for each place, however often it was found; try others after it."""

    def check(data: bytes) -> str:
        """Break for some inputs."""
        if b"x" in data:
            raise ValueError("an x")
        return "good"

    outcome = run(Target(name="a", check=check, seeds=[b"abc"], words=[b"x"]), seed=1, seconds=60, tries_max=500)
    assert outcome.tried == 500
    [broken] = outcome.broken.values()
    assert b"x" in broken.data
    assert broken.error == "ValueError: an x"
    assert 0 < outcome.outcomes["good"] < 500


def test_a_run_follows_from_its_seed() -> None:
    """Try the same inputs again with the same seed, and others with another one."""

    def tried(seed: int) -> list[bytes]:
        inputs: list[bytes] = []

        def check(data: bytes) -> str:
            """Keep an input."""
            inputs.append(data)
            return "tried"

        run(Target(name="a", check=check, seeds=[b"some bytes"]), seed, 60, 50)
        return inputs

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_each_folder_of_the_corpus_is_a_targets() -> None:
    """Find no input that nothing reads, and none that is too large to keep."""
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
    assert all(path.stat().st_size < 20_000 for path in CORPUS.glob("*/*"))
