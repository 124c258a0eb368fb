"""Retraining in chunks: same bits on any number of threads, within its memory, resumed, checked."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest
import torch
from cases import MODELS, OPTIMIZERS, every_estimator, main, problem, supported_by

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.files import read_tensors, write_tensors
from benchmark.base.streams import stream
from benchmark.core.declaration import Estimator
from benchmark.core.layers import MaxPool
from benchmark.core.models import Block, Network, cnn, mlp
from benchmark.core.optimizers import Optimizer
from benchmark.core.problem import Problem, map_tensors
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import MIB, Means
from benchmark.retraining.convolution import MaxPoolRuns
from benchmark.retraining.engine import Runs, gram_pays
from benchmark.retraining.train import leave_one_out, left_out, retrain, train, trained
from benchmark.running import evaluate
from benchmark.tasks import suites
from benchmark.truths import truth

TASK = "quick-breast-cancer-logistic-sgd"


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five runs at once, so that small problems have several chunks."""
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 5)


# ---- threads -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [MODELS["mlp"], MODELS["cnn"]], ids=["mlp", "cnn"])
@pytest.mark.usefixtures("small_chunks")
def test_threads_change_no_bit(model: Network) -> None:
    run = train(problem(model))

    with machine.one_thread():
        alone = leave_one_out(run, means=Means(workers=1))
        for workers in (2, 5):
            assert torch.equal(leave_one_out(run, means=Means(workers=workers)), alone)


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_that_fails_stops_the_others_and_says_why() -> None:
    begun, lock = [], Lock()

    def fail(runs: Runs) -> torch.Tensor:
        with lock:
            begun.append(runs)
            first = len(begun) == 1
        if first:
            raise ValueError(f"read {runs.runs} runs")
        time.sleep(0.05)
        return runs.parameters()

    with pytest.raises(ValueError, match=r"read \d runs"):
        retrain(problem(), torch.ones(200, 12), read=fail, means=Means(workers=2))
    assert len(begun) < 6  # of 40 chunks with 3 horizons each


@pytest.mark.usefixtures("small_chunks")
def test_progress_is_told_of_every_visit_once() -> None:
    given, told = problem(), []
    keep = left_out(given)

    for workers in (1, 3):
        told.clear()
        retrain(given, keep, states=train(given).states, means=Means(workers=workers), progress=told.append)
        assert sum(told) == 3 * 12 * len(keep)


def test_training_stops_at_the_last_horizon() -> None:
    given, told = replace(problem(), horizons=(2, 4)), []
    found = retrain(given, left_out(given), progress=told.append)

    assert found.shape[0] == 2
    assert sum(told) == (5 + 5 + 2 + 5) * 13
    assert torch.equal(found, retrain(replace(problem(), horizons=(2, 4, 9)), left_out(given))[:2])


def test_a_maximum_over_an_odd_image_is_an_error() -> None:
    with pytest.raises(LoobenchError, match=r"2 x 2 maxima need an even image, got \(3, 7, 7\)"):
        cnn((1, 9, 9), (Block(3, 3),), 2)


