"""The sandbox gives what this process gives, bit for bit, and costs little."""

import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem

from benchmark.base.errors import DamagedFile, Failure, LoobenchError
from benchmark.base.files import tensor_digest
from benchmark.commands.main import main
from benchmark.core.calculus import Count
from benchmark.core.declaration import rebuilt
from benchmark.core.problem import tensors
from benchmark.core.registry import registered
from benchmark.core.trajectory import Replay, Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import estimate
from benchmark.sandbox import client, session, transport
from benchmark.sandbox.client import Rules
from benchmark.sandbox.process import Allowance, server

TASK = "quick-breast-cancer-logistic-sgd"
MINE = """
from benchmark.estimating import estimator
@estimator("mine", paper="none", tuned_on="untuned", times=2.0)
def mine(run, *, times):
    return times * run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T
"""


@pytest.fixture(scope="module", autouse=True)
def _works() -> None:
    try:
        server()
    except LoobenchError as error:
        pytest.skip(str(error))


def runs() -> dict[str, Trajectory]:
    """Runs of every kind that an estimator may be shown."""
    whole = train(problem())
    kept = whole.states[::3]
    return {
        "sgd": whole,
        "adamw": train(problem(optimizer=OPTIMIZERS["adamw"])),
        "replayed": replace(whole, states=Replay(whole.problem, kept, 3, whole.problem.steps)),
        "convolutions": train(problem(MODELS["cnn-norm"])),
        "the final model": whole.until(whole.problem.steps).final_only(),
    }


@pytest.mark.parametrize("kind", runs())
def test_a_run_arrives_as_it_was_sent(kind: str) -> None:
    run = runs()[kind]
    found = transport.decode(transport.encode(run))

    assert tensor_digest(tensors(found)) == tensor_digest(tensors(run))
    assert found.problem.digest() == run.problem.digest()
    assert type(found.states) is type(run.states)
    assert (found.problem.model, found.problem.optimizer) == (run.problem.model, run.problem.optimizer)


def test_bytes_that_are_no_run_are_damaged() -> None:
    with pytest.raises(DamagedFile, match="a run is not a whole safetensors file"):
        transport.decode(transport.encode(train(problem()))[:-9])


FOLLOWS = ("sgd", "replayed", "convolutions")
ANSWERS = {
    **dict.fromkeys(("sgd-ie", "acc-sgd-ie-exact"), FOLLOWS),
    "acc-adam-ie": ("adamw",),
    **dict.fromkeys(("grad-dot", "trak", "if-cg", "chance"), tuple(runs())),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in ANSWERS.items() for kind in kinds])
def test_an_estimate_in_the_sandbox_is_that_of_this_process_bit_for_bit(name: str, kind: str) -> None:
    here, run = registered()[name], runs()[kind]
    there = client.confined(here, Allowance())
    expected, found = estimate(here, run), estimate(there, run)

    assert torch.equal(found.effect, expected.effect)
    assert found.count == expected.count
    assert found.seconds < 10
    assert found.memory is not None


def test_what_a_task_withholds_is_not_there_either() -> None:
    there = client.confined(registered()["sgd-ie"], Allowance())
    with pytest.raises(Failure, match="shows the final model alone") as failure:
        estimate(there, runs()["the final model"])

    assert failure.value.status == "unsupported"


def test_settings_reach_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (mine,) = client.resolve(["mine.py"])
    run = train(problem())

    assert (mine.settings, mine.tuned_on, mine.version) == ({"times": 2.0}, "untuned", "1")
    assert torch.equal(2 * estimate(mine, run).effect, estimate(replace(mine, settings={"times": 4.0}), run).effect)


def test_a_strangers_file_never_runs_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"import os\nassert os.getpid() != {os.getpid()}\n" + MINE)
    sys.modules.pop("submitted_mine", None)
    (mine,) = client.resolve(["mine.py"])

    assert "submitted_mine" not in sys.modules
    with pytest.raises(LoobenchError, match="runs in the sandbox only"):
        mine(train(problem()))
    with pytest.raises(LoobenchError, match="AssertionError"):
        client.resolve(["mine.py"], Rules(strangers=False))


def test_a_server_that_was_killed_is_started_again() -> None:
    there, run = client.confined(registered()["grad-dot"], Allowance()), train(problem())
    os.kill(server().process.pid, signal.SIGKILL)
    server().process.wait()

    assert estimate(there, run).effect.isfinite().all()


def test_time_is_measured_from_outside(tmp_path: Path) -> None:
    busy = "\n    end = time.process_time() + 1.5\n    while time.process_time() < end:\n        pass\n    return"
    (tmp_path / "mine.py").write_text("import time" + MINE.replace("\n    return", busy))
    (mine,) = client.resolve(["mine.py"])
    run = train(problem()).until(3)

    assert 1.4 < estimate(mine, run).seconds < 3


def test_an_estimators_name_stands_before_what_it_is_said_to_have_done(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace("return times", "open('/root/x'); return times"))
    (mine,) = client.resolve(["mine.py"])
    with pytest.raises(Failure, match=r"^mine: read") as failure:
        estimate(mine, train(problem()))
    assert failure.value.status == "forbidden-access"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "a name is up to 64"),
        ({"name": 3}, "a name is up to 64"),
        ({"optimizers": "sgd"}, "declaration"),
        ({"settings": [1]}, "declaration"),
        ({"loss_units": "yes"}, "expected True or False"),
        ({"max_rank": -1}, "whole number"),
        ({"version": "new"}, "digits with points"),
        ({"more": 1}, "declaration"),
    ],
)
def test_a_declaration_is_not_believed(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (mine,) = client.resolve(["mine.py"])
    told = {name: value for name, value in vars(mine).items() if name != "function"}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    assert rebuilt(told, mine.function, mine.source) == mine
    with pytest.raises(LoobenchError, match=message):
        rebuilt({**told, **changes}, mine.function, mine.source)


# ---- packages --------------------------------------------------------------------------------------------------------
def test_an_installed_package_offers_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site-packages"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(f"[{client.GROUP}]\ntheirs = their_module\n")
    (site / "their_module.py").write_text(MINE.replace("mine", "theirs"))
    monkeypatch.syspath_prepend(str(site))
    server().close()
    server.cache_clear()  # a new one knows the package

    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "theirs"]) == 0
    assert "their_module" not in sys.modules
    assert main(["list", "estimators"]) == 0
    assert re.search(r"theirs +\? +\? +package their_module", capsys.readouterr().out)
    server().close()
    server.cache_clear()


# ---- cost ------------------------------------------------------------------------------------------------------------
def test_counts_are_whole_numbers_or_a_failure() -> None:
    good = {"gradients": 1, "hessian_products": 2, "notes": {"residual": 0.5}}

    assert session._counted(good) == Count(1, 2, {"residual": 0.5})
    for changes in (
        {"gradients": -1},
        {"gradients": 2**60},
        {"notes": {"<b>": 1}},
        {"notes": None},
        {"hessian_products": True},
    ):
        with pytest.raises(Failure, match="count of gradients"):
            session._counted({**good, **changes})
