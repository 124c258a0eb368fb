"""The published protocols: their tasks, their noise, and truths whose answer is known."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.commands.main import asked, main
from benchmark.commands.run import tasks
from benchmark.core.problem import Problem, Samples
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, retrain, train
from benchmark.running.evaluate import estimate
from benchmark.scores.store import load, load_limits
from benchmark.tasks.definition import Task, build, flipped, shown
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets, Uses
from benchmark.tasks.suites import SUITES, TASKS, task
from benchmark.truths.truth import cached_truth, reference

QUICK = TASKS["quick-breast-cancer-mlp-sgd"]
DIGITS = TASKS["quick-digits-mlp-sgd"]


def noisy(kind: str, rate: float, given: Task = QUICK) -> Task:
    return replace(given, noise=kind, noise_rate=rate)


def same(one: Problem, other: Problem) -> bool:
    return one.digest() == other.digest()


# ---- the suites -----------------------------------------------------------------------------------------------------
def test_acc2025_is_the_published_protocol() -> None:
    table = {t.name.removeprefix("acc2025-"): t for t in SUITES["acc2025"].tasks}
    data, fits, conditions = ("adult", "20news", "mnist"), ("logistic", "mlp"), ("clean", "feature", "label")

    assert list(table) == [f"{d}-{f}-{c}" for d in data for f in fits for c in conditions]
    assert SUITES["acc2025"].seeds == 20
    for name, t in table.items():
        logistic = "logistic" in name
        assert (t.train, t.query, t.test, t.batch, t.queries) == (400, 400, 400, 100, "mean")
        assert t.horizons == (2, 6, 10, 14, 18, 22, 26, 30, 34, 38)
        assert (t.optimizer.lr, t.optimizer.schedule) == (0.1, "constant" if logistic else "inverse-sqrt")
        assert t.weight_decay == (None if logistic else 0.0)
        assert t.model == ("logistic" if logistic else "mlp-8-8")
        noise = {"clean": "none", "label": "labels", "feature": "ones" if "20news" in name else "gaussian"}
        assert t.noise == noise[name.rpartition("-")[2]]
        assert t.noise_rate == {"none": 0.0, "labels": 0.1}.get(t.noise, 0.05)


def test_adaptive_has_every_optimiser_on_every_data_set_slow_and_fast_for_the_mean_and_for_each() -> None:
    tasks = SUITES["adaptive"].tasks
    sets = {(t.dataset, t.model) for t in tasks}

    assert {t.optimizer.name for t in tasks} == {"momentum", "adam", "adamw"}
    assert {dataset for dataset, _ in sets} == {"mnist", "adult", "sst2"}
    assert ("sst2", "logistic") in sets
    assert len(tasks) == len(sets) * 3 * 2 * 2
    assert {(t.train, t.query, t.queries) for t in tasks} == {(400, 50, "mean"), (400, 50, "each")}
    assert all(
        len({t.optimizer.lr for t in tasks if (t.model, t.optimizer.name) == kind}) >= 2 for kind in (("mlp-16", "adam"),)
    )


def test_every_mlp_task_of_the_published_suites_has_a_smooth_twin_that_differs_in_its_activation_alone() -> None:
    twins = {t.name.removeprefix("smooth-"): t for t in SUITES["smooth"].tasks}
    rough = [t for name in ("hara2019", "acc2025") for t in SUITES[name].tasks if t.model == "mlp-8-8"]

    assert list(twins) == [t.name for t in rough]
    for t in rough:
        assert replace(twins[t.name], name=t.name, suite=t.suite, model=t.model) == t
        assert twins[t.name].model == "mlp-8-8-softplus"


def test_a_smooth_twin_has_the_same_data_initial_parameters_and_batches(tmp_path: Path) -> None:
    smooth = replace(QUICK, model="mlp-8-8-softplus")
    one, other = (build(given, 3, tmp_path) for given in (replace(QUICK, model="mlp-8-8"), smooth))

    assert one.model != other.model
    assert same(one, replace(other, model=one.model))


def test_other_truths_are_named_in_their_tasks() -> None:
    assert {(t.truth.keep, t.truth.count) for t in SUITES["subsets"].tasks if isinstance(t.truth, Subsets)} == {
        (0.5, 100),
        (0.9, 100),
    }
    further = [t.truth for t in SUITES["final-model"].tasks if isinstance(t.truth, FurtherTraining)]
    assert len(further) == len(SUITES["final-model"].tasks)
    assert {t.dataset for t in SUITES["final-model"].tasks} == {"adult", "mnist", "sst2", "diabetes"}
    assert {t.optimizer.name for t in further} == {"sgd", "adam"}
    assert {t.counterfactual for t in SUITES["renormalised"].tasks} == {"renormalised"}
    assert {t.model for t in SUITES["renormalised"].tasks} == {"logistic", "mlp-8-8", "mnist-cnn"}


@pytest.mark.parametrize("name", ["cleansing", "cleansing-full"])
def test_cleansing_is_of_both_image_sets_clean_and_with_a_tenth_of_the_labels_flipped(name: str) -> None:
    tasks = SUITES[name].tasks

    assert {(t.dataset, t.noise_rate) for t in tasks} == {(d, r) for d in ("mnist", "cifar10") for r in (0.0, 0.1)}
    assert all(t.uses for t in tasks)
    assert all((t.train > 30_000) == (name == "cleansing-full") for t in tasks)


def test_every_task_can_be_recorded_and_no_two_are_the_same() -> None:
    digests = {name: t.digest() for name, t in TASKS.items()}

    assert len({*digests.values()}) == len(digests)


# ---- noise ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["gaussian", "ones", "labels"])
def test_with_zero_noise_a_task_is_the_clean_one_bit_for_bit(kind: str, tmp_path: Path) -> None:
    assert same(build(noisy(kind, 0.0), 0, tmp_path), build(QUICK, 0, tmp_path))
    assert not same(build(noisy(kind, 0.3), 0, tmp_path), build(QUICK, 0, tmp_path))


@pytest.mark.parametrize("kind", ["gaussian", "ones", "labels"])
def test_noise_is_drawn_once_from_a_stream_of_its_own(kind: str, tmp_path: Path) -> None:
    once, again, clean = (build(given, 1, tmp_path) for given in (noisy(kind, 0.2), noisy(kind, 0.2), QUICK))

    assert same(once, again)
    for part in ("initial", "batches"):
        assert torch.equal(getattr(once, part), getattr(clean, part))
    assert torch.equal(once.query.targets, clean.query.targets)
    if kind == "labels":
        assert torch.equal(once.train.inputs, clean.train.inputs)
    else:
        assert torch.equal(once.train.targets, clean.train.targets)
        assert not torch.equal(once.train.inputs, clean.train.inputs)


@pytest.mark.parametrize("given", [QUICK, DIGITS], ids=["two-classes", "ten-classes"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 1.0])
def test_flipped_labels_are_exactly_the_stated_number(given: Task, rate: float, tmp_path: Path) -> None:
    one = noisy("labels", rate, given)
    changed = build(one, 2, tmp_path).train.targets != build(given, 2, tmp_path).train.targets

    assert int(changed.sum()) == round(100 * rate)
    assert changed.tolist() == flipped(one, 2).tolist()
    assert rate in (0, 1) or flipped(one, 2).tolist() != flipped(one, 3).tolist()


def everything(value: object, depth: int = 0) -> list[object]:
    """All that can be reached from a record by its fields."""
    if depth > 6 or isinstance(value, Tensor | str | int | float | None):
        return [value]
    if hasattr(value, "__dataclass_fields__"):
        return [item for part in fields(value) for item in everything(getattr(value, part.name), depth + 1)]  # type: ignore[arg-type]
    return [value]


def test_no_estimator_sees_which_labels_are_flipped(tmp_path: Path) -> None:
    given = noisy("labels", 0.1)
    run = shown(given, train(build(given, 0, tmp_path)))
    mask, clean = torch.from_numpy(flipped(given, 0)), build(QUICK, 0, tmp_path).train.targets
    found = [value for value in everything(run) if isinstance(value, Tensor)]

    assert len(found) >= 8
    assert not any(value.shape == mask.shape and torch.equal(value.bool(), mask) for value in found)
    assert not any(value.shape == clean.shape and torch.equal(value, clean.to(value)) for value in found)
    assert "labels" not in [value for value in everything(run) if isinstance(value, str)]


# ---- known answers --------------------------------------------------------------------------------------------------
def planted(size: int = 30) -> Problem:
    """A logistic problem on two clouds, of which sample 7, far out, has the wrong label."""
    given = build(replace(QUICK, model="logistic", train=size, query=60, horizons=(10,)), 0, Path("cache"))
    wrong = given.train.targets.clone()
    wrong[7] = 1 - wrong[7]
    inputs = given.train.inputs.clone()
    inputs[7] *= 3
    return replace(given, train=Samples(inputs, wrong))


@pytest.mark.parametrize("name", ["acc-sgd-ie", "acc-sgd-ie-exact", "sgd-ie"])
def test_a_planted_harmful_sample_is_found_by_the_truth_and_by_acc(name: str) -> None:
    run = train(planted())
    truth, found = leave_one_out(run)[-1, :, 0], estimate(registered()[name], run).effect[-1, :, 0]

    assert int(truth.argmin()) == 7
    assert truth[7] < 3 * truth.sort().values[1]
    assert int(found.argmin()) == 7


def until(run: Trajectory, steps: int) -> Problem:
    return replace(run.problem, batches=run.problem.batches[:steps], horizons=(steps,))


@pytest.mark.parametrize(
    "build_mask", [lambda n: torch.eye(n) == 0, lambda n: torch.rand(9, n, generator=torch.Generator().manual_seed(0)) > 0.5]
)
def test_horizons_of_one_run_are_those_of_separate_shorter_runs_bit_for_bit(
    build_mask: Callable[[int], Tensor], tmp_path: Path
) -> None:
    for counterfactual in ("zero-weight", "renormalised"):
        run = train(build(replace(DIGITS, counterfactual=counterfactual), 0, tmp_path))
        keep = build_mask(100)
        together = retrain(run.problem, keep)
        for h, steps in enumerate(run.problem.horizons):
            assert torch.equal(together[h], retrain(until(run, steps), keep)[0])


def test_horizons_of_a_truth_are_those_of_tasks_that_end_there_bit_for_bit(tmp_path: Path) -> None:
    whole = reference(DIGITS, 0, tmp_path, "cpu")
    exact = cached_truth(DIGITS, 0, whole, tmp_path, "cpu")
    for h, epoch in enumerate(DIGITS.horizons):
        short = replace(DIGITS, epochs=epoch, horizons=(epoch,))
        assert torch.equal(
            cached_truth(short, 0, reference(short, 0, tmp_path, "cpu"), tmp_path, "cpu").effect[0], exact.effect[h]
        )


@pytest.mark.parametrize(
    ("truth", "horizons"), [(Subsets(0.5, count=6, repeats=2), (1, 5, 10)), (None, (1, 3))], ids=["subsets", "further"]
)
def test_other_truths_have_the_same_horizons_too_and_are_kept_whole(
    truth: Subsets | None, horizons: tuple[int, ...], tmp_path: Path
) -> None:
    asked = truth or FurtherTraining(replace(QUICK.optimizer, lr=0.01), horizons, 2)  # type: ignore[type-var]
    given = replace(QUICK, truth=asked, horizons=horizons)
    run = reference(given, 0, tmp_path, "cpu")
    exact, again = (cached_truth(given, 0, run, tmp_path, "cpu") for _ in range(2))

    assert exact.effect.shape[0] == len(horizons)
    assert again.seconds == exact.seconds  # taken from the cache
    assert again.digest() == exact.digest()
    assert again.limits == exact.limits
    assert {"split_half", "ceiling", "own"} <= exact.limits.keys()
    short = replace(given, truth=replace(asked, horizons=(1,)) if truth is None else asked, horizons=(1,), epochs=10)
    first = cached_truth(short, 0, reference(short, 0, tmp_path, "cpu"), tmp_path, "cpu")
    assert torch.equal(first.effect[0], exact.effect[0])


def test_a_task_shows_the_whole_run_the_final_model_or_asks_all_samples() -> None:
    run = train(planted())
    final, uses = task("final-model-adult-sgd"), task("cleansing-mnist-10")
    few = replace(run, problem=replace(run.problem, left_out=torch.tensor([2, 5])))

    assert shown(QUICK, run) is run
    assert len(shown(final, run).states) == len(run.states)
    assert not isinstance(shown(final, run).states, Tensor)
    assert shown(uses, few).problem.left_out.tolist() == list(range(30))
    assert len(shown(uses, few).problem.test) == 0  # the split that judges
    assert QUICK.truth == LeaveOneOut()


def test_targets_of_a_regression_are_real_and_have_one_output(tmp_path: Path) -> None:
    given = build(replace(task("final-model-diabetes-sgd"), model="mlp-8"), 0, tmp_path)

    assert (given.model.classes, given.model.loss) == (1, "squared-error")
    assert given.train.targets.dtype == torch.float64
    assert np.unique(given.train.targets.numpy()).size > 50


# ---- the command line -----------------------------------------------------------------------------------------------
def test_full_sizes_are_for_suites_that_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--suite", "quick", "--full"]) == 2
    assert "suite quick has one size; --full is for cleansing" in capsys.readouterr().err
    chosen = tasks(asked(["run", "--suite", "cleansing", "--full"]).options)
    assert list(chosen) == list(SUITES["cleansing-full"].tasks)


def test_a_truth_is_told_with_its_limits_and_only_leave_one_out_is_exported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = replace(QUICK, name="quick-halves", truth=Subsets(0.5, count=5, repeats=2))
    monkeypatch.setitem(TASKS, "quick-halves", halves)

    assert main(["truth", QUICK.name]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name}: " in told for name in ("ceiling", "noise", "other_initial", "other_order", "kink_pairs"))
    assert main(["truth", "quick-halves"]) == 0
    told = capsys.readouterr().out
    assert "subsets, 5 groups of 100 samples" in told
    assert "without_class: 0, 0, 0" in told
    assert main(["truth", "quick-halves", "--export", "out"]) == 2
    assert "only leave-one-out truths are exported, the truth of quick-halves is subsets" in capsys.readouterr().err


def test_a_run_puts_limits_beside_the_results_also_where_only_they_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--task", QUICK.name, "--seeds", "2", "--estimator", "grad-dot"]
    assert main(command) == 0
    at = Path("my-results") / f"{QUICK.name}.json"
    first = at.read_bytes()
    at.unlink()
    assert main(command) == 0

    assert "0 cells computed" in capsys.readouterr().out.splitlines()[-1]
    assert at.read_bytes() == first
    found = load_limits(at)
    cells = load(Path("my-results") / QUICK.name / "grad-dot.json").cells
    assert {seed: bounds.truth for seed, bounds in found.seeds.items()} == {seed: cell.truth for seed, cell in cells.items()}
    assert all(0 < value <= 1 for bounds in found.seeds.values() for value in bounds.values["ceiling"] if value is not None)


def test_a_run_of_uses_scores_what_estimates_are_put_to_and_keeps_its_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Uses(drop=(1, 5), keep=(0.5,), delete=(2, 5), groups=3, draws=2)
    given = replace(
        QUICK,
        name="quick-uses",
        train=40,
        horizons=(10,),
        noise="labels",
        noise_rate=0.1,
        model="logistic",
        uses=small,
        leave_out=20,
    )
    everyone = replace(given, name="quick-uses-all", leave_out=None)
    for one in (given, everyone):
        monkeypatch.setitem(TASKS, one.name, one)
        command = ["run", "--task", one.name, "--seeds", "1", "--cache", str(tmp_path / "cache")]
        assert main([*command, "--estimator", "sgd-ie", "--estimator", "grad-norm", "--estimator", "exact-loo"]) == 0
    some, whole = (load_limits(Path("my-results") / f"{one.name}.json").seeds["0"] for one in (given, everyone))

    assert some.references.keys() == {"random"}
    assert whole.references.keys() == {"random", "oracle"}
    exact = load(Path("my-results") / "quick-uses-all" / "exact-loo.json").cells["0"].scores
    for name, value in whole.references["oracle"].items():
        assert exact[name] == [pytest.approx(value, abs=1e-9)], name
    sgd = load(Path("my-results") / "quick-uses" / "sgd-ie.json").cells["0"].scores
    norm = load(Path("my-results") / "quick-uses" / "grad-norm.json").cells["0"].scores
    assert sgd["kendall"][0] is not None
    assert norm["self_auroc"][0] is not None
    assert exact["self_auroc"] == [None]  # it would cost more than the truth