@pytest.mark.parametrize("apart", [False, True])
def test_of_equal_pixels_the_first_of_a_square_has_the_slope_as_in_torch(apart: bool) -> None:
    runs, size, random = 3, 5, torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, (runs, size, 2, 4, 6), generator=random).double()  # most squares have ties
    slope = torch.randn(runs, size, 2, 2, 3, generator=random, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    torch.nn.functional.max_pool2d(leaf.flatten(0, 1), 2).backward(slope.flatten(0, 1))
    pool = MaxPoolRuns(problem(), MaxPool((2, 4, 6)), [], runs)
    pool.apart = apart

    pool.forward(_sample_last(images, apart))
    found = pool.backward(0, slope.flatten(2).mT.contiguous(), None)

    assert torch.equal(found.view(runs, -1, size), _sample_last(leaf.grad, apart).view(runs, -1, size))


def _sample_last(images: torch.Tensor, apart: bool) -> torch.Tensor:
    """(R, B, C, H, W) -> (R, C H W, B), with `apart` the corners of all squares one after another in each channel."""
    if apart:
        squares = images.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # (R, B, C, H/2, 2, W/2, 2)
        images = squares.permute(0, 1, 2, 4, 6, 3, 5)
    return images.flatten(2).mT.contiguous()


# ---- memory --------------------------------------------------------------------------------------------------------
def test_chunks_are_nearly_equal_and_an_even_number() -> None:
    given = problem()  # at most 256 runs at once

    assert [chunks.plan(given, runs, False, Means()).runs for runs in (1, 200, 256, 257, 600, 1025)] == [
        1,
        200,
        256,
        129,
        150,
        171,
    ]
    assert chunks.plan(given, 1025, False, Means(workers=4)).workers == 4
    assert chunks.plan(given, 200, False, Means(workers=4)).workers == 1


def test_what_decides_last_bits_is_as_it_was_for_the_published_truths() -> None:
    """The form of the first layer, and how many runs are trained at once."""
    wide, narrow = (problem(mlp((inputs, 8, 1))) for inputs in (25, 24))  # 12 samples

    assert (gram_pays(wide), gram_pays(narrow)) == (True, False)
    assert chunks.at_once(problem(mlp((784, 8, 1))), False) == 2**22 // (8 * 784 * 8) == 83
    assert chunks.at_once(problem(mlp((784, 8, 1)), train=1000), True) == 2**22 // (8 * 1000 * 8) == 65
    assert (chunks.at_once(problem(), False), chunks.at_once(problem(mlp((784, 512, 1))), False)) == (256, 32)


def test_less_memory_means_fewer_chunks_side_by_side_then_fewer_runs_then_an_error() -> None:
    given = large(mlp((784, 128, 10), loss="cross-entropy"), OPTIMIZERS["sgd"])
    usual = chunks.plan(given, 300, False, Means(workers=2))
    need = chunks.shared_bytes(given, 300, False) + chunks.chunk_bytes(given, usual.runs, False)

    assert (usual.workers, usual.short) == (2, False)
    one = chunks.plan(given, 300, False, Means(need, workers=2))
    assert (one.runs, one.workers, one.short) == (usual.runs, 1, False)
    fewer = chunks.plan(given, 300, False, Means(need - 10 * MIB, workers=2))
    assert fewer.short
    assert 1 <= fewer.runs < usual.runs
    with pytest.raises(LoobenchError, match=r"needs about \d+ MiB, the budget is 20 MiB: give more by --memory"):
        chunks.plan(given, 300, False, Means(20 * MIB))


def large(model: Network, optimizer: Optimizer, *, train: int = 300, batch: int = 50, query: int = 300) -> Problem:
    given = problem(model, optimizer, train=train, batch=batch, query=query, epochs=1)
    return replace(given, horizons=(given.steps,), query_kind="mean")


CONVOLUTIONAL = cnn((1, 28, 28), (Block(20, 5), Block(20, 5)), 10)
LARGE: dict[str, Callable[[], Problem]] = {
    "mlp-sgd": lambda: large(mlp((784, 128, 10), loss="cross-entropy"), OPTIMIZERS["sgd"]),
    "mlp-adam": lambda: large(mlp((784, 64, 10), loss="cross-entropy"), OPTIMIZERS["adam"]),
    "mlp-wide": lambda: large(mlp((20, 512, 512, 10), loss="cross-entropy"), OPTIMIZERS["momentum"], train=100),
    "gram": lambda: large(mlp((4000, 64, 1)), OPTIMIZERS["momentum"]),
    "gram-many": lambda: large(mlp((9000, 8, 1)), OPTIMIZERS["momentum"], train=600, query=100),
    "samples": lambda: large(mlp((5, 4, 1)), OPTIMIZERS["sgd"], train=6000, batch=1000),
    "queries": lambda: replace(large(mlp((5, 4, 1)), OPTIMIZERS["sgd"], query=20000), query_kind="each"),
    "cnn": lambda: replace(large(CONVOLUTIONAL, OPTIMIZERS["sgd"]), left_out=torch.arange(12)),
    "cnn-norm": lambda: replace(
        large(
            cnn((3, 32, 32), (Block(16, 3, padding=1, groups=4), Block(32, 3, padding=1, groups=4)), 10), OPTIMIZERS["momentum"]
        ),
        left_out=torch.arange(4),
    ),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_within_the_budget(name: str, workers: int) -> None:
    given = LARGE[name]()
    runs, gram = len(given.left_out) + 1, gram_pays(given)
    usual = chunks.plan(given, runs, gram, Means()).runs
    chunk = chunks.chunk_bytes(given, usual if workers == 2 else 2, gram)
    budget = chunks.shared_bytes(given, runs, gram) + chunk * workers
    with machine.one_thread():
        leave_one_out(train(replace(given, left_out=given.left_out[:2])).until(1))  # what libraries take on their first call
        taken = machine.peak_growth(lambda: truth.ground_truth(trained(given, Means(budget)), Means(budget, workers)), "cpu")
    if taken is None:
        pytest.skip("this system does not tell a process's peak memory")

    plan = chunks.plan(given, runs, gram, Means(budget, workers))
    assert plan.workers == min(workers, -(-runs // usual))
    assert plan.short == (workers == 1 and usual > 1)
    assert 0 < taken <= budget


def test_the_peak_of_memory_is_measured() -> None:
    taken = machine.peak_growth(lambda: torch.ones(100 * MIB // 8, dtype=torch.float64), "cpu")
    if taken is None:
        pytest.skip("this system does not tell a process's peak memory")

    assert 95 * MIB < taken < 115 * MIB


def test_free_memory_is_that_of_the_tightest_control_group_above(tmp_path: Path) -> None:
    inner = tmp_path / "root" / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job/step\n")
    for folder, limit in ((inner, "max"), (inner.parent, "1000")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("900\n")
        (folder / "memory.stat").write_text("anon 10\ninactive_file 300\n")
    groups = machine.control_groups(tmp_path / "own", tmp_path / "root")

    assert groups == [inner, inner.parent, tmp_path / "root"]
    assert [machine._free_in(group) for group in groups][1:] == [400, 2**62]
    assert machine._free_in(groups[0]) > 2**61
    assert machine.control_groups(tmp_path / "none", tmp_path) == []


def test_a_float32_truth_and_its_noise_stay_within_the_least_budget() -> None:
    given = map_tensors(problem(mlp((50, 200, 10), loss="cross-entropy"), train=40, batch=5, epochs=60), single)
    given = replace(given, left_out=torch.arange(4), horizons=(given.steps,))
    budget = next(size * MIB for size in range(20, 900, 4) if fits(given, Means(size * MIB)))
    taken = machine.peak_growth(lambda: truth.ground_truth(trained(given, Means(budget)), Means(budget)), "cpu")

    assert taken is None or 0.1 * budget < taken <= budget


def fits(given: Problem, means: Means) -> bool:
    try:
        truth.check_memory(given, means)
    except LoobenchError:
        return False
    return True


def test_what_a_run_may_take_holds_for_estimators_that_retrain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Means] = []
    usual = chunks.plan
    monkeypatch.setattr(chunks, "plan", lambda p, runs, gram, means: (seen.append(means), usual(p, runs, gram, means))[1])

    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "exact-loo", "--memory", "300M"]) == 0
    assert seen[-1] == Means(300 * MIB, 1)


def test_a_truth_from_small_chunks_is_computed_anew_where_there_is_memory(tmp_path: Path) -> None:
    task = suites.task("quick-breast-cancer-mlp-sgd")
    with machine.one_thread():
        run = truth.reference(task, 0, tmp_path, "cpu")
        gram = gram_pays(run.problem)
        tight = Means(chunks.shared_bytes(run.problem, 101, gram) + chunks.chunk_bytes(run.problem, 20, gram))

        def told(means: Means) -> int:
            visits: list[int] = []
            truth.cached_truth(task, 0, run, tmp_path, "cpu", means, progress=visits.append)
            return sum(visits)

        assert chunks.plan(run.problem, 101, gram, tight).short
        assert [told(means) > 0 for means in (tight, tight, Means(), Means(), tight)] == [True, False, True, False, False]


def test_the_noise_of_a_float32_truth_needs_its_memory_too() -> None:
    given = map_tensors(LARGE["mlp-sgd"](), single)
    need = chunks.shared_bytes(given, 301, False) + chunks.chunk_bytes(given, 1, False)

    chunks.plan(given, 301, False, Means(need))
    with pytest.raises(LoobenchError, match="needs about"):
        truth.check_memory(given, Means(need))
    truth.check_memory(given, Means(2 * need))


def single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def test_a_budget_or_thread_number_that_cannot_be_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--memory", "1M"], "error: retraining one run at a time needs about"),
        (["--memory", "lots"], "error: --memory takes a size like 500M or 2G, got 'lots'"),
        (["--memory", "9" * 400], "error: --memory takes a size like 500M or 2G, got '999"),
        (["--memory", "0"], "error: --memory takes a size like 500M or 2G, got '0'"),
        (["--threads", "0"], "error: --threads must be 1 or more, got 0"),
    ):
        assert main(["truth", TASK, *options]) == 2
        assert message in capsys.readouterr().err


def test_sizes_of_memory_are_read_as_people_write_them() -> None:
    from benchmark.commands.options import in_bytes

    assert [in_bytes(text) for text in ("100", "1k", "500M", "1.5G", "2GiB", "3mb")] == [
        100,
        1024,
        500 * MIB,
        1536 * MIB,
        2048 * MIB,
        3 * MIB,
    ]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
    usual = Runs.step

    def step(runs: Runs, t: int, *arguments: object) -> None:
        if runs.runs > most and t > 2:
            raise error
        usual(runs, t, *arguments)

    monkeypatch.setattr(Runs, "step", step)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")]
)
def test_a_chunk_that_does_not_fit_is_halved_and_the_run_goes_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, told = train(problem()), []
    whole = leave_one_out(run)
    short_of_memory(monkeypatch, 4, error)

    assert torch.allclose(leave_one_out(run, progress=told.append), whole, rtol=1e-10, atol=1e-14)
    assert sum(told) == 3 * 12 * 13  # what was lost is taken back
    assert "out of memory with 13 runs at once: going on with half as many" in capsys.readouterr().err
    short_of_memory(monkeypatch, 0, error)
    with pytest.raises(LoobenchError, match="one run alone does not fit"):
        leave_one_out(run)


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 4, RuntimeError("something else"))

    with pytest.raises(RuntimeError, match="something else"):
        leave_one_out(train(problem()))


# ---- resumed chunks ------------------------------------------------------------------------------------------------
class Enough(Exception):
    """A person's Ctrl-C, in a test."""


def stopped_after(visits: int) -> Callable[[int], None]:
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        if done > visits:
            raise Enough

    return progress


def begun(cache: Path, workers: int = 1) -> tuple[Trajectory, list[Path]]:
    """The run of a task whose truth was stopped on the way, and the chunks that are kept."""
    run = truth.reference(suites.task(TASK), 0, cache, "cpu")
    return run, begun_by(run, cache, workers)


def begun_by(run: Trajectory, cache: Path, workers: int = 1) -> list[Path]:
    with pytest.raises(Enough):
        truth.cached_truth(suites.task(TASK), 0, run, cache, "cpu", Means(workers=workers), progress=stopped_after(60 * 1000))
    return sorted(cache.glob("truth/*.chunks/*"))


def finished(run: Trajectory, cache: Path) -> tuple[str, int]:
    """Digest of the truth, and visits that it was told of."""
    told: list[int] = []
    exact = truth.cached_truth(suites.task(TASK), 0, run, cache, "cpu", progress=told.append)
    return exact.digest(), sum(told)


@pytest.fixture
def twenty_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 20)


