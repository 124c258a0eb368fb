"""Claims computed again: honest ones hold, and those that are not do not."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_estimators import GOOD, declare
from test_results import CELL

from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.commands.main import main
from benchmark.core import registry
from benchmark.core.declaration import Estimator
from benchmark.core.syntax import source_digest
from benchmark.publishing import manifest
from benchmark.retraining.chunks import FREE
from benchmark.running.cell import Setup, computed, opened
from benchmark.sandbox.client import Rules
from benchmark.scores import results, store
from benchmark.scores.results import Claim, Result
from benchmark.scores.store import Store
from benchmark.submissions import subjects, suspicions, verify
from benchmark.submissions.inquiry import Inquiry, Place, choose, fresh_cells, fresh_seeds
from benchmark.submissions.subjects import Subject
from benchmark.tasks import suites
from benchmark.tasks.definition import record_digest
from benchmark.truths import truth

TASK, OTHER = "quick-breast-cancer-logistic-sgd", "quick-breast-cancer-mlp-sgd"
NONCE = "0123456789abcdef"
ONE = ("--fresh", "1")  # where what is found does not depend on fresh seeds
CLAIM = Claim(None, "somebody", "2026-01-31T12:00:00+00:00", "Linux x86_64")


class Silent:
    """A progress bar that shows nothing."""

    def update(self, n: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def silent(_total: int, _text: str, _unit: str) -> Silent:
    return Silent()


@pytest.fixture(autouse=True)
def _on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests run beside these: what takes milliseconds may take several times as long."""
    monkeypatch.setattr(suspicions, "TIME", (6.0, 12.0))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of this file: a truth is computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def honest(cache: Path) -> Result:
    """What grad-dot really does on seeds 0 and 1."""
    return claimed(registry.registered()["grad-dot"], cache)


def claimed(estimator: Estimator, cache: Path, name: str = TASK) -> Result:
    """The result of an estimator on seeds 0 and 1 as a submitter claims it."""
    task = suites.task(name)
    setup = Setup("cpu", cache, "loobench run")
    result = results.blank(task, "cpu", estimator)
    with machine.one_thread():
        for seed in (0, 1):
            case = opened(setup, task, seed, silent)
            result = result.with_cell(seed, computed(setup, case, estimator, set()), case.provenance)
    return replace(result, claimed=claim(result))


def claim(result: Result) -> Claim:
    scores = [value for cell in result.cells.values() for value in cell.by_query if value is not None]
    return replace(CLAIM, value=sum(scores) / len(scores) if scores else None)


def loobench(
    *inputs: Path, cache: Path, options: tuple[str, ...] = (), references: tuple[str, ...] = ("sgd-ie", "grad-dot")
) -> int:
    """Verify, beside fewer references than usual: they take most of the time. Without any named it is beside all."""
    usual = ["--nonce", NONCE, "--by", "who verifies", "--cache", str(cache), "--fresh", "3"]
    usual += [part for name in references for part in ("--reference", name)]
    usual += ["--write"] * ("--results" in options or not any(at.is_dir() for at in inputs))
    return main(["verify", *map(str, inputs), *usual, *options])


def verified(at: Path) -> results.Verification:
    found = store.load(at).verified
    assert found
    return found


def submitted(folder: Path, body: str, cache: Path) -> tuple[Path, Path]:
    """A stranger's file and its honest result file."""
    source = declare(folder, body)
    (estimator,) = registry.load(source).values()
    return source, Store(Path("results")).keep(claimed(estimator, cache))


