"""Who may import whom, and what must stay lazy."""

import ast
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest

from benchmark.core.registry import FACE

ROOT = Path(__file__).resolve().parents[1]
HARNESS = sorted(path for path in (ROOT / "benchmark").rglob("*.py") if path.parent.name != "loobench")  # which is a face
METHODS = sorted([*(ROOT / "baselines").glob("*.py"), *(ROOT / "estimators").glob("*.py")])
ORDER = (  # a module imports only from those before it, in its own package and in packages above
    "base: text errors streams surroundings files git places records machine means",
    "core: code losses recurrent optimizers layers models wrapped reference recipes calculus blocks tangents modules problem"
    " suitable chains trajectory sweep traced kronecker projections solvers syntax declaration registry",
    "retraining: updaters dense convolution generic engine chunks train readout shifts",
    "estimating",
    "tasks: data features hub noise questions definition protocols suites own finding",
    "scores: metrics intervals ties placement results checks store schema migrate numbers columns rows cells board",
    "truths: effects counterfactuals limits cleansing deletion uses layout workers truth vetting export download published",
    "sandbox: kernel transport warmup answers process session client carried server",
    "running: evaluate charging scoring cell plan run tracking logged sender slurm cluster answers",
    "publishing: legends tables report cite manifest drawing labels plots overviews sizes figures details page audit own guide",
    "studies: published judging extras reproduce comparison plain speed forecast tune costs doctor device card",
    "submissions: scaffold bundle submission proposal suspicions verdicts check check_task subjects inquiry judgement verify",
    "api",
    "commands: terminal declarations options run report list show plot cite prepare truth score doctor new check tune submit "
    "verify audit reproduce migrate speed main",
)
PACKAGES = [line.partition(":")[0] for line in ORDER]
ROOMS = [line.partition(":")[0] for line in ORDER if ":" in line]  # without the module among them
OPEN = ("core", "estimating", "retraining")  # what an estimator's imports are made of, beside benchmark.base


def known() -> list[str]:
    """All names that may be imported from, in that order; a package's own comes before those of its modules."""
    found = []
    for package, _, names in (line.partition(": ") for line in ORDER):
        found += [package, *(f"{package}.{name}" for name in names.split())]
    return found


def own(path: Path) -> str:
    """The name of a file below `benchmark`, as in ``tasks.data``."""
    return ".".join(path.relative_to(ROOT / "benchmark").with_suffix("").parts)


@cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """All imports of a file, functions included."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


@cache
def inside(path: Path, package: str = "benchmark") -> set[str]:
    """The modules of a package that a file imports anywhere, functions included, as in ``tasks.data``."""
    found: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if at(name).exists() else str(node.module) for name in whole}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if f"{alias.name}.".startswith(f"{package}.")}
    return {name.partition(".")[2] for name in found} - {""}


def at(module: str) -> Path:
    """The file of a module that is no package."""
    return ROOT / f"{module.replace('.', '/')}.py"


def test_every_module_of_the_harness_has_its_place_in_the_order() -> None:
    assert {own(path) for path in HARNESS if path.stem not in ("__init__", "__main__")} == {*known()} - {*ROOMS}


@pytest.mark.parametrize("path", HARNESS, ids=own)
def test_imports_in_the_harness_point_one_way_and_name_modules(path: Path) -> None:
    order = known()
    before = order[: order.index(own(path))] if own(path) in order else order if path.stem == "__main__" else []

    assert inside(path) <= {*before} - {*ROOMS}
    assert not inside(path, "baselines") | inside(path, "estimators")


@pytest.mark.parametrize("package", ROOMS)
def test_each_package_says_what_it_is_for_and_has_nothing_else_in_its_opening(package: str) -> None:
    body = ast.parse((ROOT / "benchmark" / package / "__init__.py").read_text()).body

    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def purpose(package: str) -> str:
    """The first sentence of a package's docstring, or of a module's."""
    at = ROOT / "benchmark" / package
    source = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
    said = " ".join(str(ast.get_docstring(ast.parse(source.read_text()))).split())
    return said[: f"{said} ".index(". ") + 1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_table_of_packages_says_what_their_docstrings_say_in_the_order_of_imports(page: str) -> None:
    rows = re.findall(r"^\| `benchmark/(\w+)(?:\.py)?` \| (.+) \|$", (ROOT / page).read_text(), re.MULTILINE)

    assert rows == [(package, purpose(package)) for package in PACKAGES]


def test_the_diagram_has_the_packages_in_the_order_of_imports() -> None:
    diagram = (ROOT / "docs" / "architecture.md").read_text().partition("```text\n")[2].partition("```")[0]

    assert [line.split()[0] for line in diagram.splitlines()] == PACKAGES


@pytest.mark.parametrize("path", METHODS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_estimator_imports_the_face_alone_of_the_harness_and_no_other_estimator(path: Path) -> None:
    assert inside(path) <= {FACE.partition(".")[2]}
    assert not inside(path, "baselines") | inside(path, "estimators")


def test_what_an_estimator_may_import_does_not_lead_to_what_is_hidden() -> None:
    reached: set[str] = set()
    todo = {FACE.partition(".")[2]}
    while todo:
        reached |= todo
        todo = set.union(*(inside(at(f"benchmark.{module}")) for module in todo)) - reached

    assert {name.partition(".")[0] for name in reached} == {"base", *OPEN}


def test_help_needs_no_slow_import() -> None:
    slow = ("torch", "numpy", "scipy", "sklearn", "datasets", "rich", "tabulate", "tqdm")
    code = f"import sys; from benchmark.commands.main import main; main(['-h']); print(set({slow}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "set()"


def test_train_retrain_estimate_and_score_need_neither_datasets_nor_wandb() -> None:
    code = """
import sys
for absent in ("datasets", "huggingface_hub", "wandb", "ray"):
    sys.modules[absent] = None
from benchmark.commands.main import main
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

    assert not re.search(forbidden, path.read_text()) or path.parts[-2:] == ("base", "streams.py")  # which puts it back


@pytest.mark.parametrize(("folder", "allowed"), [("lib/site-packages/library", True), ("benchmark", False)])
def test_how_a_library_s_source_is_written_is_no_failure_of_a_test_and_how_ours_is_written_is(
    folder: str, allowed: bool, tmp_path: Path
) -> None:
    """As at the first import of what an installation did not compile; POT has such an escape sequence."""
    at = str(tmp_path / folder / "module.py")

    with nullcontext() if allowed else pytest.raises(SyntaxError, match="invalid escape sequence"):
        compile('PATTERN = "\\d"\n', at, "exec")
