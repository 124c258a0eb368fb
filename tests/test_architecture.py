"""Who may import whom, and what must stay lazy."""

import ast
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmark.registry import ALLOWED, imported

ROOT = Path(__file__).resolve().parents[1]
HARNESS = sorted((ROOT / "benchmark").glob("*.py"))
METHODS = sorted([*(ROOT / "baselines").glob("*.py"), *(ROOT / "estimators").glob("*.py")])
LAYERS = (  # a module imports only from layers before its own
    {"__init__", "errors", "text", "kernel", "streams", "optimizers", "models", "calculus", "published", "surroundings"},
    {"files", "git", "places", "records", "placement", "tangents", "modules"},
    {"problem", "machine"},
    {
        "syntax",
        "updaters",
        "data",
        "sweep",
        "kronecker",
        "projections",
        "noise",
        "questions",
        "metrics",
        "statistics",
        "transport",
    },
    {"dense", "solvers"},
    {"convolution"},
    {"engine"},
    {"chunks", "readout"},
    {"train"},
    {"features", "hub", "registry", "shifts"},
    {"warmup"},
    {"tasks", "scaffold"},
    {"protocols", "counterfactuals"},
    {"limits", "uses"},
    {"suites", "truth", "export", "results", "jail"},
    {"sandbox"},
    {"evaluate"},
    {"inmate", "migrate", "run", "board", "speed", "doctor", "tune", "submission"},
    {"suspicions"},
    {"verdicts"},
    {"card", "prices", "proposal", "reproduce", "report", "figures", "cite", "tracking", "manifest", "schema"},
    {"page", "check", "audit"},
    {"own", "verify"},
    {"submitting"},
    {"cli"},
    {"__main__"},
)
HIDDEN = {  # all that stands on tasks, and what of the layers below would tell of them
    *set.union(*LAYERS[LAYERS.index({"tasks", "scaffold"}) :]),
    *("data", "features", "hub", "metrics", "noise", "published", "statistics"),
}


def inside(path: Path, package: str = "benchmark") -> set[str]:
    """The modules of a package that a file imports anywhere, functions included."""
    names = imported(ast.parse(path.read_text()))
    assert path.parent.name == "benchmark" or "benchmark" not in names  # all else hangs on the bare package
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")} - {"__version__", "PROTOCOL"}


def test_every_module_of_the_harness_has_its_layer() -> None:
    assert {path.stem for path in HARNESS} == set.union(*LAYERS)


@pytest.mark.parametrize("path", HARNESS, ids=lambda path: path.stem)
def test_imports_in_the_harness_point_one_way(path: Path) -> None:
    layer = next(depth for depth, names in enumerate(LAYERS) if path.stem in names)
    below = set.union(set(), *LAYERS[: layer or 0], LAYERS[0] if not layer else set())

    assert inside(path) <= below
    assert not inside(path, "baselines") | inside(path, "estimators")


@pytest.mark.parametrize("path", METHODS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_estimator_imports_neither_what_is_hidden_nor_another_estimator(path: Path) -> None:
    assert inside(path) <= set(ALLOWED)
    assert not inside(path, "baselines") | inside(path, "estimators")


@pytest.mark.parametrize("name", ALLOWED)
def test_what_an_estimator_may_import_does_not_lead_to_what_is_hidden(name: str) -> None:
    reached, todo = set(), {name}
    while todo:
        reached |= todo
        todo = set.union(*(inside(ROOT / "benchmark" / f"{module}.py") for module in todo)) - reached

    assert not reached & HIDDEN


def test_help_needs_no_slow_import() -> None:
    slow = ("torch", "numpy", "scipy", "sklearn", "datasets")
    code = f"import sys; from benchmark.cli import parser; parser().format_help(); print(set({slow}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_train_retrain_estimate_and_score_need_neither_datasets_nor_wandb() -> None:
    code = """
import sys
for absent in ("datasets", "huggingface_hub", "wandb", "ray"):
    sys.modules[absent] = None
from benchmark.cli import main
sys.exit(main(["run", "--task", "quick-breast-cancer-logistic-sgd", "--seeds", "1", "--estimator", "sgd-ie"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "sgd-ie" in done.stdout


@pytest.mark.parametrize("path", [*HARNESS, *METHODS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nothing_draws_from_global_random_state_or_unpickles(path: Path) -> None:
    forbidden = (
        r"np\.random\.(?!RandomState)|torch\.manual_seed|torch\.load|torch\.rand\w*\((?!.*generator)|import random|pickle"
    )

    assert not re.search(forbidden, path.read_text())


@pytest.mark.parametrize(("folder", "allowed"), [("lib/site-packages/library", True), ("benchmark", False)])
def test_how_a_library_s_source_is_written_is_no_failure_of_a_test_and_how_ours_is_written_is(
    folder: str, allowed: bool, tmp_path: Path
) -> None:
    """As at the first import of what an installation did not compile; POT has such an escape sequence."""
    at = str(tmp_path / folder / "module.py")

    with nullcontext() if allowed else pytest.raises(SyntaxError, match="invalid escape sequence"):
        compile('PATTERN = "\\d"\n', at, "exec")
