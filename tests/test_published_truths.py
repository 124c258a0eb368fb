"""A truth is published with its run, and taken from elsewhere only after its files, its run and some effects were checked."""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import owned
import pytest
import torch
from conftest import SHARED, Start
from safetensors.torch import load_file

from benchmark.base import machine
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import json_digest, read_sealed, tensor_digest, write_sealed
from benchmark.base.streams import stream
from benchmark.core.trajectory import Replay
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import train
from benchmark.tasks.definition import AnyTask, build, variant
from benchmark.tasks.own import OwnTask
from benchmark.tasks.questions import FurtherTraining, Subsets
from benchmark.tasks.suites import TASKS
from benchmark.truths import layout, published, truth, vetting
from benchmark.truths.effects import Noise
from benchmark.truths.layout import Key

NAME = "quick-breast-cancer-logistic-sgd"
TASK = replace(TASKS[NAME], train=40, query=20, test=20, epochs=5, horizons=(2, 5))  # 20 steps, a checkpoint every 5
SINGLE = variant(TASK, "float32")
GROUPS = replace(TASK, name="groups", truth=Subsets(0.5, count=6, repeats=2))
FURTHER = replace(TASK, name="further", horizons=(1, 2), truth=FurtherTraining(TASK.optimizer, (1, 2), 2))
OWN = OwnTask("own-tokens", owned.tokens())
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Loobench = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]


class Bar:
    """A bar that nobody sees."""

    def __init__(self, *_: object) -> None: ...
    def update(self, n: int) -> None: ...
    def close(self) -> None: ...


take = partial(published.take, device="cpu", bar=Bar)


def publish(task: AnyTask, folder: Path, cache: Path, seed: int = 0) -> truth.GroundTruth:
    run, exact = truth.answer(task, seed, cache, "cpu", Bar)
    published.push(task, seed, run, exact, str(folder), "cpu")
    return exact


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two truths."""
    folder = tmp_path_factory.mktemp("published")
    for seed in (0, 1):
        publish(TASK, folder / "truths", folder / "cache", seed)
    return folder / "truths"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "truths"))


def sealed_anew(folder: Path, file: str, change: Change, task: AnyTask = TASK) -> None:
    """Change a file as a publisher could, with its seal and all digests right."""
    tensors, facts = read_sealed(folder / file, {})
    change(tensors, facts)
    write_sealed(folder / file, tensors, facts)
    index = layout.read_index(folder)
    entry = published.found_in(index, folder, task, 0, "cpu")
    files = {**entry.files, file: layout.sha256(folder / file)}
    known = {name: facts[name] for name in ("trajectory", "problem", "made") if name in facts}
    known |= {"truth": tensor_digest([tensors["effect"]])} if "effect" in tensors else {}
    layout.write_index(index.with_truth(replace(entry, files=files, **known)), folder)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this is a processor with other last bits."""
    monkeypatch.setattr(machine, "arithmetic", lambda: "another")


def kept(cache: Path) -> list[Path]:
    return [*(cache / "truth").rglob("*")] if (cache / "truth").exists() else []


