"""What an estimator may do, and what happens when it does not keep to it."""

import textwrap
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import MODELS, OPTIMIZERS, here, problem, supported_by
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.core import calculus
from benchmark.core.declaration import Estimator
from benchmark.core.optimizers import Adam
from benchmark.core.problem import map_tensors, tensors
from benchmark.core.registry import load, registered, resolve
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train
from benchmark.running import evaluate
from benchmark.running.evaluate import Failure, estimate
from benchmark.sandbox.session import Answer

HEAD = """
import torch
from torch import Tensor
from benchmark.estimating import Trajectory, estimator
"""
GOOD = """
@estimator("twice", paper="none", factor=2.0)
def twice(run: Trajectory, *, factor: float) -> Tensor:
    return factor * run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T
"""


def declare(folder: Path, body: str, head: str = HEAD) -> Path:
    at = folder / "submission.py"
    at.write_text(head + textwrap.dedent(body))
    return at


def one(folder: Path, line: str, **declared: object) -> Estimator:
    """An estimator whose body is one line."""
    settings = "".join(f", {name}={value!r}" for name, value in declared.items())
    body = f'@estimator("mine", paper="none"{settings})\ndef mine(run):\n    {line}\n'
    return load(declare(folder, body))["mine"]


# ---- all registered ones -------------------------------------------------------------------------------------------
NAMES = [
    "chance",
    "loss",
    "grad-norm",
    "grad-dot",
    "grad-cos",
    "if-direct",
    "sgd-ie",
    "sgd-ie-no-hessian",
    "sgd-ie-forward",
    "sgd-ie-logit",
    "sgd-ie-exact",
    "adam-ie",
    "adam-ie-frozen",
    "adam-ie-forward",
    "adam-ie-logit",
    "adam-ie-exact",
    "acc-sgd-ie",
    "acc-sgd-ie-logit",
    "acc-sgd-ie-exact",
    "acc-adam-ie",
    "acc-adam-ie-logit",
    "acc-adam-ie-exact",
    "acc-adam-ie-exact-map",
    "acc-adam-ie-exact-map-logit",
    "acc-adam-ie-exact-map-exact",
    "self-gradient",
    "self-gradient-exact",
    "partial-retrain",
    "partial-retrain-3",
    "partial-retrain-linear",
    "dvemb",
    "acc-dvemb",
    "tracin",
    "tracin-ideal",
    "diff-in",
    "diff-in-derived",
    "source",
    "z0-inf",
    "mirrored",
    "less",
    "acc-lowcost",
    "exact-loo",
]


def test_the_promised_estimators_are_registered() -> None:
    assert set(NAMES) <= set(registered())


KINDS = [  # one that is called for each horizon is called as alike for a mean query
    (name, kind) for name, one in registered().items() for kind in ("each", "mean") if kind == "each" or one.all_horizons
]


@pytest.mark.parametrize(("name", "kind"), [here(*one) for one in KINDS], ids=[f"{kind}-{name}" for name, kind in KINDS])
def test_an_earlier_horizon_is_the_answer_of_a_run_that_ends_there(name: str, kind: str) -> None:
    run = train(supported_by(registered()[name], query_kind=kind))
    whole = estimate(registered()[name], run).effect

    for effect, cut in zip(whole, run.at_horizons(), strict=True):
        assert torch.allclose(effect, estimate(registered()[name], cut).effect[0], rtol=1e-12, atol=0)


FOLLOW = ("sgd-ie", "acc-sgd-ie", "adam-ie", "acc-adam-ie", "self-gradient", "partial-retrain", "dvemb", "acc-dvemb")


@cache
def unvisited(optimizer: str) -> tuple[Trajectory, Tensor]:
    """A run without sample 4, and its truth."""
    given = problem(optimizer=OPTIMIZERS[optimizer])
    given.batches[given.batches == 4] = -1
    run = train(given)
    return run, leave_one_out(run)


