"""Estimators that are called over a Ray cluster: the same cells as of one process, whoever answers and whoever is killed."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gold
import pytest
from cases import main
from test_charging import SOME
from test_estimators import GOOD, declare
from test_locks import elsewhere, until_there
from test_workers import ROOT, InlineRay, Silent, inline

from benchmark.base import machine
from benchmark.base.errors import Failure, LoobenchError
from benchmark.base.files import pack, unpack
from benchmark.core.declaration import Estimator
from benchmark.core.registry import load, registered
from benchmark.retraining import chunks
from benchmark.retraining.chunks import Means
from benchmark.running import answers, cluster
from benchmark.running.cell import Answer, Case, Setup, here
from benchmark.running.plan import Plan
from benchmark.running.run import Outcome, execute
from benchmark.sandbox import carried, client
from benchmark.sandbox.process import Allowance, server
from benchmark.sandbox.session import Confined
from benchmark.scores.store import Store
from benchmark.tasks import suites
from benchmark.truths import workers

TASK = "quick-breast-cancer-logistic-sgd"
TIMES = ("seconds", "exact_seconds", "relative_cost", "memory")  # of a cell: what no two runs have in common
NAMES = ("grad-dot", "sgd-ie", "exact-loo", "chance", "if-cg", "tracin", "source")


def kept(folder: Path) -> dict[str, Any]:
    """The results in a folder by file, without their times and what is over them."""
    return {at.relative_to(folder).as_posix(): _timeless(json.loads(at.read_text())) for at in sorted(folder.rglob("*.json"))}


def exact_times(folder: Path) -> set[float]:
    """Seconds of exact retraining of all cells in a folder of results."""
    return {
        cell["exact_seconds"] for at in (folder / TASK).glob("*.json") for cell in json.loads(at.read_text())["cells"].values()
    }


def _timeless(content: dict[str, Any]) -> dict[str, Any]:
    cells = {seed: {k: v for k, v in cell.items() if k not in TIMES} for seed, cell in content.get("cells", {}).items()}
    return {**content, "cells": cells, "digest": ""}


def sandboxed() -> None:
    """Skip the test where there is no sandbox."""
    try:
        server()
    except LoobenchError as error:
        pytest.skip(str(error))


@pytest.fixture
def _sandbox() -> None:
    sandboxed()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> InlineRay:
    """A stand-in for a cluster, whose address is "auto"; its processes have called nobody before."""
    found, one = inline(monkeypatch)
    monkeypatch.setattr(cluster, "connected", lambda *_: nullcontext(one))
    monkeypatch.setattr(answers, "_known", {})
    monkeypatch.setattr(answers, "_warm", set())
    return found


def planned(task: Any, names: Iterable[str], results: str, cache: Path, seeds: tuple[int, ...] = (0,)) -> Plan:
    return Plan(
        (task,), tuple(registered()[name] for name in names), (seeds,), Setup("cpu", cache, "a test"), Store(Path(results))
    )


# ---- the same cells --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["logistic", "wrong labels, uses", "further training", "subsets", "charged for all"])
@pytest.mark.parametrize("few", [0, 1 << 30], ids=["checkpoints", "all states"])
def test_cells_whose_calls_were_sent_as_bytes_are_those_of_this_process(
    name: str, few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: InlineRay
) -> None:
    monkeypatch.setattr(workers, "FEW", few)
    others = {
        "charged for all": replace(SOME, charged="all"),
        "wrong labels, uses": replace(gold.TASKS["feature noise, uses"], noise="labels"),
    }
    task = others.get(name) or gold.TASKS[name]
    alone, spread = (planned(task, NAMES, folder, tmp_path) for folder in ("alone", "spread"))
    list(execute(alone, Silent))
    there = answers.spread(cluster.Cluster(nodes, "cpu"), spread.setup)
    found = [one for one in execute(spread, Silent, there) if isinstance(one, Outcome)]

    assert nodes.calls == len(NAMES) == len(found)
    assert [one.estimator for one in found] == [*NAMES][::-1]  # kept as they come
    assert kept(Path("spread")) == kept(Path("alone"))
    assert sum(one.cell.status == "ok" for one in found) >= 3
    own = [one.cell.scores.get("self_auroc") for one in found]
    assert any(one and one[0] is not None for one in own) == (name == "wrong labels, uses")


BREAKING = """
@estimator("breaking", paper="none")
def breaking(run):
    raise ValueError("no luck")
