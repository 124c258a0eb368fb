"""What a stranger's call changes in this process costs nobody else a cell, and is as before when it is over."""

import decimal
import gc
import json
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import problem
from test_estimators import one

from benchmark.base import surroundings
from benchmark.core.registry import load
from benchmark.retraining.train import train
from benchmark.running.evaluate import estimate

TASK = "quick-breast-cancer-logistic-sgd"
BY_HAND = {  # what is changed -> statements that change it, and how it is seen from outside
    "recursion limit": ("import sys; sys.setrecursionlimit(300)", sys.getrecursionlimit),
    "error state": ("import numpy; numpy.seterr(all='raise')", np.geterr),
    "error handler": (
        "import numpy; numpy.seterr(all='call'); numpy.seterrcall(print)",
        lambda: (np.geterr(), np.geterrcall()),
    ),
    "printed arrays": ("import numpy; numpy.set_printoptions(precision=1)", lambda: repr(np.array([0.123456]))),
    "warnings are errors": ("import warnings; warnings.simplefilter('error')", lambda: [*warnings.filters]),
    "no warnings": ("import warnings; warnings.filters = []; warnings.showwarning = print", lambda: [*warnings.filters]),
    "folder": ("import os; os.chdir('/')", os.getcwd),
    "environment": (
        "import os; os.environ['HF_ENDPOINT'] = 'x'; os.environ.pop('PATH', None); os.environ['TZ'] = 'Asia/Tokyo'",
        lambda: dict(os.environ),
    ),
    "mask": ("import os; os.umask(0o777)", lambda: [*map(os.umask, (0o22, os.umask(0o22)))][1:]),
    "limit of files": (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (20, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "locale": ("import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')", lambda: locale.setlocale(locale.LC_ALL)),
    "decimals": ("import decimal; decimal.getcontext().prec = 3", lambda: str(decimal.Decimal(1) / 3)),
    "decimals by another context": (
        "import decimal; decimal.setcontext(decimal.Context(prec=2, traps=[decimal.Inexact]))",
        lambda: repr(decimal.getcontext()),
    ),
    "search path": ("import sys; sys.path[:] = ['/nowhere']", lambda: [*sys.path]),
    "another search path": ("import sys; sys.path = []", lambda: [*sys.path]),
    "screen": ("import sys, io; sys.stdout = io.StringIO(); sys.stderr = None", lambda: (sys.stdout, sys.stderr)),
    "handlers": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        lambda: [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
    ),
    "blocked signals": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
    ),
    "alarm": ("import signal; signal.alarm(1000)", lambda: signal.getitimer(signal.ITIMER_REAL)),
    "root logger": (
        "import logging; logging.basicConfig(level=1, force=True)",
        lambda: (logging.root.level, [*logging.root.handlers]),
    ),
    "another logger": ("import logging; logging.getLogger('torch').setLevel(1)", lambda: logging.getLogger("torch").level),
    "all loggers": ("import logging; logging.disable(60)", lambda: logging.root.manager.disable),
    "garbage": ("import gc; gc.disable()", gc.isenabled),
    "sockets": ("import socket; socket.setdefaulttimeout(1e-9)", socket.getdefaulttimeout),
    "processes": (
        "import multiprocessing as m; m.set_start_method('spawn', force=True)",
        lambda: multiprocessing.get_start_method(allow_none=True),
    ),
    "tracing": ("import sys; sys.setprofile(lambda *_: None)", sys.getprofile),
    "threads": ("torch.set_num_threads(2)", torch.get_num_threads),
    "dtype": ("torch.set_default_dtype(torch.float16)", lambda: torch.zeros(1).dtype),
    "device": ("torch.set_default_device('meta')", lambda: torch.zeros(1).device),
    "gradients": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "gradients by a context that stays": ("torch.no_grad().__enter__()", torch.is_grad_enabled),
    "deterministic algorithms": (
        "torch.use_deterministic_algorithms(True, warn_only=True)",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
    ),
    "precision": ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    "precision of a backend": (
        "setattr(torch.backends.mkldnn.matmul, 'fp32_precision', 'bf16')",
        torch.get_float32_matmul_precision,
    ),
    "backends": (
        "torch.backends.cudnn.benchmark = True; torch.backends.cudnn.deterministic = True",
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    ),
    "anomalies": ("torch.autograd.set_detect_anomaly(True)", torch.is_anomaly_enabled),
    "denormals": ("torch.set_flush_denormal(True)", lambda: float(torch.tensor(4e-320, dtype=torch.float64) * 2)),
    "random numbers of Python": ("import random; random.seed(1)", random.getstate),
    "random numbers of NumPy": ("import numpy; numpy.random.seed(1)", lambda: np.random.get_state()[1].tolist()),  # type: ignore[union-attr,index]
    "random numbers of torch": ("torch.manual_seed(1)", lambda: torch.get_rng_state().tolist()),
}
ANSWER = "return run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T"


@pytest.mark.parametrize("what", BY_HAND)
def test_what_a_call_changes_is_as_before_when_it_is_over(what: str, tmp_path: Path) -> None:
    change, seen = BY_HAND[what]
    estimator, run = (
        one(tmp_path, f"{change}; return torch.arange(36, dtype=torch.float64, device='cpu').view(12, 3)"),
        train(problem()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what is experimental
        before = seen()
        estimate(estimator, run)

        assert seen() == before


@pytest.mark.parametrize("what", ["error state", "folder", "dtype", "environment"])
def test_what_a_call_that_fails_changes_is_as_before(what: str, tmp_path: Path) -> None:
    change, seen = BY_HAND[what]
    before = seen()
    with pytest.raises(BaseException, match=r"mine \(submission.py:\d+ in mine\) raised SystemExit"):
        estimate(one(tmp_path, f"{change}; raise SystemExit"), train(problem()))

    assert seen() == before


def test_a_folder_that_the_call_removed_and_a_block_that_changes_nothing_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    with surroundings.undisturbed() as changed:
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    assert os.getcwd() == str(tmp_path)
    assert "working folder" in changed
    with surroundings.undisturbed() as changed:
        pass
    assert set(changed) <= {surroundings.NUMBERS}


def test_what_importing_a_file_changes_is_put_back_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "import numpy, torch\nfrom benchmark.estimating import estimator\n"
    body = f"@estimator('mine', paper='none')\ndef mine(run):\n    {ANSWER}\n"
    (at := tmp_path / "mine.py").write_text(f"{head}numpy.seterr(all='raise')\ntorch.set_default_dtype(torch.float64)\n{body}")
    before = np.geterr()
    load(at)

    assert (np.geterr(), torch.get_default_dtype()) == (before, torch.float32)
    told = capsys.readouterr().err
    assert f"note: {at}, when it is imported, changes NumPy's error state, torch's default dtype: that is put back" in told
    at.write_text(head + body)
    load(at)
    assert capsys.readouterr().err == ""


def test_one_that_changes_all_there_is_costs_nobody_else_a_cell(
    tmp_path: Path, loobench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    changes = "\n    ".join(change for what, (change, _) in BY_HAND.items() if what not in ("device", "precision of a backend"))
    head = "import torch\nfrom benchmark.estimating import estimator\n"
    body = f"@estimator('worst', paper='none')\ndef worst(run):\n    dot = {ANSWER[7:]}\n    {changes}\n    return dot\n"
    (tmp_path / "worst.py").write_text(head + body)
    small = ["run", "--no-sandbox", "--task", TASK, "--seeds", "2", "--threads", "1"]
    done = loobench(*small, "--estimator", "worst.py", "--estimator", "grad-dot", "--results", "r")

    assert done.returncode == 0, done.stderr
    assert "4 cells computed" in done.stdout
    cells = [json.loads((tmp_path / "r" / TASK / f"{name}.json").read_text())["cells"] for name in ("worst", "grad-dot")]
    assert [{seed: cell["status"] for seed, cell in found.items()} for found in cells] == [{"0": "ok", "1": "ok"}] * 2
    assert [cell["scores"] for cell in cells[0].values()] == [cell["scores"] for cell in cells[1].values()]  # the same formula