@pytest.mark.usefixtures("twenty_at_once")
def test_a_stopped_truth_goes_on_from_its_chunks_and_has_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine.one_thread():
        run, kept = begun(tmp_path / "stopped")
        trained: list[int] = []
        usual = Runs.__init__

        def counted(runs: Runs, given: Problem, state: torch.Tensor, count: int, gram: object = None) -> None:
            if given.steps > 1:  # not the warm-up
                trained.append(count)
            usual(runs, given, state, count, gram)  # type: ignore[arg-type]

        monkeypatch.setattr(Runs, "__init__", counted)
        monkeypatch.setattr(truth, "limits", lambda *_: {})  # which train more
        resumed = finished(run, tmp_path / "stopped")
        assert len(kept) == 3
        assert sum(trained) == 101 - 3 * 17
        assert resumed == finished(run, tmp_path / "afresh")
    assert not list((tmp_path / "stopped").glob("truth/*.chunks"))


@pytest.mark.usefixtures("twenty_at_once")
def test_a_chunk_that_was_tampered_with_is_computed_anew_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with machine.one_thread():
        run, (first, second, third) = begun(tmp_path / "stopped")
        tensors, facts = read_tensors(first)
        write_tensors(first, {"effect": tensors["effect"] + 1e-9}, facts)
        second.write_bytes(second.read_bytes()[:100])
        third.write_bytes(first.read_bytes())
        assert finished(run, tmp_path / "stopped") == finished(run, tmp_path / "afresh")
    assert capsys.readouterr().err.count("a kept chunk of a truth is damaged and is computed anew") == 3


