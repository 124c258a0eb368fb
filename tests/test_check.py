"""`loobench check`: a good estimator keeps every rule, and each planted defect is found by the rule it breaks."""

import random
import re
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.core.declaration import EXACT
from benchmark.core.registry import registered
from benchmark.retraining.train import leave_one_out
from benchmark.submissions import check
from benchmark.submissions.check import Finding

HEAD = """
import torch
from benchmark.estimating import ACC, SGD_IE, Trajectory, effects, estimator
"""
CASES = [f"exact on {case}" for case in EXACT]
DOT = "run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T"


def declare(folder: Path, line: str, **declared: object) -> Path:
    """A file with one estimator whose body is `line`, which has `run` and the plain product `dot` (N, Q)."""
    settings = "".join(f", {name}={value!r}" for name, value in declared.items())
    body = f'@estimator("mine", paper="none"{settings})\ndef mine(run):\n    dot = {DOT}\n    {line}\n'
    (at := folder / "mine.py").write_text(textwrap.dedent(HEAD) + body)
    return at


def found(folder: Path, line: str, **declared: object) -> dict[str, Finding]:
    """The findings by rule."""
    (findings,) = check.check(str(declare(folder, line, **declared))).values()
    return {finding.rule: finding for finding in findings}


def alone(monkeypatch: pytest.MonkeyPatch, *rules: str) -> None:
    """Examine so many rules beside those that the first call decides: each takes calls of its own."""
    monkeypatch.setattr(check, "RULES", {rule: check.RULES[rule] for rule in rules})


def broken(findings: dict[str, Finding]) -> list[str]:
    return [rule for rule, finding in findings.items() if finding.passed is False]


# ---- what keeps the rules --------------------------------------------------------------------------------------------
def test_a_good_file_keeps_every_rule_in_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    findings = found(tmp_path, "return dot")

    assert not broken(findings)
    assert [rule for rule, finding in findings.items() if finding.passed is None] == CASES
    assert "for each sample and step 0.04 gradients, 0 Hessian products" in findings["cost"].detail
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", ["sgd-ie", "acc-sgd-ie-exact", "grad-dot", "adam-ie", "if-direct", "tracin"])
def test_registered_estimators_keep_every_rule(name: str) -> None:
    (findings,) = check.check(name).values()
    assert not [finding for finding in findings if finding.passed is False]


@pytest.mark.parametrize("case", EXACT)
def test_a_true_claim_of_exactness_is_kept(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, *CASES)
    findings = found(tmp_path, "return effects(run, ACC, 'exact')[-1]", exact=(case,), loss_units=True, optimizers=("sgd",))

    assert not broken(findings)
    assert findings[f"exact on {case}"].passed


def test_what_is_exact_after_one_epoch_need_not_be_so_after_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, *CASES)
    line = "return effects(run, SGD_IE, 'exact')[-1]"
    assert broken(found(tmp_path, line, exact=EXACT, optimizers=("sgd",))) == ["exact on least-squares"]


def test_one_that_answers_all_horizons_or_some_rows_keeps_the_rules(tmp_path: Path) -> None:
    assert not broken(found(tmp_path, "return effects(run, SGD_IE, 'linear')", all_horizons=True, optimizers=("sgd",)))
    assert not broken(found(tmp_path, "return dot[run.problem.left_out]"))


def test_models_and_optimisers_that_it_is_not_for_are_said_and_no_fault(tmp_path: Path) -> None:
    findings = found(tmp_path, "return dot", optimizers=("adam",), models="linear")

    assert not broken(findings)
    assert "unsupported: mine is for adam" in findings["models and optimisers"].detail
    assert "unsupported: mine is for linear models" in findings["models and optimisers"].detail


def test_one_that_supports_no_small_problem_cannot_be_checked(tmp_path: Path) -> None:
    assert broken(found(tmp_path, "return dot", max_parameters=1)) == ["models and optimisers"]