"""


@pytest.mark.parametrize("rules", [(), ("--no-sandbox",), ("--sandbox",)], ids=" ".join)
def test_a_stranger_s_file_goes_as_its_text_and_one_that_fails_is_a_failed_cell_as_it_is_here(
    rules: tuple[str, ...], tmp_path: Path, nodes: InlineRay, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--no-sandbox" not in rules:
        sandboxed()
    at = declare(tmp_path, GOOD + BREAKING)
    command = ["run", "--task", TASK, "--seeds", "1", "--estimator", str(at), "--estimator", "loss", "--traceback", *rules]
    assert main([*command, "--results", "alone"]) == 1
    told = capsys.readouterr()
    assert main([*command, "--results", "spread", "--ray", "auto"]) == 1
    told_there = capsys.readouterr()

    assert nodes.calls == 3
    assert kept(Path("spread")) == kept(Path("alone"))
    cells = {
        at.stem: json.loads(at.read_text())["cells"]["0"] for at in Path("spread").rglob("*.json") if at.parent.name == TASK
    }
    assert [(name, cell["status"]) for name, cell in sorted(cells.items())] == [
        ("breaking", "crashed"),
        ("loss", "ok"),
        ("twice", "ok"),
    ]
    for text in (told.err, told_there.err):
        assert "raised ValueError: no luck" in text
        assert "Traceback" in text


def test_a_file_whose_folder_is_not_on_the_node_is_found_there_by_its_text(tmp_path: Path) -> None:
    at = declare(tmp_path, GOOD)
    before = load(at)["twice"]
    sent, where = carried.encode(before), before.file
    at.unlink()
    found = carried.decode(sent)

    assert found.identity() == before.identity()
    assert found.file != where == str(at)
    assert Path(found.file).name == at.name


@pytest.mark.usefixtures("_sandbox")
def test_who_is_confined_is_confined_on_the_node_with_the_same_allowance(tmp_path: Path) -> None:
    rules = client.Rules(everyone=True, allowance=Allowance(7.0, 3 << 30))
    for before in client.resolve([str(declare(tmp_path, GOOD)), "loss"], rules):
        found = carried.decode(carried.encode(before))
        assert isinstance(found.function, Confined)
        assert found == before


def test_what_retraining_in_a_call_may_take_is_what_it_may_take_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: InlineRay
) -> None:
    plan, seen = planned(suites.task(TASK), ("loss",), "spread", tmp_path), list[Means]()
    plan = replace(plan, setup=replace(plan.setup, means=Means(1 << 30, 1)))

    def one(*_: object) -> Any:
        seen.append(chunks.allowed())
        raise Failure("crashed", "enough")

    monkeypatch.setattr("benchmark.running.cell.answered", one)
    list(execute(plan, Silent, answers.spread(cluster.Cluster(nodes, "cpu"), plan.setup)))

    assert seen == [Means(1 << 30, 1)]


def test_an_estimator_that_is_another_on_the_node_or_needs_what_is_not_there_is_an_error_in_a_line() -> None:
    def sent(**changes: Any) -> bytes:
        return pack({}, {**unpack(carried.encode(registered()["loss"]), "it")[1], **changes})

    for facts, said in (
        ({"identity": "other"}, "the estimator loss is another or absent here: install the same"),
        ({"name": "lost"}, "the estimator lost is another or absent here"),
        ({"package": "nowhere_to_be_found"}, "the package with nowhere_to_be_found is not installed"),
    ):
        with pytest.raises(LoobenchError, match=said):
            carried.decode(sent(**facts))


@pytest.mark.usefixtures("_sandbox")
def test_a_node_without_a_sandbox_is_an_error_in_a_line(
    tmp_path: Path, nodes: InlineRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = declare(tmp_path, GOOD)
    usual = nodes.remote

    def none() -> Any:
        raise LoobenchError("no sandbox works on this machine")

    def remote(function: Callable[..., Any]) -> Any:
        if function is answers.call:  # from now on this process is a node
            monkeypatch.setattr(carried, "server", none)
        return usual(function)

    monkeypatch.setattr(nodes, "remote", remote)
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", str(at), "--ray", "auto"]) == 2
    told = capsys.readouterr().err
    assert "no sandbox works on this machine" in told
    assert told.count("error:") == 1


def test_a_task_of_a_person_s_own_goes_over_a_cluster_with_its_model(tmp_path: Path, nodes: InlineRay) -> None:
    command = ["run", "--task", f"{Path(__file__).with_name('owned.py')}:own-tokens", "--seeds", "1"]
    command += ["--estimator", "grad-dot", "--estimator", "exact-loo", "--cache", str(tmp_path)]
    assert main([*command, "--results", "alone"]) == 0
    assert main([*command, "--results", "spread", "--ray", "auto"]) == 0

    assert nodes.calls == 2
    assert kept(Path("spread")) == kept(Path("alone"))


# ---- times -----------------------------------------------------------------------------------------------------------
def test_an_answer_of_another_machine_is_charged_by_the_time_of_a_chunk_there_scaled_to_all_by_visits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: InlineRay
) -> None:
    task, visits, usual = replace(SOME, charged="all"), list[int](), workers.ChunkFiles.put

    def noted(self: Any, rows: Any, reading: Any, where: str, seconds: float, some: int) -> None:
        visits.append(some)
        usual(self, rows, reading, where, seconds, some)

    monkeypatch.setattr(workers.ChunkFiles, "put", noted)
    monkeypatch.setattr("benchmark.retraining.chunks.at_once", lambda problem, gram: 4)
    plan = planned(task, ("loss", "grad-dot"), "spread", tmp_path, seeds=(0, 1))
    with machine.one_thread():
        cluster.train_all(cluster.Cluster(nodes, "cpu"), plan, Silent)
    nodes.calls, chunk, clock, asked = 0, cluster.chunk, answers.clock, list[Any]()

    @contextmanager
    def there() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(machine, "timed_on", lambda device: "another machine")
            patched.setattr(machine, "hardware", lambda device: "a slow one")
            yield

    def slow_chunk(*given: Any) -> bytes:
        tensors, facts = unpack(chunk(*given), "a chunk")
        return pack(tensors, {**facts, "seconds": 0.5 * facts["visits"]})

    def sent(function: Callable[..., bytes]) -> Callable[..., bytes]:
        def called(*given: Any) -> bytes:
            with there():
                return function(*given)

        return called

    remote = nodes.remote
    monkeypatch.setattr(cluster, "chunk", slow_chunk)
    monkeypatch.setattr(nodes, "remote", lambda function: asked.append(function) or remote(sent(function)))
    found = [*execute(plan, Silent, answers.spread(cluster.Cluster(nodes, "cpu"), plan.setup))]

    each = sum(visits) / 2 * 0.5 * 6  # one seed's; all 60 samples are charged, of which 10 are asked
    assert len(visits) > 4
    for one in found:
        assert isinstance(one, Outcome)
        assert one.cell.exact_seconds == pytest.approx(each)
        assert one.cell.relative_cost == pytest.approx(one.cell.seconds / each, abs=1e-6)
    assert asked.count(clock) == 2  # once for each seed
    assert nodes.settings["scheduling_strategy"] == ("this node", False)
    facts = [
        facts for at in Path("spread").rglob("*.json") for facts in json.loads(at.read_text()).get("provenance", {}).values()
    ]
    assert {one["device"] for one in facts} == {"a slow one"}
    assert {one["by"] for one in facts} == {"unknown"}


# ---- claims ----------------------------------------------------------------------------------------------------------
def at_once(setup: Setup) -> Any:
    """Answers of one that takes all questions before it answers the first, as a cluster does."""

    def found(questions: Iterable[tuple[Case, Estimator]]) -> Iterator[tuple[int, Case, Answer]]:
        return here(setup)([*questions])

    return found


def test_two_runs_whose_questions_are_out_do_not_wait_for_one_another(tmp_path: Path) -> None:
    plan = planned(suites.task(TASK), ("loss", "grad-dot", "chance"), "results", tmp_path)
    loss, dot, _ = next(plan.work()).asked
    found: list[Any] = []

    def other() -> None:
        with plan.store.claim(dot.result, 0, wait=True):
            with plan.store.claim(loss.result, 0, wait=True):
                begun.set()
                told.wait(20)
            until_there(Path("results") / TASK / "loss.json")
            there.append((Path("results") / TASK / "loss.json").exists())

    begun, told, there = threading.Event(), threading.Event(), list[bool]()
    with elsewhere(other):
        begun.wait(10)
        threading.Timer(1.0, told.set).start()
        found = [one.estimator for one in execute(plan, Silent, at_once(plan.setup)) if isinstance(one, Outcome)]

    assert there == [True]  # kept while the other run still held the next cell
    assert found == ["loss", "grad-dot", "chance"]


def test_cells_that_were_asked_are_free_again_where_a_run_breaks_off(tmp_path: Path) -> None:
    plan = planned(suites.task(TASK), ("loss", "grad-dot"), "results", tmp_path)

    def lost(questions: Iterable[tuple[Case, Estimator]]) -> Iterator[tuple[int, Case, Answer]]:
        found = [*questions]
        for asked in next(plan.work()).asked:
            with plan.store.claim(asked.result, 0, wait=False) as mine:
                assert not mine
        assert len(found) == 2
        raise LoobenchError("the cluster is gone")
        yield

    with pytest.raises(LoobenchError, match="the cluster is gone") as error:
        list(execute(plan, Silent, lost))
    for asked in next(plan.work()).asked:
        with plan.store.claim(asked.result, 0, wait=False) as mine:
            assert mine
    assert error  # whose frames hold what was at work


# ---- a cluster -------------------------------------------------------------------------------------------------------
ON_A_CLUSTER = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from benchmark.commands.main import main

after, results, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)

def there():
    return len([at for at in results.rglob("*.json") if at.parent != results])

def kill():
    while there() < after:
        time.sleep(0.01)
    print("killed", there(), flush=True)
    nodes.remove_node(second, allow_graceful=False)

killer = threading.Thread(target=kill, daemon=True)
killer.start()
code = main([*command, "--results", str(results), "--ray", nodes.address])
killer.join()
nodes.shutdown()
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_sandbox")
@pytest.mark.skipif(not find_spec("ray"), reason="needs Ray: pip install 'loobench[ray]'")
def test_on_a_ray_cluster_of_two_nodes_one_of_which_is_killed_after_4_cells_all_cells_are_the_same(tmp_path: Path) -> None:
    at = declare(tmp_path, GOOD + BREAKING)
    names = [*NAMES, "loss", "grad-norm", "grad-cos", "self-gradient", "trak", str(at)]
    command = [
        "run",
        "--task",
        TASK,
        "--seeds",
        "1",
        "--threads",
        "1",
        *(word for name in names for word in ("--estimator", name)),
    ]
    assert main([*command, "--cache", str(tmp_path / "one"), "--results", "alone"]) == 1
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    places = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    line = [
        sys.executable,
        "-P",
        "-c",
        ON_A_CLUSTER,
        "4",
        str(Path("spread").absolute()),
        *command,
        "--cache",
        str(tmp_path / "two"),
    ]
    done = subprocess.run(line, env=places, capture_output=True, text=True, check=False, timeout=400)

    assert done.returncode == 1, done.stderr
    assert "raised ValueError: no luck" in done.stderr
    assert exact_times(Path("spread")) == exact_times(Path("alone"))  # of the truth in the cache, for it is the same machine
    assert 4 <= int(done.stdout.partition("killed ")[2].split()[0]) < len(names) + 1, done.stdout
    assert kept(Path("spread")) == kept(Path("alone"))
