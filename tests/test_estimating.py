"""The page on what an estimator may use says what the code says, and its examples keep the rules."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem

from benchmark import estimating as face
from benchmark.base.errors import LoobenchError
from benchmark.core.problem import Problem, Samples
from benchmark.core.registry import imported_file
from benchmark.core.solvers import SOLVERS
from benchmark.core.trajectory import Trajectory
from benchmark.publishing import guide
from benchmark.retraining.train import train
from benchmark.running.evaluate import estimate
from benchmark.sandbox.client import Rules
from benchmark.submissions import check

PAGE = guide.PAGE.read_text()
ROOT = guide.ROOT
EXAMPLES = {
    title: code
    for title, code in re.findall(r"^##+ ([^\n]+)\n(?:(?!^##)[^\n]*\n)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    if "\n@estimator(" in code
}


def test_the_page_is_what_the_code_gives() -> None:
    assert guide.filled(PAGE) == PAGE, "write it anew: python -m benchmark.publishing.guide"


def test_the_page_has_each_name_of_the_face_once() -> None:
    names = guide.named(PAGE)

    assert len(names) == len({*names})
    assert {name.partition(".")[0] for name in names} == {*face.__all__}


def test_the_page_has_each_function_of_calculus_that_estimators_use() -> None:
    sources = [path.read_text() for folder in ("baselines", "estimators") for path in (ROOT / folder).glob("*.py")]
    used = {name for source in sources for name in re.findall(r"\bcalculus\.\w+", source)}

    assert used <= {*guide.named(PAGE)}


@pytest.mark.parametrize("kind", [Trajectory, Problem, Samples])
def test_the_page_says_what_each_attribute_of_a_run_is(kind: type) -> None:
    found = guide.definition(kind.__name__)
    assert isinstance(found.node, ast.ClassDef)
    meanings = {re.sub(r"\W.*", "", name[1:]): meaning for name, _, meaning in guide.members(found, found.node)}

    assert meanings.keys() == {name for name in {*dir(kind), *kind.__annotations__} if not name.startswith("_")}
    assert all(meanings.values())


def test_the_page_names_each_solver_and_its_settings() -> None:
    told = guide.entry("solve")

    for name, solver in SOLVERS.items():
        settings = [*inspect.signature(solver.function).parameters][2:]  # after system and vectors
        assert f'"{name}"' in told
        assert all(f"`{setting}`" in told for setting in settings), name


@pytest.mark.parametrize("name", ["nothing", "calculus.nothing"])
def test_a_name_that_the_face_lacks_is_refused(name: str) -> None:
    with pytest.raises(LoobenchError, match=rf"estimating.md names {name}, which"):
        guide.filled(f"<!-- from the code: solve {name} -->\n<!-- end -->")


def test_there_are_six_worked_examples_and_the_smallest_estimator() -> None:
    assert list(EXAMPLES) == [
        "The smallest one",
        "A class mean",
        "A model of scikit-learn",
        "Two settings",
        "All horizons",
        "A solver",
        "Retraining",
    ]


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_keeps_all_rules_of_check(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the sandbox those that models, optimisers and counts decide: each call there takes a tenth of a second."""
    at = str(written(title, tmp_path))
    found = [*check.check(at, Rules(strangers=False)).values()]
    monkeypatch.setattr(check, "RULES", {})
    found += check.check(at).values()

    assert len(found) >= 2
    assert not [finding for findings in found for finding in findings if finding.passed is False]


@pytest.mark.parametrize("title", EXAMPLES)
@pytest.mark.parametrize("query_kind", ["each", "mean"])
def test_an_example_answers_for_three_classes_and_for_each_kind_of_query(title: str, query_kind: str, tmp_path: Path) -> None:
    run = train(problem(MODELS["classes"], OPTIMIZERS["adam"], query_kind=query_kind))

    for variant in imported_file(written(title, tmp_path)).values():
        effect = estimate(variant, run).effect
        assert effect.shape == (len(run.problem.horizons), 12, run.problem.queries)
        assert torch.isfinite(effect).all()


def written(title: str, folder: Path) -> Path:
    """The example as a file of its own."""
    at = folder / "example.py"
    at.write_text(EXAMPLES[title])
    return at