# ---- planted defects -------------------------------------------------------------------------------------------------
DEFECTS = {
    "wrong shape": ("return dot.T", "shape", "bad-shape: mine must return"),
    "not a tensor": ("return dot.tolist()", "shape", "got list"),
    "NaN": ("dot[3] = float('nan'); return dot", "finite", "non-finite: mine returned NaN"),
    "one number for all": ("return 0 * dot + 1", "not constant", "constant: mine returned one number"),
    "an exception": ("raise ValueError('no idea')", "answers", "raised ValueError: no idea"),
    "mutation": ("run.problem.train.inputs.mul_(2); return dot", "inputs untouched", "mutated-inputs: mine changed"),
    "numbers of torch's global state": ("return dot + torch.rand(dot.shape)", "deterministic", "non-deterministic: "),
    "numbers of NumPy's global state": (
        "import numpy; return dot + torch.from_numpy(numpy.random.rand(*dot.shape))",
        "deterministic",
        "non-deterministic: ",
    ),
    "numbers of Python's global state": ("import random; return dot * random.random()", "deterministic", "non-deterministic: "),
    "the time of day": ("import time; return dot * time.time_ns()", "deterministic", "non-deterministic: "),
    "rows by their number": (
        "return dot + torch.arange(len(dot))[:, None] * 1e-3",
        "rows follow samples",
        "largest difference",
    ),
    "a row that looks at the next": ("return dot + dot.roll(1, 0)", "rows follow samples", "largest difference"),
    "columns over the largest": ("return dot / dot.abs().max()", "columns follow queries", "largest difference"),
    "a column that looks at the next": ("return dot + dot.roll(1, 1)", "columns follow queries", "largest difference"),
    "rows over those asked": (
        "dot = dot[run.problem.left_out]; return dot / dot.sum(0)",
        "some rows alone",
        "largest difference",
    ),
    "adam alone": (
        "assert run.problem.optimizer.name != 'adamw', 'no decay please'; return dot",
        "models and optimisers",
        "by adamw: crashed",
    ),
    "the wrong sign": ("return -dot", "sign", "the first must be above the second"),
    "no sign in units of loss": ("return dot + 100", "sign", "in units of loss"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found_by_its_rule(tmp_path: Path, defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line, rule, message = DEFECTS[defect]
    alone(monkeypatch, *{rule} & {*check.RULES})
    findings = found(tmp_path, line, loss_units="units" in defect)

    assert rule in broken(findings)
    assert message in findings[rule].detail


def test_a_defect_of_one_rule_breaks_no_other_that_it_does_not_touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, *{*check.RULES} - {"models and optimisers", "cost"})  # which break where there is no answer
    assert broken(found(tmp_path, "return -dot")) == ["sign"]
    assert broken(found(tmp_path, "return dot / dot.abs().max()")) == ["columns follow queries"]
    assert broken(found(tmp_path, "return dot.T")) == ["shape"]


@pytest.mark.parametrize("case", EXACT)
def test_a_false_claim_of_exactness_is_found(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, *CASES)
    findings = found(tmp_path, "return dot", exact=(case,))

    assert broken(findings) == [f"exact on {case}"]
    assert "of the spread of the true effects" in findings[f"exact on {case}"].detail


def test_a_claim_where_it_is_unsupported_is_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, *CASES)
    findings = found(tmp_path, "return dot", exact=("one-epoch",), optimizers=("adam",))
    assert "unsupported: mine is for adam" in findings["exact on one-epoch"].detail
    assert broken(findings) == ["exact on one-epoch"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from benchmark.truths import truth\n", "imports benchmark.truths: of the harness"),
        ("import benchmark.results\n", "imports benchmark"),
        ("x = \n", "is not valid Python"),
        ("x = 1\n", "declares no estimator"),
        ("from benchmark.estimating import estimator\n@estimator('A', paper='p')\ndef f(run): pass\n", "estimator name 'A'"),
        (
            "from benchmark.estimating import estimator\n@estimator('sgd-ie', paper='p')\ndef f(run): pass\n",
            "taken by a registered",
        ),
    ],
)
def test_a_declaration_that_does_not_hold_is_the_one_finding(tmp_path: Path, text: str, message: str) -> None:
    (at := tmp_path / "mine.py").write_text(text)
    ((name, (finding,)),) = check.check(str(at)).items()

    assert (name, finding.rule, finding.passed) == ("mine.py", "declaration", False)
    assert message in finding.detail


# ---- the problems it is examined on ----------------------------------------------------------------------------------
@pytest.mark.parametrize("fit", check.FITS, ids="-".join)
def test_the_planted_samples_have_the_effects_that_are_asked_for(fit: tuple[str, str]) -> None:
    copy, opposite = leave_one_out(check.planted(*fit))[-1, :2, 0].tolist()
    assert copy > 0 > opposite


def test_the_cases_of_exactness_are_what_they_are_called() -> None:
    for case in EXACT:
        run, truth = check.exactly(case)
        assert (run.problem.model.loss, run.problem.optimizer.name) == ("squared-error", "sgd")
        visits = run.problem.batches[run.problem.batches >= 0].bincount()
        assert set(visits.tolist()) == {check.EPOCHS[case]}
        assert torch.equal(truth, leave_one_out(run))
    assert check.EPOCHS == {"least-squares": 3, "one-epoch": 1}