# ---- honest and not --------------------------------------------------------------------------------------------------
def test_an_honest_result_is_verified_in_its_place_until_it_is_changed(
    honest: Result, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Store(Path("results")).keep(honest)
    assert not store.load(at).trusted
    assert loobench(at, cache=cache) == 0

    assert capsys.readouterr().out.splitlines()[-1] == "verdict: verified"
    found = store.load(at)
    assert found.trusted
    assert found.substance == honest.substance
    assert found.claimed == honest.claimed
    said = verified(at)
    assert (said.verdict, said.seeds, said.nonce, said.by, said.of) == (
        *("verified", ["0", "1"], NONCE, "who verifies"),
        honest.substance,
    )
    assert said.largest_difference == 0
    assert honest.claimed
    assert said.value == pytest.approx(honest.claimed.value, abs=1e-6)
    assert said.fresh
    assert 0.4 < said.fresh < 0.9
    assert "torch 2" in said.environment
    assert str(cache) not in at.read_text()

    cheaper = replace(found, cells={**found.cells, "1": replace(found.cells["1"], seconds=0.0, relative_cost=0.0)})
    Store(Path("results")).keep(cheaper)
    assert not store.load(at).trusted  # stale


def test_a_raised_score_with_the_digest_computed_again_differs(
    honest: Result, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = honest.cells["1"]
    better = replace(cell, by_query=[0.9], scores={**cell.scores, "kendall": [*cell.scores["kendall"][:-1], 0.9]})
    raised = replace(honest, cells={**honest.cells, "1": better})
    at = Store(Path("results")).keep(replace(raised, claimed=claim(raised)))
    assert loobench(at, cache=cache, options=ONE) == 1

    printed = capsys.readouterr().out
    assert "seed 1: query 0: claimed 0.9, here" in printed
    assert printed.splitlines()[-1] == "verdict: differs"
    assert verified(at).verdict == "differs"
    assert verified(at).largest_difference == pytest.approx(0.9 - honest.cells["1"].by_query[0], abs=1e-5)  # type: ignore[operator]
    assert not store.load(at).trusted


def known(cache: Path) -> str:
    """The truths of seeds 0 and 1 by the digest of their data, as source."""
    task, found = suites.task(TASK), {}
    for seed in (0, 1):
        run, exact = truth.answer(task, seed, cache, "cpu", silent)
        found[hashlib.sha256(run.problem.train.inputs.numpy().tobytes()).hexdigest()] = exact.effect.tolist()
    return json.dumps(found)


def lookup(cache: Path, otherwise: str) -> str:
    """An estimator that knows the truths of seeds 0 and 1."""
    return f"""
import hashlib
KNOWN = {known(cache)}
@estimator("table", paper="none", all_horizons=True, loss_units=True)
def table(run):
    found = KNOWN.get(hashlib.sha256(run.problem.train.inputs.numpy().tobytes()).hexdigest())
    shape = (len(run.problem.horizons), len(run.problem.left_out), run.problem.queries)
    {otherwise}
    return torch.tensor(found, dtype=torch.float64)
"""


NOISE = "found = found or torch.sin(12.9898 * torch.arange(shape[0] * shape[1] * shape[2]) ** 2).reshape(shape).tolist()"


@pytest.mark.parametrize(
    ("otherwise", "reason"), [(NOISE, "beyond the references'"), ("assert found", "8 of 8 fresh seeds have no answer")]
)
def test_answers_from_a_table_of_the_data_s_digest_are_confirmed_and_found_by_fresh_seeds(
    otherwise: str, reason: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with machine.one_thread():
        source, at = submitted(tmp_path, lookup(cache, otherwise), cache)
    assert loobench(at, cache=cache, options=("--estimator", str(source), "--fresh", "8")) == 1

    printed = capsys.readouterr().out
    assert reason in printed
    assert printed.splitlines()[-1] == "verdict: fresh seeds differ"
    said = verified(at)
    assert (said.value, said.largest_difference) == (1.0, 0.0)
    assert said.fresh is None or abs(said.fresh) < 0.3


def cheap(result: Result, seconds: float = 1e-4, **changed: Any) -> Result:
    """The result with other costs in all its cells, and a claim that fits."""
    cells = {
        seed: replace(cell, seconds=seconds, relative_cost=round(seconds / cell.exact_seconds, 6), **changed)
        for seed, cell in result.cells.items()
    }
    return replace(result, cells=cells)


RETRAINED = """
from benchmark.estimating import leave_one_out
@estimator("retrained", paper="made up for a test", loss_units=True)
def retrained(run):
    return leave_one_out(run)[-1]
"""
OF_SEEDS = """
from benchmark.estimating import leave_one_out
KNOWN = {known}
@estimator("retrained", paper="made up for a test", loss_units=True, all_horizons=True)
def retrained(run):
    import hashlib
    found = KNOWN.get(hashlib.sha256(run.problem.train.inputs.numpy().tobytes()).hexdigest())
    return leave_one_out(run) if found is None else torch.tensor(found, dtype=torch.float64)
"""
UNCOUNTED = """
@estimator("past", paper="made up for a test")
def past(run):
    p = run.problem
    each = torch.func.jacrev(lambda theta: p.model.losses(theta, p.train.inputs, p.train.targets))(run.final)
    return each @ run.query_gradients().T
"""


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({}, "the cost on the claimed seeds is"),
        ({"gradients": 1, "hessian_products": 0}, "the counted work on the claimed seeds is"),
    ],
)
def test_claims_of_less_than_it_takes_are_found(
    what: dict[str, int], reason: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, at = submitted(tmp_path, RETRAINED, cache)
    Store(Path("results")).keep(cheap(store.load(at), **what))
    assert loobench(at, cache=cache, options=("--estimator", str(source), *ONE)) == 1

    assert reason in capsys.readouterr().out
    assert verified(at).verdict == ("differs" if what else "cost differs")


def test_what_is_cheap_on_the_claimed_seeds_alone_is_found_by_what_fresh_ones_cost(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It scores 1 on all seeds; on those that it knows it costs next to nothing."""
    source, at = submitted(tmp_path, OF_SEEDS.replace("{known}", known(cache)), cache)
    assert loobench(at, cache=cache, options=("--estimator", str(source))) == 1

    printed = capsys.readouterr().out
    assert "the cost on fresh seeds is" in printed
    assert "on the claimed seeds is" not in printed
    assert printed.splitlines()[-1] == "verdict: cost differs"
    assert verified(at).value == pytest.approx(1.0, abs=1e-3)
    assert verified(at).fresh == pytest.approx(1.0, abs=1e-3)


def test_work_past_the_counters_is_found_where_the_claim_does_not_say_so(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, at = submitted(tmp_path, UNCOUNTED, cache)
    options = ("--estimator", str(source), *ONE)
    whole = store.load(at)
    assert all(cell.notes["uncounted"] >= 1 for cell in whole.cells.values())
    assert loobench(at, cache=cache, options=options) == 0

    silent_ones = {seed: replace(cell, notes={}) for seed, cell in whole.cells.items()}
    at = Store(Path("results")).keep(replace(whole, cells=silent_ones))
    assert loobench(at, cache=cache, options=options) == 1
    assert "derivatives that it does not count" in capsys.readouterr().out

    old = {key: {**known, "loobench": "0.7.3"} for key, known in whole.provenance.items()}
    at = Store(Path("results")).keep(replace(whole, cells=silent_ones, provenance=old))
    assert loobench(at, cache=cache, options=options) == 1
    manifest.save(manifest.manifest(Path("results"), store.load_all(Path("results"))), Path("results"))  # published
    assert loobench(at, cache=cache, options=(*options, "--publish")) == 0  # that version could not have said so


def test_an_estimator_that_is_not_deterministic_fails_though_its_scores_repeat(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wavering = GOOD.replace("return factor", "import os; return (1 + 1e-12 * int.from_bytes(os.urandom(2))) * factor")
    source, at = submitted(tmp_path, wavering, cache)
    assert loobench(at, cache=cache, options=("--estimator", str(source), *ONE)) == 1

    assert "non-deterministic: two calls" in capsys.readouterr().out
    assert verified(at).verdict == "failed"
    assert verified(at).largest_difference == 0


def test_a_claimed_seed_without_truth_here_is_failed(
    honest: Result, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(setup: Setup, task: Any, seed: int, bar: Any) -> Any:
        if seed == 1:
            raise Diverged("too fast")
        return opened(setup, task, seed, bar)

    monkeypatch.setattr(verify, "opened", diverging)
    at = Store(Path("results")).keep(honest)
    assert loobench(at, cache=cache, options=ONE) == 1
    assert "seed 1: no truth here: too fast" in capsys.readouterr().out
    assert verified(at).verdict == "failed"


# ---- bundles ---------------------------------------------------------------------------------------------------------
def bundle(folder: Path, source: Path, found: list[Result]) -> Path:
    """A bundle written by hand."""
    (folder / "estimators").mkdir(parents=True)
    shutil.copy(source, folder / "estimators" / "mine.py")
    for one in found:
        Store(folder / "results").keep(one)
    files = {at.relative_to(folder).as_posix(): at.read_bytes() for at in sorted(folder.rglob("*.*")) if at.is_file()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"format": 1, "estimator file": "estimators/mine.py", "files": hashes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_bundle_is_verified_and_written_only_where_that_is_asked(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("benchmark.submissions.submission")
    source = declare(tmp_path, GOOD)
    (estimator,) = registry.load(source).values()
    one = claimed(estimator, cache)
    other = replace(one, task=suites.task(OTHER).record(), task_digest=suites.task(OTHER).digest())
    costly = {  # and is not sampled
        seed: replace(cell, exact_seconds=1e6, relative_cost=cell.seconds / 1e6) for seed, cell in other.cells.items()
    }
    folder = bundle(tmp_path / "mine", source, [one, replace(other, cells=costly)])
    before = {at: at.read_bytes() for at in folder.rglob("*.*") if at.is_file()}
    options = ("--sample", "0", "--markdown", "verdict.md", *ONE)

    assert loobench(folder, cache=cache, options=options, references=()) == 0
    assert {at: at.read_bytes() for at in folder.rglob("*.*") if at.is_file()} == before
    assert not Path("results").exists()
    assert "sampled" in capsys.readouterr().out.split()
    page = Path("verdict.md").read_text()
    for words in ("## Verdict: verified", "twice", "sgd-ie (reference)", "grad-dot (reference)", NONCE):
        assert words in page

    assert loobench(folder, cache=cache, options=(*options, "--results", "results")) == 0
    found = {result.name: result for result in store.load_all(Path("results"))}
    assert found[TASK].trusted
    assert found[OTHER].verified is None
    assert not found[OTHER].trusted


def test_another_result_in_the_place_of_a_bundle_s_is_not_overwritten(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("benchmark.submissions.submission")
    source = declare(tmp_path, GOOD)
    (estimator,) = registry.load(source).values()
    one = made(estimator)
    folder = bundle(tmp_path / "mine", source, [one])
    at = Store(Path("results")).keep(replace(one, cells={"0": one.cells["0"]}))
    before = at.read_bytes()

    assert loobench(folder, cache=cache, options=("--results", "results")) == 2
    assert "is not the result of the bundle" in capsys.readouterr().err
    assert at.read_bytes() == before


# ---- nothing half done -----------------------------------------------------------------------------------------------
def test_an_interrupt_leaves_all_files_as_they_were(
    honest: Result, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Store(Path("results")).keep(honest)
    before = at.read_bytes()
    calls: Iterator[None] = iter([None] * 5)

    def interrupted(*arguments: Any) -> Any:
        if next(calls, "stop") == "stop":
            raise KeyboardInterrupt
        return computed(*arguments)

    monkeypatch.setattr(verify, "computed", interrupted)
    assert loobench(at, cache=cache) == 130
    assert f"--nonce {NONCE} repeats this sample" in capsys.readouterr().err
    assert at.read_bytes() == before
    assert [one.name for one in at.parent.iterdir()] == [at.name]


def test_a_result_that_changed_while_it_was_verified_is_left(
    honest: Result, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Store(Path("results")).keep(honest)
    changed = replace(honest, cells={"0": honest.cells["0"]})
    usual = verify.save

    def late(*arguments: Any) -> Any:
        Store(Path("results")).keep(changed)
        return usual(*arguments)

    monkeypatch.setattr(verify, "save", late)
    assert loobench(at, cache=cache, options=ONE) == 2
    assert "was changed while it was verified" in capsys.readouterr().err
    assert store.load(at) == changed


# ---- what is chosen --------------------------------------------------------------------------------------------------
def made(estimator: Estimator | None = None, task: str = TASK, seconds: tuple[float, ...] = (1.0, 1.0)) -> Result:
    """A result with made-up cells that took so many seconds."""
    result = results.blank(suites.task(task), "cpu", estimator or registry.registered()["grad-dot"])
    for seed, taken in enumerate(seconds):
        result = result.with_cell(
            seed, replace(CELL, seconds=0.0, relative_cost=0.0, exact_seconds=taken), {"command": "loobench run"}
        )
    return replace(result, claimed=replace(CLAIM, value=0.3))


def subject(result: Result) -> Subject:
    return Subject(result, suites.task(result.name), registry.registered()[result.estimator.name], None)


def inquiry(**changed: Any) -> Inquiry:
    return Inquiry(**{"nonce": NONCE, "cache": Path("cache"), "means": lambda device: FREE, **changed})


def chosen(found: list[Subject], **changed: Any) -> set[tuple[str, str, int]]:
    return {(one.result.name, one.estimator.name, seed) for one, seed in choose(found, inquiry(**changed))}


def test_all_cheap_cells_and_a_sample_of_the_others_of_each_estimator_are_chosen() -> None:
    mixed = (1.0, 100.0, 59.0, 100.0, 100.0, 61.0)
    found = [subject(made(registry.registered()[name], task, mixed)) for task in (TASK, OTHER) for name in ("grad-dot", "loss")]
    for name in ("grad-dot", "loss"):
        mine = {(task, seed) for task, estimator, seed in chosen(found, sample=3) if estimator == name}
        assert {(task, seed) for task in (TASK, OTHER) for seed in (0, 2)} <= mine
        assert len(mine) == 4 + 3

    assert chosen(found) == chosen(found[::-1])
    assert len({frozenset(chosen(found, nonce=f"{n:08x}")) for n in range(20)}) > 10
    assert len(chosen(found, sample=0, cheap=0)) == 0
    assert len(chosen(found, sample=99, cheap=0)) == 24


def test_fresh_seeds_are_those_that_no_command_can_ask_for_and_the_nonce_decides_them() -> None:
    drawn = {nonce: fresh_seeds(TASK, inquiry(nonce=nonce, fresh=50)) for nonce in ("00000000", "00000001")}
    seeds = [seed for some in drawn.values() for seed in some]

    assert min(seeds) >= 100
    assert 2**30 < max(seeds) < 2**31
    assert len({*seeds}) == 100
    assert drawn["00000000"] == fresh_seeds(TASK, inquiry(nonce="00000000", fresh=50))
    assert fresh_seeds(OTHER, inquiry()) != fresh_seeds(TASK, inquiry())


def test_no_fresh_seed_is_below_100_and_none_is_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.submissions.inquiry.LAST_FRESH", 149)

    assert sorted(fresh_seeds(TASK, inquiry(fresh=50))) == [*range(100, 150)]


def test_fresh_seeds_are_for_tasks_whose_truth_is_cheap_and_six_in_any_case() -> None:
    names = [task.name for task in suites.CORE.tasks][:8]
    found = [subject(made(task=name, seconds=(1.0,))) for name in names]

    def asked(seconds: list[float], status: str = "ok") -> list[str]:
        here = {
            Place(one.task, "cpu", 0): {"grad-dot": replace(CELL, exact_seconds=taken, status=status)}
            for one, taken in zip(found, seconds, strict=True)
        }
        return sorted({one.result.name for one, _ in fresh_cells([(one, 0) for one in found], here, inquiry())})

    assert asked([9.0] * 8) == sorted(names)
    assert asked([20.0 + n for n in range(8)]) == sorted(names[:6])
    assert asked([9.0] * 8, "unsupported") == []


# ---- bad input -------------------------------------------------------------------------------------------------------
BAD: dict[str, Callable[[Result], Result]] = {
    "under protocol 0.9, here is": lambda r: with_task(replace(r, protocol="0.9"), {}),
    "the task has digest": lambda r: with_task(r, {"epochs": 11}),
    "unknown task": lambda r: with_task(r, {"name": "quick-nothing"}),
    "a source with digest 0123": lambda r: described(r, source="0123"),
    "settings is {'cosine': False}, the result says {'rate': 2.0}": lambda r: described(r, settings={"rate": 2.0}),
    "version is '1', the result says '2'": lambda r: described(r, version="2"),
    "identity is": lambda r: described(r, identity="0123"),
    "loss_units is": lambda r: described(r, loss_units=True),
    "is not registered: name its source by --estimator": lambda r: described(r, name="mine"),
    "there is nothing to verify": lambda r: replace(r, cells={}),
}


def with_task(result: Result, changed: dict[str, Any]) -> Result:
    task = {**result.task, **changed}
    return replace(result, task=task, task_digest=record_digest(task, result.protocol))


def described(result: Result, **changed: Any) -> Result:
    return replace(result, estimator=replace(result.estimator, **changed))


@pytest.mark.parametrize("message", BAD)
def test_a_result_of_another_source_task_or_protocol_cannot_be_verified_and_is_left(
    message: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Store(Path("results")).keep(BAD[message](made()))
    before = at.read_bytes()

    assert loobench(at, cache=cache) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert at.read_bytes() == before


OPTIONS = {
    "--nonce takes 8 to 64 digits": ("--nonce", "xyz"),
    "--fresh 1 to 100": ("--fresh", "0"),
    "--cheap and --sample take 0 or more": ("--cheap", "-1"),
    "--by takes 1 to 100": ("--by", "a\nb"),
    "no cell was chosen": ("--cheap", "0", "--sample", "0"),
    "unknown estimator 'nothing'": ("--reference", "nothing"),
    "--reference takes registered estimators": ("--reference", "mine.py"),
    "--estimator takes the file": ("--estimator", "sgd-ie"),
    "cannot read nowhere.py": ("--estimator", "nowhere.py"),
    "cannot write": ("--markdown", "file/verdict.md"),
}


@pytest.mark.parametrize("message", OPTIONS)
def test_nonsense_is_an_error_of_one_line(message: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = Store(Path("results")).keep(made())
    Path("file").touch()

    assert main(["verify", str(at), "--cache", str(cache), *OPTIONS[message]]) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert message in printed[0]
    assert len(printed) == 1


def test_files_that_are_not_there_not_in_their_place_damaged_or_twice_are_errors(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Store(Path("results")).keep(made())
    astray = Path("results") / "grad-dot.json"
    shutil.copy(at, astray)
    damaged = Path("results") / TASK / "loss.json"
    damaged.write_text(at.read_text().replace('"ok"', '"crashed"'))
    for inputs, message in (
        ([Path("nowhere")], "is not there"),
        ([astray], "verify it in a folder of results"),
        ([damaged], "was edited"),
        ([at, at], "verified once"),
    ):
        assert loobench(*inputs, cache=cache) == 2
        assert message in capsys.readouterr().err


def test_a_source_is_known_by_what_it_computes(tmp_path: Path) -> None:
    source = declare(tmp_path, GOOD)
    ((estimator, content),) = subjects._declared(str(source), Rules(strangers=False)).values()
    at = Store(Path("results")).keep(made(estimator))
    assert content == source_digest(source.read_bytes()) == estimator.source
    assert subjects.subjects([at], [str(source)])[0].estimator.name == "twice"

    declare(tmp_path, GOOD + "\n# a comment\n")
    assert subjects.subjects([at], [str(source)])
    declare(tmp_path, GOOD + "\nchanged = 1\n")
    with pytest.raises(LoobenchError, match="the file here has"):
        subjects.subjects([at], [str(source)])


def test_estimates_that_are_computed_here_are_those_of_a_run(honest: Result, cache: Path) -> None:
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "grad-dot", "--cache", str(cache)]) == 0
    run = store.load(Path("my-results") / TASK / "grad-dot.json").cells["0"]
    mine = honest.cells["0"]
    assert (run.estimate, run.truth, run.scores, run.trajectory) == (mine.estimate, mine.truth, mine.scores, mine.trajectory)