@pytest.mark.usefixtures("twenty_at_once")
def test_chunks_of_another_trajectory_are_not_taken_whatever_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with machine.one_thread():
        run, kept = begun(tmp_path / "stopped")
        assert kept
        other = train(replace(run.problem, initial=run.problem.initial + 0.1))
        names = sorted(path.name for path in (begun_by(other, tmp_path / "other")))
        for chunk, name in zip(kept, names, strict=True):
            chunk.rename(chunk.with_name(name))
        assert finished(other, tmp_path / "stopped") == finished(other, tmp_path / "afresh")
    assert capsys.readouterr().err.count("damaged and is computed anew") == 3


@pytest.mark.usefixtures("twenty_at_once")
def test_a_truth_computed_on_several_threads_and_stopped_is_the_same(tmp_path: Path) -> None:
    with machine.one_thread():
        run, _ = begun(tmp_path / "stopped", workers=2)
        assert finished(run, tmp_path / "stopped") == finished(run, tmp_path / "afresh")


# ---- some of many samples ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [MODELS["mlp"], MODELS["cnn-norm"]], ids=["mlp", "cnn-norm"])
def test_leaving_out_some_samples_gives_their_rows_of_leaving_out_all(model: Network) -> None:
    given = problem(model)
    some = replace(given, left_out=torch.tensor([1, 4, 10]))

    assert torch.allclose(leave_one_out(train(some)), leave_one_out(train(given))[:, [1, 4, 10]], rtol=1e-9, atol=1e-14)