# ---- what is published -----------------------------------------------------------------------------------------------
def test_a_published_run_has_the_states_of_training_at_every_root_of_its_steps_and_at_horizons(
    whole: Path, cache: Path
) -> None:
    key = Key(TASK.digest(), 0, "cpu")
    tensors, facts = read_sealed(whole / key.shard(0), {})
    plain = train(build(TASK, 0, cache)).states

    assert facts["steps"] == [0, 5, 8, 10, 15, 20]
    assert torch.equal(tensors["states"], plain[[0, 5, 8, 10, 15, 20]])
    assert {at.suffix for at in whole.rglob("*") if at.is_file() and ".locks" not in at.parts} == {
        *(".safetensors", ".json", ".jsonl", ".md")
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "fresh"


def test_large_runs_are_published_in_several_files(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SHARD", 2 * train(build(TASK, 0, cache)).states[0].nbytes)
    publish(TASK, tmp_path / "truths", tmp_path / "own")

    assert len([*(tmp_path / "truths").rglob("states-*.safetensors")]) == 3
    assert take(TASK, 0, str(tmp_path / "truths"), cache).run.digest() == train(build(TASK, 0, cache)).digest()


def test_what_is_pushed_again_is_added_to_the_index_and_the_table_and_a_changed_card_stays(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "README.md").write_text(text := (folder / "README.md").read_text().replace("cc-by-4.0", "cc0-1.0"))
    publish(SINGLE, folder, tmp_path / "own")
    rows = [json.loads(line) for line in (folder / "truths.jsonl").read_text().splitlines()]

    assert sorted((row["seed"], row["dtype"]) for row in rows) == [(0, "float32"), (0, "float64"), (1, "float64")]
    assert (folder / "README.md").read_text() == text
    assert take(TASK, 1, str(folder), tmp_path / "fresh").truth.origin.startswith("folder@")


def test_the_index_keeps_the_seconds_of_other_machines(whole: Path) -> None:
    index = layout.read_index(whole)
    entry = replace(index.truths[0], seconds={"another machine": 7.0})

    assert index.with_truth(entry).truths[0].seconds == {**index.truths[0].seconds, "another machine": 7.0}
    assert len(index.with_truth(entry).truths) == len(index.truths)


def test_a_truth_that_was_taken_is_not_pushed(folder: Path, cache: Path, tmp_path: Path) -> None:
    taken = take(TASK, 0, str(folder), cache)
    with pytest.raises(LoobenchError, match="was taken from folder@"):
        published.push(TASK, 0, taken.run, taken.truth, str(tmp_path / "mine"), "cpu")


# ---- what is taken ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", [TASK, SINGLE, GROUPS, FURTHER, OWN], ids=lambda task: task.name)
def test_a_truth_comes_back_as_it_was_published_and_is_used_from_then_on(
    task: AnyTask, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = publish(task, tmp_path / "truths", tmp_path / "own")
    taken = take(task, 0, str(tmp_path / "truths"), cache, spots=2)
    monkeypatch.setattr(truth, "ground_truth", None)  # nothing is computed again
    run, found = truth.answer(task, 0, cache, "cpu", Bar)

    assert found.digest() == taken.truth.digest() == exact.digest()
    assert found.origin == taken.truth.origin
    assert re.fullmatch(r"folder@[0-9a-f]{16}", found.origin)
    assert (found.gradients, found.noise, found.limits) == (exact.gradients, exact.noise, exact.limits)
    assert found.machine == exact.machine
    assert run.digest() == train(build(task, 0, cache)).digest()


def test_seconds_are_those_of_the_spot_runs_times_what_many_runs_gain_scaled_to_all(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vetting, "_gain", lambda asked, few, many: (few, many) == (4, 41) and 0.25)
    told = take(TASK, 0, str(folder), cache, spots=3)
    (seconds,) = re.findall(r"in ([\d.]+) s", told.said[1])

    assert told.truth.seconds == pytest.approx(float(seconds) / 4 * 0.25 * 41, abs=0.005 * 41 / 16)


def test_a_truth_that_was_computed_here_stays_in_use(folder: Path, cache: Path) -> None:
    truth.answer(TASK, 0, cache, "cpu", Bar)
    taken = take(TASK, 0, str(folder), cache)

    assert taken.said[-1] == "the cache has this truth computed here: that one stays in use"
    assert truth.answer(TASK, 0, cache, "cpu", Bar)[1].origin == ""


def slightly_off(folder: Path, share: float, task: AnyTask = TASK) -> None:
    """The run as another processor computes it: all states but the first are off by a share."""
    noise = torch.Generator().manual_seed(0)

    def change(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        states = tensors["states"]
        states[1:] *= 1 + share * torch.randn(states[1:].shape, generator=noise, dtype=torch.float64)

    sealed_anew(folder, Key(task.digest(), 0, "cpu").shard(0), change, task)


def test_a_run_of_other_last_bits_is_taken_with_its_truth_and_orphans_it_not(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slightly_off(folder, 1e-12)
    states = load_file(folder / Key(TASK.digest(), 0, "cpu").shard(0))["states"]
    elsewhere(monkeypatch)
    taken = take(TASK, 0, str(folder), cache)
    monkeypatch.setattr(truth, "ground_truth", None)
    run, found = truth.answer(TASK, 0, cache, "cpu", Bar)

    assert found.origin == taken.truth.origin
    assert run.digest() == taken.run.digest() != train(build(TASK, 0, cache)).digest()
    assert torch.equal(run.states[5], states[1])  # what estimators read are the published states
    assert torch.equal(run.states[15], states[4])


def test_where_memory_is_short_the_published_states_are_held_and_the_others_replayed(folder: Path, cache: Path) -> None:
    taken, problem = take(TASK, 0, str(folder), cache), build(TASK, 0, cache)
    found = layout.read_states([folder / Key(TASK.digest(), 0, "cpu").shard(0)], problem)
    short = found.run(problem, Means(memory=4 * taken.run.states.nbytes - 1))

    assert isinstance(short.states, Replay)
    assert short.states.kept.shape[0] == 5
    assert short.digest() == taken.run.digest()


def test_a_damaged_run_in_the_cache_is_said_and_its_truth_computed_here(
    folder: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slightly_off(folder, 1e-12)
    elsewhere(monkeypatch)
    take(TASK, 0, str(folder), cache)
    (at,) = (cache / "truth").rglob("states-0.safetensors")
    at.write_bytes(at.read_bytes()[:-9])
    _, found = truth.answer(TASK, 0, cache, "cpu", Bar)

    assert found.origin == ""
    assert "a published run in the cache is damaged" in capsys.readouterr().err


def test_a_result_says_where_its_truth_is_from(folder: Path, tmp_path: Path, loobench: Loobench) -> None:
    publish(TASKS[NAME], folder, tmp_path / "own")
    taken = loobench("truth", NAME, "--from-hub", "./truths")
    again = loobench("truth", NAME)
    ran = loobench("run", "--task", NAME, "--seeds", "1", "--estimator", "loss")
    (origin,) = re.findall(r"origin: (folder@\w+)", again.stdout)
    result = json.loads((tmp_path / "my-results" / NAME / "loss.json").read_text())

    assert (taken.returncode, again.returncode, ran.returncode) == (0, 0, 0), taken.stderr + ran.stderr
    assert "states replayed bit for bit" in taken.stdout
    assert "3 of 100 trained again here" in taken.stdout
    assert {facts["origin"] for facts in result["provenance"].values()} == {origin}
    assert loobench("score").returncode == 0  # the schema has room for it


# ---- what is refused -------------------------------------------------------------------------------------------------
FILES = ("README.md", "truths.jsonl", "index.json", Key(TASK.digest(), 0, "cpu").file, Key(TASK.digest(), 0, "cpu").shard(0))


@pytest.mark.parametrize("part", [0.05, 0.5, 0.999])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.rpartition("/")[2])
def test_one_flipped_bit_in_any_file_is_refused_and_nothing_kept(file: str, part: float, folder: Path, cache: Path) -> None:
    content = bytearray((folder / file).read_bytes())
    content[int(part * (len(content) - 1))] ^= 1
    (folder / file).write_bytes(content)

    with pytest.raises(DamagedFile, match=re.escape(file.rpartition("/")[2])):
        take(TASK, 0, str(folder), cache)
    assert not kept(cache)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.rpartition("/")[2])
def test_a_file_that_is_cut_or_missing_is_refused(file: str, folder: Path, cache: Path) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:-7])
    with pytest.raises(DamagedFile, match=re.escape(file.rpartition("/")[2])):
        take(TASK, 0, str(folder), cache)
    (folder / file).unlink()
    with pytest.raises(LoobenchError, match=re.escape(file.rpartition("/")[2])):
        take(TASK, 0, str(folder), cache)
    assert not kept(cache)


def spot(spots: int, nonce: int, count: int = 40) -> list[int]:
    return sorted(stream("spot", nonce).permutation(count)[:spots].tolist())


def test_an_effect_that_was_changed_and_sealed_anew_fails_the_spot_check(folder: Path, cache: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        effect = tensors["effect"]
        effect[1, spot(3, 7)[1], 0] += 20 * 1e-6 * effect[1].std()

    sealed_anew(folder, FILES[3], change)
    with pytest.raises(LoobenchError, match=r"a spot check failed: the effect of sample \d+ on query 0 at horizon 1") as error:
        take(TASK, 0, str(folder), cache, nonce=7)
    assert f"sample {spot(3, 7)[1]} " in str(error.value)
    assert not kept(cache)
    assert take(TASK, 0, str(folder), cache, spots=1, nonce=next(n for n in range(99) if spot(3, 7)[1] not in spot(1, n)))


@pytest.mark.parametrize("floors", [20, 1])
def test_in_float32_an_effect_may_be_off_by_five_of_the_stated_noise_floors(floors: int, tmp_path: Path, cache: Path) -> None:
    exact = publish(SINGLE, tmp_path / "truths", tmp_path / "own")
    stated = max(float(vetting.tolerance(exact).max()) / 5, 1e-7)

    def change(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        tensors["effect"][1, spot(3, 7)[0], 0] += floors * stated * exact.effect[1].std()

    sealed_anew(tmp_path / "truths", Key(SINGLE.digest(), 0, "cpu").file, change, SINGLE)
    if floors == 1:
        assert take(SINGLE, 0, str(tmp_path / "truths"), cache, nonce=7)
        return
    with pytest.raises(LoobenchError, match="a spot check failed"):
        take(SINGLE, 0, str(tmp_path / "truths"), cache, nonce=7)


def test_an_effect_that_really_moves_with_the_order_of_sums_is_not_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by 1e-12 in the second of four orders."""
    monkeypatch.setattr(vetting, "tolerance", lambda found: torch.full((2,), 1e-17, dtype=torch.float64))
    usual = vetting._reordered

    def noisy(*given: Any) -> Any:
        for number, found in enumerate(usual(*given)):
            yield replace(found, effect=found.effect + (number == 1) * 1e-12)

    monkeypatch.setattr(vetting, "_reordered", noisy)
    sealed_anew(folder, FILES[3], lambda tensors, _: tensors["effect"].add_(3e-12))

    assert take(TASK, 0, str(folder), cache).said
    sealed_anew(folder, FILES[3], lambda tensors, _: tensors["effect"].add_(3e-12))
    with pytest.raises(LoobenchError, match="a spot check failed"):
        take(TASK, 0, str(folder), cache)


def test_what_a_query_loss_is_rounded_by_is_one_to_four_last_bits_of_outputs_or_loss(cache: Path) -> None:
    run = train(build(replace(SINGLE, queries="each"), 0, cache))
    problem, sizes = run.problem, []
    for theta in (run.params(8), run.params(20)):
        weight, bias = theta[:-1], theta[-1]  # of the logistic model, by hand
        logits = (problem.query.inputs @ weight + bias).double()
        losses = logits.exp().log1p() - problem.query.targets * logits
        sizes.append(torch.maximum(logits.abs(), losses.abs()))
    last = torch.from_numpy(np.spacing(torch.stack(sizes).amax(0).float().numpy())).double()

    assert ((0.999 * last <= vetting.rounding(run)) & (vetting.rounding(run) <= 4.001 * last)).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_truth_is_taken_by_a_program_that_computes_with_other_instructions(dtype: str, tmp_path: Path) -> None:
    """All samples are trained again; of some queries the spread is few last bits of the loss, in float32."""
    task = "quick-digits-mlp-sgd"
    publish(variant(TASKS[task], dtype), tmp_path / "truths", tmp_path / "own")
    before, root = os.environ.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[1])
    other = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "PYTHONPATH": f"{root}{os.pathsep}{before}"}
    command = ["truth", task, "--dtype", dtype, "--from-hub", "./truths", "--spot", "100"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benchmark", *command],
        env={**os.environ, **other},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "checked: 100 of 100 trained again here" in done.stdout
    if "replayed bit for bit" in done.stdout:
        pytest.skip("this processor has one kind of instructions for both")


def test_a_run_whose_bits_differ_on_the_same_kind_of_processor_is_refused(folder: Path, cache: Path) -> None:
    slightly_off(folder, 1e-12)
    with pytest.raises(LoobenchError, match=r"the state after 5 steps is off by \S+ of its norm, allowed is no bit"):
        take(TASK, 0, str(folder), cache)
    assert not kept(cache)


def test_a_run_that_is_off_by_more_than_rounding_is_refused_on_any_processor(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slightly_off(folder, 1e-6)
    elsewhere(monkeypatch)
    with pytest.raises(LoobenchError, match=r"is off by \S+ of its norm, allowed is 1e-09 of it"):
        take(TASK, 0, str(folder), cache)


def test_a_problem_that_was_built_from_other_data_is_refused_and_its_parts_named(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        facts["problem"], facts["parts"]["train.targets"] = "0" * 64, "0" * 64

    sealed_anew(folder, FILES[3], other)
    for place in ("here", "elsewhere"):
        with pytest.raises(LoobenchError, match=r"is not the published one \(train.targets\)"):
            take(TASK, 0, str(folder), cache)
        if place == "here":
            elsewhere(monkeypatch)


def test_features_whose_last_bits_differ_are_accepted_on_another_processor_alone(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(_: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        facts["problem"], facts["parts"]["train.inputs"], facts["weight_decay"] = "0" * 64, "0" * 64, 0.01 * (1 + 1e-9)

    sealed_anew(folder, FILES[3], rounded)
    with pytest.raises(LoobenchError, match=r"train.inputs, weight_decay"):
        take(TASK, 0, str(folder), cache)
    elsewhere(monkeypatch)
    assert take(TASK, 0, str(folder), cache).said


SPOILT: dict[str, tuple[Change, str]] = {
    "another precision": (
        lambda tensors, _: tensors.update(effect=tensors["effect"].float()),
        "effects must be of torch.float64, got torch.float32",
    ),
    "fewer samples": (lambda tensors, _: tensors.update(effect=tensors["effect"][:, :-1]), r"must be finite and \(2, 40, 1\)"),
    "not a number": (lambda tensors, _: tensors["effect"][0, 0].fill_(torch.nan), "must be finite"),
    "other samples": (lambda tensors, _: tensors["left_out"].add_(1), "are not those of this task and seed"),
    "no numbers of samples": (lambda tensors, _: tensors.pop("left_out"), "expected effect and left_out"),
    "a fact of another type": (lambda _, facts: facts.update(runs="many"), "runs: expected int"),
    "noise as large as effects": (
        lambda _, facts: facts["limits"].update(noise=[0.1, 0.3]),
        "no check could tell them from chance",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_effects_that_are_not_what_is_asked_are_refused(what: str, folder: Path, cache: Path) -> None:
    change, message = SPOILT[what]
    sealed_anew(folder, FILES[3], change)

    with pytest.raises(LoobenchError, match=message):
        take(TASK, 0, str(folder), cache)
    assert not kept(cache)


def test_states_of_another_precision_or_steps_are_refused(folder: Path, cache: Path) -> None:
    sealed_anew(folder, FILES[4], lambda tensors, _: tensors.update(states=tensors["states"].float()))
    with pytest.raises(DamagedFile, match=r"of torch.float64, got .* of torch.float32"):
        take(TASK, 0, str(folder), cache)
    sealed_anew(folder, FILES[4], lambda _, facts: facts.update(steps=[0, 4, 8, 10, 15, 20]))
    with pytest.raises(DamagedFile, match=r"checkpoints at \(0, 4"):
        take(TASK, 0, str(folder), cache)


def test_what_is_missing_is_said_with_what_is_there(folder: Path, cache: Path) -> None:
    there = "of this task it has seed 0, cpu, float64, protocol [^;]*; seed 1, cpu, float64"
    for task, seed in ((TASK, 2), (SINGLE, 0)):
        with pytest.raises(LoobenchError, match=rf"lacks the truth of {task.name}, seed {seed}, .*: {there}"):
            take(task, seed, str(folder), cache)
    with pytest.raises(LoobenchError, match=f"it has {NAME}"):
        take(GROUPS, 0, str(folder), cache)
    with pytest.raises(LoobenchError, match=r"is no data set of truths: it has no index.json"):
        take(TASK, 0, str(folder / "truths"), cache)


def test_a_truth_of_another_protocol_is_not_taken_for_one_of_this(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (published, "benchmark.tasks.definition"):
        monkeypatch.setattr(f"{module}.PROTOCOL" if isinstance(module, str) else module.__name__ + ".PROTOCOL", "9.9")
    with pytest.raises(LoobenchError, match=r"protocol 9.9: of this task it has seed 0, cpu, float64, protocol (?!9.9)"):
        take(TASK, 0, str(folder), cache)


def test_an_index_whose_task_is_not_that_of_its_digest_is_refused(folder: Path, cache: Path) -> None:
    content = json.loads((folder / "index.json").read_text())
    content.pop("digest")
    for one in content["truths"]:
        one["task"]["batch"] = 3
    (folder / "index.json").write_text(json.dumps({**content, "digest": json_digest(content)}))

    with pytest.raises(DamagedFile, match="is not that of its digest"):
        take(TASK, 0, str(folder), cache)


@pytest.mark.parametrize("told", [{"truth": "0" * 64}, {"noise": Noise(0.01, 0.01, 8)}], ids=lambda told: next(iter(told)))
def test_an_index_that_says_other_than_the_file_of_effects_is_refused(told: dict[str, Any], folder: Path, cache: Path) -> None:
    index = layout.read_index(folder)
    layout.write_index(replace(index, truths=[replace(one, **told) for one in index.truths]), folder)

    with pytest.raises(DamagedFile, match=r"other effects, or another noise, than index\.json says"):
        take(TASK, 0, str(folder), cache)


def test_an_index_that_names_files_elsewhere_is_refused(folder: Path, cache: Path) -> None:
    index = layout.read_index(folder)
    bad = [replace(one, files={**one.files, "../../secret": "0"}) for one in index.truths]
    layout.write_index(replace(index, truths=bad), folder)

    with pytest.raises(DamagedFile, match="names other files"):
        take(TASK, 0, str(folder), cache)


NAMED = {
    "ada/truths": "needs a revision, as in ada/truths@COMMIT: what lies on the Hub can be exchanged",
    "truths": "expected a data set of the Hub, OWNER/NAME, or a folder, as ./truths, got 'truths'",
    "a/b/c@main": "expected a data set of the Hub",
    "@main": "expected a data set of the Hub",
}


@pytest.mark.parametrize("named", NAMED)
def test_a_place_without_a_revision_or_that_is_none_is_an_error(named: str, cache: Path) -> None:
    with pytest.raises(LoobenchError, match=re.escape(NAMED[named])):
        take(TASK, 0, named, cache)


def test_options_that_cannot_be_are_errors_of_one_line(loobench: Loobench) -> None:
    for options, message in (
        (("--from-hub", "./truths", "--push", "./mine"), "say opposite things"),
        (("--from-hub", "./truths", "--spot", "0"), "effects are not taken unseen"),
        (("--push", "ada/truths@main"), "truths are added to the newest revision"),
    ):
        done = loobench("truth", NAME, *options)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


# ---- the Hub ---------------------------------------------------------------------------------------------------------
class Faults:
    """What a Hub does wrong."""

    fail_first, truncate, corrupt = 0, False, False


@pytest.fixture
def serve(start: Start) -> Callable[..., str]:
    """The Hub beside the checkout with data sets of a folder, faults in what it sends, and commits."""
    if not (at := SHARED / "hub" / "serve_hub.py").exists():
        pytest.skip("needs the shared Hub server beside the checkout")
    spec = importlib.util.spec_from_file_location("serve_hub", at)
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))

    def serving(root: Path, fault: str = "", times: int = 10**6) -> str:
        left = [times]

        class Handler(module.Hub):  # type: ignore[name-defined,misc]
            faults = Faults

            def answer(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
                if fault and left[0] and self.command == "GET" and self.path.endswith("safetensors"):
                    left[0] -= 1
                    if fault == "503":
                        return super().answer(503, b"", {})  # type: ignore[no-any-return]
                    flipped = bytes([*body[:-1], body[-1] ^ 1]) if fault == "flipped" else body
                    return super().answer(status, flipped, headers, fault == "cut")  # type: ignore[no-any-return]
                return super().answer(status, body, headers, cut)  # type: ignore[no-any-return]

            def do_POST(self) -> None:  # noqa: N802
                if not committed(self, root):
                    self.route()

        Handler.root = root
        return start(Handler)

    return serving


def committed(handler: Any, root: Path) -> bool:
    """Answer what belongs to a commit, and write its files; whether it was that."""
    kinds = r"^/api/(repos/create|validate-yaml|datasets/([^/]+/[^/]+)/(preupload|commit)/main)"
    if not (found := re.match(kinds, handler.path)):
        return False
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    kind, repository = found[3] or found[1], found[2]
    answer: dict[str, Any] = {"errors": [], "warnings": []}
    address = f"http://{handler.headers['Host']}"
    if kind == "repos/create":
        asked = json.loads(body)
        at = root / f"{asked.get('organization') or 'ada'}/{asked['name']}"
        answer = {"url": f"{address}/datasets/{at.relative_to(root)}"}
        if not at.exists():
            at.mkdir(parents=True)
            (at / ".revision").write_text("0" * 40)
            (at / ".gitattributes").write_text("")
    if kind == "preupload":
        names = [one["path"] for one in json.loads(body)["files"]]
        answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
    if kind == "commit":
        lines = [json.loads(line) for line in body.splitlines()]
        at = root / repository
        if lines[0]["value"]["parentCommit"] != (at / ".revision").read_text():
            handler.answer_json(412, {"error": "the branch has moved"})
            return True
        for one in lines[1:]:
            file = at / one["value"]["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(base64.b64decode(one["value"]["content"]))
        (at / ".revision").write_text(oid := f"{int((at / '.revision').read_text(), 16) + 1:040x}")
        answer = {"commitUrl": f"{address}/datasets/{repository}/commit/{oid}", "commitOid": oid}
    handler.answer_json(200, answer)
    return True


@pytest.fixture
def root(tmp_path: Path, whole: Path) -> Path:
    """What a Hub has: a data set with a truth of a task of the suites."""
    root = tmp_path / "hub"
    shutil.copytree(whole, root / "ada/truths")
    publish(TASKS[NAME], root / "ada/truths", tmp_path / "own")
    (root / "ada/truths/.revision").write_text(COMMIT)
    return root


def test_a_truth_is_taken_from_the_hub_at_a_revision_and_its_commit_is_the_origin(
    root: Path, serve: Callable[..., str], loobench: Loobench, tmp_path: Path
) -> None:
    done = loobench("truth", NAME, "--from-hub", "ada/truths@main", HF_ENDPOINT=serve(root))

    assert done.returncode == 0, done.stderr
    assert f"origin: ada/truths@{COMMIT}" in done.stdout
    assert f"origin: ada/truths@{COMMIT}" in loobench("truth", NAME).stdout
    assert not [*(tmp_path / "cache/downloads").iterdir()]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "it answers 503: it is in trouble itself"),
        pytest.param("cut", "cannot download data set ada/truths", marks=pytest.mark.slow),
        ("flipped", "it was damaged or changed on its way"),
    ],
)
def test_a_hub_that_fails_gives_one_line_and_nothing_is_kept(
    fault: str, message: str, root: Path, serve: Callable[..., str], loobench: Loobench, tmp_path: Path
) -> None:
    done = loobench("truth", NAME, "--from-hub", f"ada/truths@{COMMIT}", HF_ENDPOINT=serve(root, fault))

    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not kept(tmp_path / "cache")
    assert not [*(tmp_path / "cache/downloads").iterdir()]


@pytest.mark.slow
def test_a_hub_that_fails_once_is_asked_again(root: Path, serve: Callable[..., str], loobench: Loobench) -> None:
    done = loobench("truth", NAME, "--from-hub", f"ada/truths@{COMMIT}", HF_ENDPOINT=serve(root, "503", 1))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("ada/truths@feed", "ada/truths has no revision feed"),
        ("ada/none@main", "it answers 404: it has no such data set"),
        ("ada/other@main", "lacks a file that a data set of truths has"),
    ],
)
def test_what_the_hub_lacks_is_said(
    named: str, message: str, root: Path, serve: Callable[..., str], loobench: Loobench
) -> None:
    (root / "ada/other").mkdir()
    (root / "ada/other/.revision").write_text(COMMIT)
    done = loobench("truth", NAME, "--from-hub", named, HF_ENDPOINT=serve(root))

    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_hub_that_is_down_is_said(loobench: Loobench) -> None:
    for option in ("ada/truths@main", "--push"):
        done = loobench("truth", NAME, *(("--push", "ada/truths") if option == "--push" else ("--from-hub", option)))
        assert done.returncode == 2
        assert "ada/truths" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_what_is_pushed_to_the_hub_is_merged_and_taken_from_there(
    tmp_path: Path, serve: Callable[..., str], loobench: Loobench
) -> None:
    (tmp_path / "hub").mkdir()
    address = serve(tmp_path / "hub")
    done = [loobench("truth", NAME, "--seed", seed, "--push", "ada/mine", HF_ENDPOINT=address) for seed in "01"]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    (where,) = re.findall(r"--from-hub (ada/mine@[0-9a-f]{40})", done[1].stdout)
    taken = loobench("truth", NAME, "--from-hub", where, "--cache", "other", HF_ENDPOINT=address)

    assert taken.returncode == 0, taken.stderr
    assert f"origin: {where}" in taken.stdout
    assert [one.seed for one in layout.read_index(tmp_path / "hub/ada/mine").truths] == [0, 1]
    assert not [*(tmp_path / "hub/ada/mine").rglob(".cache")]


# ---- for other readers -----------------------------------------------------------------------------------------------
def test_the_examples_of_the_page_run_as_they_stand(folder: Path, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "truths.md").read_text()
    frame, effects = re.findall(r"```python\n(.*?)```", page, re.S)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", frame + effects], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert len([line for line in frame.splitlines() if line]) == 3
    assert NAME in done.stdout
    key = layout.read_index(folder).truths[0].key
    assert str(tuple(load_file(folder / key.file)["effect"].shape)) in done.stdout