def test_the_global_random_states_are_others_inside_and_the_same_after() -> None:
    def drawn() -> list[float]:
        return [random.random(), np.random.random(), float(torch.rand(1))]

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    outside = drawn()
    for put, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), before, strict=True):
        put(state)
    with check.other_random_states():
        inside = drawn()

    assert drawn() == outside
    assert not set(inside) & set(outside)


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command_says_each_rule_in_words_and_fails_where_one_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch, "sign", *CASES)
    assert main(["check", str(declare(tmp_path, "return dot"))]) == 0
    told = capsys.readouterr()
    assert "✓ kept" in told.out
    assert "does not apply" in told.out
    assert "next: loobench run --suite core --estimator" in told.out
    assert main(["check", str(declare(tmp_path, "return -dot"))]) == 1
    told = capsys.readouterr()
    assert "✗ broken" in told.out
    assert "a rule is broken" in told.err


@pytest.mark.parametrize("name", ["nowhere.py", "no-such-estimator", "mine.py:other"])
def test_what_is_not_there_is_bad_input(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    declare(tmp_path, "return dot")
    if name.startswith("mine"):
        assert main(["check", name]) == 1
        return
    with pytest.raises(LoobenchError):
        check.check(name)
    assert main(["check", name]) == 2
    assert "error: " in capsys.readouterr().err


def test_every_rule_has_a_finding_whatever_breaks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "deterministic", "sign", *CASES)  # one that the first call may break, too, and others
    rules = list(found(tmp_path, "return dot"))
    assert {*check.FIRST, *check.RULES} < {*rules}
    for line in ("return dot.T", "raise SystemExit", "return 0 * dot"):
        assert sorted(found(tmp_path, line)) == sorted(rules)
    assert len(registered()) > 50


CRASHES = {  # a file, and the line of it that is to blame
    "in a helper": (
        "def helper(x):\n    return x.no_such\n\n\n@estimator('mine', paper='p')\ndef mine(run):\n    return helper(run)\n",
        5,
    ),
    "inside a library, called from here": (
        "import torch\n\n\n@estimator('mine', paper='p')\ndef mine(run):\n    return torch.ones(2) @ torch.ones(3)\n",
        9,
    ),
    "in a closure that the harness calls": (
        "from benchmark.estimating import calculus\n\n\n@estimator('mine', paper='p')\ndef mine(run):\n"
        "    return calculus.gradient(lambda theta: theta.no_such)(run.final)\n",
        9,
    ),
    "behind another decorator": (
        "import functools\n\n\ndef wrapped(f):\n    @functools.wraps(f)\n    def inner(run):\n"
        "        return f(run)\n    return inner\n\n\n"
        "@estimator('mine', paper='p')\n@wrapped\ndef mine(run):\n    raise KeyError('x')\n",
        17,
    ),
    "while it is imported": ("1 / 0\n", 4),
    "with a message of many lines": (
        "@estimator('mine', paper='p')\ndef mine(run):\n    raise ValueError('a\\nb\\x1b[31m\\n' * 99)\n",
        6,
    ),
}


@pytest.mark.parametrize("sandbox", [True, False])
@pytest.mark.parametrize("case", CRASHES)
def test_a_crash_names_the_last_line_of_the_author_s_own_file(
    case: str, sandbox: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, line = CRASHES[case]
    at = tmp_path / "my_crash.py"
    at.write_text(f"from benchmark.estimating import estimator\n\n\n{body}")
    assert main(["check", str(at), *([] if sandbox else ["--no-sandbox"])]) == 1

    told = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"my_crash\.py:{line} in (\w+|<\w+>)", told)
    assert "\x1b" not in told


@pytest.mark.parametrize("where", [(), ("--no-sandbox",)])
@pytest.mark.parametrize("case", ["inside a library, called from here", "while it is imported"])
def test_all_lines_are_shown_where_that_is_asked(
    case: str, where: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, line = CRASHES[case]
    at = tmp_path / "my_crash.py"
    at.write_text(f"from benchmark.estimating import estimator\n\n\n{body}")

    assert main(["check", str(at), *where]) == 1
    assert "Traceback" not in "".join(capsys.readouterr())
    assert main(["check", str(at), *where, "--traceback"]) == 1
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert f'File "my_crash.py", line {line}' in told
    assert str(tmp_path) not in told