@every_estimator
def test_every_estimator_answers_for_the_samples_left_out(name: str) -> None:
    given = supported_by(registered()[name], query_kind="mean")
    given = replace(given, horizons=(1, given.steps))
    asked = given.batch(0)[:3].sort().values  # at the first horizon the others have no effect yet
    some = replace(given, left_out=asked)
    whole, part = (evaluate.estimate(registered()[name], train(p)).effect for p in (given, some))

    assert part.shape == (2, 3, 1)
    assert torch.allclose(part, whole[:, asked], rtol=1e-9, atol=1e-13)


def test_an_answer_with_neither_some_nor_all_rows_is_a_bad_shape() -> None:
    some = replace(problem(), left_out=torch.tensor([1, 4, 10]))
    wrong = Estimator("wrong", lambda run: torch.ones(4, 3), {}, "none", "digest")

    with pytest.raises(evaluate.Failure, match=r"must return \(K, Q\) = \(3, 3\) or of all N \(12, 3\), got \(4, 3\)"):
        evaluate.estimate(wrong, train(some))


def test_a_task_leaves_out_two_samples_or_more() -> None:
    task = suites.task(TASK)
    for count in (0, 1, task.train + 1):
        with pytest.raises(LoobenchError, match=f"leave_out must be 2 to 100, got {count}"):
            replace(task, leave_out=count)


