"""The list of deliberate breaks does not rot, and the runner tells what was found from what was not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mutants
import pytest
from mutants import Mutant

LISTED = mutants.listed()


def faults(mutant: Mutant) -> Iterator[str]:
    """What is wrong with an entry of the list."""
    whole = (mutants.ROOT / mutant.file).read_text()
    try:
        broken = mutant.applied(whole)
    except ValueError as error:
        yield str(error)
        return
    if ast.dump(ast.parse(broken)) == ast.dump(ast.parse(whole)):
        yield f"{mutant.file}: {mutant.put!r} changes nothing"
    for file, _, name in (test.partition("::") for test in mutant.tests):
        if f"def {name.partition('[')[0]}(" not in (mutants.ROOT / "tests" / file).read_text():
            yield f"{file} has no test {name}"


def test_sixty_breaks_or_more_are_listed_each_has_one_place_and_tests_that_are_there() -> None:
    assert [fault for mutant in LISTED for fault in faults(mutant)] == []
    assert len({(one.file, one.find, one.put) for one in LISTED}) == len(LISTED) >= 60
    assert all(one.tests for one in LISTED)


@pytest.mark.parametrize(("test", "found"), [("test_four", "test_doubled.py::test_four"), ("test_nothing", "")])
def test_a_break_is_found_by_a_test_that_fails_and_by_no_other_and_is_taken_back(test: str, found: str, tmp_path: Path) -> None:
    code = "def double(x):\n    return 2 * x\n"
    (tmp_path / "doubled.py").write_text(code)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_doubled.py").write_text(
        "from doubled import double\ndef test_four(): assert double(2) == 4\ndef test_nothing(): assert double(0) == 0\n"
    )

    tried = mutants.attempt(tmp_path, Mutant("doubled.py", "2 * x", "3 * x", "doubles", (f"test_doubled.py::{test}",)))

    assert tried.found_by == found
    assert (tmp_path / "doubled.py").read_text() == code


@pytest.mark.parametrize("text", ["", "a = 1\na = 1\n"])
def test_a_break_without_one_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one place with 'a = 1', got "):
        Mutant("doubled.py", "a = 1", "a = 2", "a", ()).applied(text)