@pytest.mark.parametrize("name", [name for name in registered() if name.startswith(FOLLOW) or name == "tracin-ideal"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sample_never_visited_has_effect_0(name: str, optimizer: str) -> None:
    run, truth = unvisited(optimizer)
    if registered()[name].unsupported(run.problem):
        return
    for effect in (estimate(registered()[name], run).effect, truth):
        assert (effect[:, 4].abs() < 1e-15).all()
        assert (effect[-1, 5].abs() > 1e-9).all()


def test_acc_with_exact_readout_beats_sgd_ie_on_a_smooth_model() -> None:
    run = train(problem(epochs=6))
    truth = leave_one_out(run)[-1]
    names = ("acc-sgd-ie-exact", "sgd-ie-exact", "acc-sgd-ie", "sgd-ie", "sgd-ie-no-hessian")
    error = {name: float((estimate(registered()[name], run).effect[-1] - truth).norm()) for name in names}

    assert error["acc-sgd-ie-exact"] < error["acc-sgd-ie"] < error["sgd-ie"] < error["sgd-ie-no-hessian"]
    assert error["acc-sgd-ie-exact"] < error["sgd-ie-exact"]


@pytest.mark.parametrize("model", ["logistic", "mlp", "classes"])
def test_adams_map_kept_exact_beats_adams_map_linearised(model: str) -> None:
    run = train(problem(MODELS[model], Adam(0.01), train=40, batch=10, epochs=5))
    truth = leave_one_out(run)[-1]
    names = ("acc-adam-ie-exact-map-exact", "acc-adam-ie-exact", "adam-ie-exact")
    error = {name: float((estimate(registered()[name], run).effect[-1] - truth).norm()) for name in names}

    assert error["acc-adam-ie-exact-map-exact"] < 0.2 * min(error["acc-adam-ie-exact"], error["adam-ie-exact"])


def test_costs_are_counted_as_the_docstrings_say() -> None:
    run = train(problem(query_kind="mean"))  # E = 3, N = 12, Q = 1 of 3 samples, T = 9, P = 29

    def counts(name: str) -> tuple[int, int]:
        with calculus.counting() as count:
            registered()[name](run)
        return count.gradients, count.hessian_products

    assert counts("chance") == counts("loss") == (0, 0)
    assert counts("grad-dot") == (12 + 3, 0)
    assert counts("sgd-ie") == (3 * 12 + 3, 3 * 12)
    assert counts("sgd-ie-no-hessian") == (3 * 12 + 3, 0)
    assert counts("exact-loo") == (3 * 12 * 13, 0)  # and the run with every sample
    assert counts("if-direct") == (12 + 12 + 12 + 3, 12 * 29 + 12)  # the last for the residual
    assert counts("acc-sgd-ie-exact") == (3 * 12, 3 * 12 * 12)
    assert counts("acc-sgd-ie") == (3 * 12 + 3 * 3, 3 * 12 * 12)  # a query gradient for each horizon
    assert counts("partial-retrain")[0] == 12 * 13


# ---- broken ones ---------------------------------------------------------------------------------------------------
BROKEN = {
    "bad-shape": ("return run.final.new_zeros(3, 12)", r"mine must return \(K, Q\) = \(12, 3\), got \(3, 12\)"),
    "bad-shape 2": ("return [1.0]", r"mine must return a dense real tensor \(K, Q\) = \(12, 3\), got list"),
    "bad-shape 3": (
        "return torch.eye(12)[:, :3].to_sparse()",
        "must return a dense real tensor .* got torch.float32 torch.sparse_coo",
    ),
    "bad-shape 4": ("return torch.eye(12)[:, :3] * 1j", "got torch.complex64"),
    "bad-shape 5": ("return torch.eye(12, device='meta')[:, :3]", "must return a dense real tensor"),
    "non-finite": (
        "return run.final.new_full((12, 3), float('nan'))",
        "NaN, infinity or more than 1e\\+100 in 108 of 108 places",
    ),
    "non-finite 2": ("e = torch.eye(12)[:, :3]; e[0, 0] = float('inf'); return e", "in 3 of 108 places"),
    "non-finite 3": ("return torch.eye(12, dtype=torch.float64)[:, :3] * 1e200", "in 9 of 108 places"),
    "constant": ("e = torch.eye(12)[:, :3]; e[:, -1] = 7; return e", "one number for all samples at horizon 0, query 2"),
    "crashed": ("raise RuntimeError('no luck')", r"mine \(submission.py:\d+ in mine\) raised RuntimeError: no luck"),
    "crashed 2": ("raise SystemExit(3)", r"mine \(submission.py:\d+ in mine\) raised SystemExit: 3"),
    "mutated-inputs": ("run.states.zero_(); return torch.eye(12)[:, :3]", "mine changed the run it was given"),
    "mutated-inputs 2": ("run.problem.train.targets[0] += 1; return torch.eye(12)[:, :3]", "work on clones"),
    "mutated-inputs 3": ("run.states.numpy()[-1] = 0; return torch.eye(12)[:, :3]", "work on clones"),
    "bad-shape 6": ("return torch.nested.nested_tensor([torch.ones(3)], layout=torch.jagged)", "must return a dense"),
    "crashed 4": ("raise BaseException('anything')", r"mine \(submission.py:\d+ in mine\) raised BaseException: anything"),
    "crashed 5": (
        "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
        r"mine \(submission.py:\d+ in mine\) raised E: its message cannot be read",
    ),
    "crashed 3": ("open('/home/alice/secret/weights.pt')", "No such file or directory: 'weights.pt'"),
    "out-of-memory 2": ("return torch.empty(10**15)", r"mine \(submission.py:\d+ in mine\) ran out of memory: RuntimeError"),
    "out-of-memory": (
        "raise MemoryError('too much')",
        r"mine \(submission.py:\d+ in mine\) ran out of memory: MemoryError: too much",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_estimator_is_a_typed_failure_and_the_run_is_untouched(kind: str, tmp_path: Path) -> None:
    line, message = BROKEN[kind]
    run = train(problem())
    before = [tensor.clone() for tensor in tensors(run)]

    with pytest.raises(Failure, match=message) as failure:
        estimate(one(tmp_path, line), run)
    assert failure.value.status == kind.split()[0]
    assert all(map(torch.equal, tensors(run), before))


def test_what_an_estimator_does_not_support_is_said_and_is_no_crash(tmp_path: Path) -> None:
    adam, mlp = train(problem(optimizer=OPTIMIZERS["adam"])), train(problem())

    with pytest.raises(Failure, match="mine is for sgd, the task trains with adam") as failure:
        estimate(one(tmp_path, "return 1", optimizers=("sgd",)), adam)
    assert failure.value.status == "unsupported"
    momentum = train(problem(optimizer=OPTIMIZERS["momentum"]))
    with pytest.raises(Failure, match="mine is for sgd, the task trains with momentum"):
        estimate(one(tmp_path, "return 1", optimizers=("sgd",)), momentum)
    with pytest.raises(Failure, match="at most 20 parameters, the model has 29"):
        estimate(one(tmp_path, "return 1", max_parameters=20), mlp)


# ---- files ---------------------------------------------------------------------------------------------------------
def test_a_file_outside_the_repository_is_loaded_with_its_settings(tmp_path: Path) -> None:
    found = resolve([str(declare(tmp_path, GOOD)), "chance"])

    assert [e.name for e in found] == ["twice", "chance"]
    assert found[0].settings == {"factor": 2.0}
    assert torch.equal(found[0](train(problem())), 2 * registered()["grad-dot"](train(problem())))


def test_one_of_several_estimators_of_a_file_can_be_named(tmp_path: Path) -> None:
    at = declare(tmp_path, GOOD + GOOD.replace("twice", "thrice"))

    assert [e.name for e in resolve([f"{at}:thrice"])] == ["thrice"]
    with pytest.raises(LoobenchError, match="did you mean twice"):
        resolve([f"{at}:twise"])


def test_an_estimator_named_twice_is_run_once_and_two_of_one_name_are_an_error(tmp_path: Path) -> None:
    at = declare(tmp_path, GOOD)
    (tmp_path / "other.py").write_text(HEAD + GOOD.replace("2.0", "3.0"))

    assert [e.name for e in resolve([str(at), "chance", str(at), "chance"])] == ["twice", "chance"]
    with pytest.raises(LoobenchError, match="two files declare the estimator 'twice'"):
        resolve([str(at), str(tmp_path / "other.py")])


@pytest.mark.parametrize(("factor", "status"), [(1e60, "non-finite"), (1e-60, "constant")])
def test_an_answer_is_judged_in_the_precision_of_the_task(factor: float, status: str, tmp_path: Path) -> None:
    single = map_tensors(train(problem()), lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    with pytest.raises(Failure) as failure:
        estimate(one(tmp_path, f"return torch.eye(12, dtype=torch.float64)[:, :3] * {factor}"), single)
    assert failure.value.status == status


def test_what_an_estimator_does_to_torch_is_undone(tmp_path: Path) -> None:
    body = "torch.set_num_threads(2); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); "
    estimate(one(tmp_path, body + "return torch.arange(36.0).view(12, 3)"), train(problem()))

    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == (1, torch.float32, True)


def test_an_estimators_randomness_is_its_own_and_repeats() -> None:
    first, same, other = (train(problem(seed=seed)).random().initial_seed() for seed in (0, 0, 1))

    assert first == same != other


def test_the_cost_is_that_of_the_last_horizon() -> None:
    run = train(problem(query_kind="mean"))

    assert estimate(registered()["sgd-ie"], run).count == calculus.Count(3 * 12 + 3, 3 * 12)


def test_the_cost_is_that_of_the_costliest_horizon() -> None:
    counts = [calculus.Count(5, 7), calculus.Count(6, 3), calculus.Count(2, 1)]
    rows = torch.arange(12.0).double()[:, None].expand(12, 3)
    answers = [Answer(rows, *took) for took in zip((1.0, 3.0, 2.0), counts, (9, None, 4), strict=True)]

    found = evaluate._costliest(torch.stack([rows] * 3), answers)

    assert (found.seconds, found.count, found.memory) == (3.0, calculus.Count(6, 7), 9)


def test_the_source_is_that_of_the_declaring_file_also_under_another_decorator(tmp_path: Path) -> None:
    body = GOOD.replace("def twice", "@torch.no_grad()\ndef twice")
    first = load(declare(tmp_path, body))["twice"].identity()

    assert load(declare(tmp_path, body.replace("return factor", "return -factor")))["twice"].identity() != first


def test_a_file_with_dataclasses_and_late_annotations_loads(tmp_path: Path) -> None:
    body = "from __future__ import annotations\nfrom dataclasses import dataclass\n" + HEAD
    at = declare(tmp_path, "@dataclass\nclass Setting:\n    x: int\n" + GOOD, head=body)

    assert list(load(at)) == ["twice"]


def test_source_and_settings_make_the_identity(tmp_path: Path) -> None:
    first = load(declare(tmp_path, GOOD))["twice"].identity()
    setting = load(declare(tmp_path, GOOD.replace("2.0", "3.0")))["twice"].identity()
    source = load(declare(tmp_path, GOOD + "\nword = 1\n"))["twice"].identity()

    assert len({first, setting, source}) == 3
    assert load(declare(tmp_path, GOOD))["twice"].identity() == first


BAD_FILES = {
    "is not valid Python": "def f(:\n",
    "cannot be imported: ZeroDivisionError": "1 / 0\n",
    "declares no estimator": "x = 1\n",
    "taken by a registered estimator: rename it": HEAD + GOOD.replace('"twice"', '"sgd-ie"'),
    "imports benchmark.truths.truth": "from benchmark.truths.truth import ground_truth\n",
    "imports benchmark: of the harness": "import benchmark\n",
    "imports benchmark, benchmark.core.problem: of": "import benchmark.core.problem\n",
    "cannot be imported: SystemExit": "raise SystemExit(0)\n",
    "imports benchmark.scores.metrics": "import benchmark.scores.metrics as m\n",
    "imports benchmark.scores: of the harness": "def f():\n    from benchmark.scores import results\n",
    "a name is up to 64 small letters": HEAD + GOOD.replace('"twice"', '"../../twice"'),
    "more than once: rename": HEAD + GOOD + GOOD.replace("def twice", "def again"),
    "paper must say where": HEAD + GOOD.replace('"none"', "None"),
    "'Twice': a name": HEAD + GOOD.replace('"twice"', '"Twice"'),
    "settings must be JSON values": HEAD + GOOD.replace("2.0", "torch.ones(2)"),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it(message: str, tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match=message) as error:
        load(declare(tmp_path, BAD_FILES[message], head=""))
    assert "submission.py" in str(error.value)


def test_a_file_that_is_not_there_and_an_unknown_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match=r"cannot read .*nowhere.py: No such file"):
        resolve([str(tmp_path / "nowhere.py")])
    with pytest.raises(LoobenchError, match="unknown estimator 'sgdie': did you mean sgd-ie"):
        resolve(["sgdie"])