def test_the_samples_left_out_come_from_their_own_stream(tmp_path: Path) -> None:
    from benchmark.tasks.definition import build

    some = replace(suites.task(TASK), leave_out=10)
    drawn = [build(some, seed, tmp_path).left_out.tolist() for seed in (0, 1, 0)]

    assert drawn[0] == drawn[2] == sorted(set(drawn[0]))
    assert drawn[0] != drawn[1]
    assert drawn[1] == sorted(stream("left-out", 1).permutation(100)[:10].tolist())
    assert torch.equal(build(some, 0, tmp_path).train.inputs, build(suites.task(TASK), 0, tmp_path).train.inputs)


# ---- noise ---------------------------------------------------------------------------------------------------------
def test_a_truth_in_float32_carries_its_noise_and_one_in_float64_none() -> None:
    found = truth.ground_truth(train(map_tensors(problem(train=60, epochs=6), single))).noise

    assert found is not None
    assert 1e-9 < found.float64 < 1e-3
    assert 1e-9 < found.repeat < 1e-3
    assert found.samples == truth.NOISE_SAMPLES
    assert truth.ground_truth(train(problem())).noise is None


def test_the_noise_is_the_difference_over_the_spread_of_the_effect() -> None:
    run = train(problem(query_kind="mean"))
    effect = leave_one_out(run)
    off = effect + 0.25 * effect.std(dim=1, keepdim=True)

    found = truth.noise(run, off, Means())
    assert found.repeat == pytest.approx(0.25, rel=1e-9)
    assert found.float64 == pytest.approx(0.25, rel=1e-9)
    nowhere = truth.noise(run, torch.zeros_like(effect), Means())
    assert nowhere.repeat is nowhere.float64 is None


def test_a_query_that_no_sample_has_an_effect_on_does_not_spoil_a_float32_truth(tmp_path: Path) -> None:
    given = map_tensors(problem(MODELS["logistic"], train=40), single)
    far = given.query.inputs.clone()
    far[0] = 1e4 * given.initial[:5]  # a logit so large that its loss is 0 in float32 whatever sample is missing
    given = replace(given, query=replace(given.query, inputs=far, targets=torch.ones_like(given.query.targets)))
    run = train(given)
    exact = truth.cached_truth(suites.task(TASK), 0, run, tmp_path, "cpu")

    assert (exact.effect[:, :, 0] == 0).all()
    assert exact.noise is not None
    assert 0 < exact.noise.float64 < 1e-3


def test_the_noise_is_kept_with_the_truth_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert main(["truth", TASK, "--dtype", "float32"]) == 0
        printed.append(capsys.readouterr().out)

    assert "noise of 32 samples over the standard deviation of the effects: trained anew" in printed[0]
    assert printed[0] == printed[1]


def test_the_mean_effect_of_a_float32_truth_has_no_bias() -> None:
    given = map_tensors(problem(train=60, epochs=6, query_kind="mean"), single)
    double = map_tensors(given, lambda x: x.double() if x.is_floating_point() else x)
    error = leave_one_out(train(given)).double() - leave_one_out(train(double))

    assert error.mean(dim=1).abs().max() < 1e-7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.usefixtures("twenty_at_once")
def test_a_truth_from_a_gpu_carries_its_noise_and_resumes(tmp_path: Path) -> None:
    task = suites.task(TASK)
    run = truth.reference(task, 0, tmp_path, "cuda")
    with pytest.raises(Enough):
        truth.cached_truth(task, 0, run, tmp_path, "cuda", progress=stopped_after(60 * 1000))
    exact = truth.cached_truth(task, 0, run, tmp_path, "cuda")

    assert exact.noise is not None
    assert exact.noise.repeat < 1e-6
    assert torch.allclose(exact.effect, truth.ground_truth(truth.reference(task, 0, tmp_path, "cpu")).effect, atol=1e-10)
