"""Hostile submissions: each ends in its typed failure, and host, cache and board are what they were."""

import hashlib
import os
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cases import problem

from benchmark.base.errors import MOST, Failure, LoobenchError
from benchmark.commands.main import main
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import Estimate, estimate
from benchmark.sandbox import client, kernel, process
from benchmark.sandbox.client import Rules
from benchmark.sandbox.process import Allowance, server

ROOT = Path(__file__).resolve().parents[1]
TASK = "quick-breast-cancer-logistic-sgd"
QUICKLY = Rules(allowance=Allowance(seconds=20.0, memory=1 << 30))
HEAD = "from benchmark.estimating import estimator\n@estimator('mine', paper='none')\ndef mine(run):\n"
HONEST = "    p = run.problem\n    return p.gradients(run.final, p.train) @ run.query_gradients().T\n"
SYSCALL = "import ctypes; call = ctypes.CDLL(None, use_errno=True).syscall\n"


@pytest.fixture(params=sorted(process.BACKENDS), scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of sandbox that this machine has, alone."""
    name: str = request.param
    if reason := process.BACKENDS[name][0]():
        pytest.skip(f"no {name}: {reason}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "BACKENDS", {name: process.BACKENDS[name]})
        patch.setenv("SECRET_TOKEN", "the truth")
        forget()
        try:
            server()
        except LoobenchError as error:
            pytest.skip(f"{name} does not work here: {error}")
        yield name
        forget()


def forget() -> None:
    """End the server that runs, if one does."""
    if server.cache_info().currsize:
        server().close()
    server.cache_clear()


@pytest.fixture(scope="module")
def run() -> Trajectory:
    return train(problem())


def hostile(folder: Path, body: str, head: str = HEAD) -> Path:
    at = folder / "mine.py"
    at.write_text(head + textwrap.indent(textwrap.dedent(body) + "\n", "    ") + HONEST)
    return at


def answer(at: Path, run: Trajectory, rules: Rules = QUICKLY) -> Estimate:
    (found,) = client.resolve([str(at)], rules)
    return estimate(found, run)


def snapshot(*folders: Path) -> dict[str, str]:
    """All files below some folders, by digest."""
    files = (at for folder in folders for at in sorted(folder.rglob("*")) if at.is_file() and ".git/" not in str(at))
    return {str(at): hashlib.sha256(at.read_bytes()).hexdigest() for at in files if "__pycache__" not in str(at)}


# ---- what is forbidden, by Python and by the kernel itself -----------------------------------------------------------
FORBIDDEN = {
    "reads a secret by absolute path": "open('{secret}').read()",
    "reads it by pathlib": "import pathlib; pathlib.Path('{secret}').read_bytes()",
    "reads the results": "open('{root}/leaderboard.md').read()",
    "imports the truth": "import importlib; importlib.import_module('benchmark.truths.truth')",
    "imports the metrics quietly": "import importlib; importlib.import_module('benchmark.scores.metrics')",
    "imports the scores": "__import__('benchmark.scores.metrics')",
    "walks the garbage collector": "import gc; [o for o in gc.get_objects() if type(o).__name__ == 'GroundTruth']",
    "walks the frames of all threads": "import sys; sys._current_frames()",
    "opens a socket": "import socket; socket.create_connection(('127.0.0.1', {port}))",
    "asks for a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "forks": "import os; os.fork()",
    "forks without end": "import os\nwhile True:\n    os.fork()",
    "starts a program": "import subprocess; subprocess.run(['true'])",
    "starts a shell": "import os; os.system('true')",
    "writes to home": "open('{home}/planted', 'w').write('x')",
    "writes to the repository": "open('{root}/estimators/planted.py', 'w').write('x')",
    "writes over the board": "open('{root}/leaderboard.md', 'a').write('x')",
    "removes a file": "import os; os.remove('{secret}')",
    "renames a file": "import os; os.rename('{secret}', '{secret}.gone')",
    "makes a folder": "import os; os.mkdir('{home}/folder')",
    "removes all": "import shutil; shutil.rmtree('{home}')",
    "kills its parent": "import os; os.kill(os.getppid(), 9)",
    "kills everything": "import os; os.kill(-1, 9)",
}
KERNEL = {  # by system calls, which Python's hook does not see: what the kernel answers is raised
    "opens a secret": "fd = call(257, -100, b'{secret}', 0)",
    "opens the board to write": "fd = call(257, -100, b'{root}/leaderboard.md', 1)",
    "makes a file at home": "fd = call(257, -100, b'{home}/planted', 0o101, 0o644)",
    "unlinks": "fd = call(87, b'{secret}')",
    "renames": "fd = call(82, b'{secret}', b'{secret}.gone')",
    "truncates": "fd = call(76, b'{secret}', 0)",
    "changes a mode": "fd = call(90, b'{secret}', 0)",
    "changes times": "fd = call(280, -100, b'{secret}', None, 0)",
    "makes a socket": "fd = call(41, 2, 1, 0)",
    "makes a unix socket": "fd = call(41, 1, 1, 0)",
    "forks": "fd = call(57)",
    "forks by vfork": "fd = call(58)",
    "forks by clone": "fd = call(56, 17, 0, 0, 0, 0)",
    "forks by clone3": "b = ctypes.create_string_buffer(88); b[32] = 17; fd = call(435, b, 88)",
    "runs a program": "fd = call(59, b'/bin/true', None, None)",
    "kills its parent": "import os; fd = call(62, os.getppid(), 9)",
    "kills everything": "fd = call(62, -1, 9)",
    "limits its parent": "import os; fd = call(302, os.getppid(), 7, b'\\0' * 16, None)",
    "traces its parent": "import os; fd = call(101, 16, os.getppid(), 0, 0)",
    "reads its parent's memory": "import os; b = ctypes.create_string_buffer(64); fd = call(310, os.getppid(), b, 1, b, 1, 0)",
    "opens its parent's memory": "import os; fd = call(257, -100, b'/proc/%d/mem' % os.getppid(), 2)",
    "takes another room": "fd = call(272, 0x10000000)",
    "mounts": "fd = call(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "asks for rings": "fd = call(425, 8, ctypes.create_string_buffer(120))",
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A home with a secret, the repository, and a port that counts who comes."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "secret").write_text("the truth")
    monkeypatch.setenv("HOME", str(home))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.01)
        port = listener.getsockname()[1]
        yield {"secret": home / ".ssh" / "secret", "home": home, "root": ROOT, "port": port}
        with pytest.raises(TimeoutError):
            listener.accept()


def untouched(places: dict[str, object], act: Callable[[], None]) -> None:
    """Assert that home and board are after `act` what they were before."""
    watched = [Path(str(places["home"])), ROOT / "estimators"]
    before = snapshot(*watched), (ROOT / "leaderboard.md").read_bytes()
    act()
    assert (snapshot(*watched), (ROOT / "leaderboard.md").read_bytes()) == before


@pytest.mark.parametrize("act", FORBIDDEN)
def test_what_is_forbidden_ends_the_process_and_has_a_name(
    backend: str, act: str, places: dict[str, object], tmp_path: Path, run: Trajectory
) -> None:
    line = FORBIDDEN[act].format(**places)

    def attempt() -> None:
        body = "try:\n" + textwrap.indent(line, "    ") + "\nexcept BaseException:\n    pass\n"  # it would hide that, too
        with pytest.raises(Failure) as failure:
            answer(hostile(tmp_path, body), run)
        assert failure.value.status == "forbidden-access", f"{backend}: {failure.value}"

    untouched(places, attempt)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of its system calls are those of x86_64")
@pytest.mark.parametrize("act", KERNEL)
def test_the_kernel_refuses_what_python_cannot_see(
    backend: str, act: str, places: dict[str, object], tmp_path: Path, run: Trajectory
) -> None:
    line = KERNEL[act].format(**places)
    raised = "if fd != -1: raise ValueError(f'it got {fd}')\nraise PermissionError(ctypes.get_errno(), 'refused')"

    def attempt() -> None:
        with pytest.raises(Failure) as failure:
            answer(hostile(tmp_path, f"{SYSCALL}{line}\n{raised}\n"), run)
        assert failure.value.status == "forbidden-access", f"{backend}: {failure.value}"

    untouched(places, attempt)


# ---- exhaustion ------------------------------------------------------------------------------------------------------
EXHAUSTING = {
    "allocates 100 GB": ("import torch; torch.ones(100 * 2**30 // 8)", "out-of-memory"),
    "allocates bit by bit": ("held = []\nwhile True:\n    held.append(bytearray(2**24))", "out-of-memory"),
    "loops forever": ("while True:\n    pass", "timeout"),
    "loops and hears no signal": (
        "import signal\nfor n in range(1, 32):\n    n in (9, 19) or signal.signal(n, signal.SIG_IGN)\nwhile True:\n    pass",
        "timeout",
    ),
    "sleeps in native code": ("import ctypes; ctypes.CDLL(None).sleep(1000)", "timeout"),
    "kills its group": ("import ctypes; ctypes.CDLL(None).kill(0, 9)", "out-of-memory"),  # so the system says it, too
    "ends itself": ("import os; os._exit(3)", "crashed"),
    "faults": ("import ctypes; ctypes.string_at(0)", "crashed"),
    "aborts": ("import os; os.abort()", "crashed"),
    "recurses": ("f = lambda f: f(f); f(f)", "crashed"),
    "leaves by SystemExit": ("raise SystemExit(0)", "crashed"),
    "answers 2 GB": ("import torch; return torch.zeros(1, 1, dtype=torch.float64).expand(2**14, 2**14)", "bad-shape"),
    "answers with text": ("return 'the best'", "bad-shape"),
    "starts threads without end": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
        ("crashed", "out-of-memory"),
    ),
}
SHORT = Rules(allowance=Allowance(seconds=2.5, memory=1 << 29))
ENDLESS = Rules(allowance=Allowance(seconds=1.0, memory=1 << 29))  # for what goes on until it is stopped, whenever that is


@pytest.mark.parametrize("act", EXHAUSTING)
def test_exhaustion_is_a_typed_failure_and_the_next_one_runs(backend: str, act: str, tmp_path: Path, run: Trajectory) -> None:
    body, statuses = EXHAUSTING[act]
    with pytest.raises(Failure) as failure:
        answer(hostile(tmp_path, body + "\n"), run, ENDLESS if statuses == "timeout" else SHORT)

    assert failure.value.status in statuses, f"{backend}: {failure.value}"
    assert server().process.poll() is None
    assert answer(hostile(tmp_path, ""), run).effect.isfinite().all()


def test_what_fills_its_room_is_stopped_and_leaves_nothing(backend: str, tmp_path: Path, run: Trajectory) -> None:
    said = {"bubblewrap": r"large|space", "landlock": "Permission denied"}[backend]  # which has no place to write at all
    fill = "for i in range(8):\n    open(f'{i}', 'wb').write(bytes(2**26))"
    for body in (fill, "open('big', 'wb').write(bytes(2**29))"):
        with pytest.raises(Failure, match=said):
            answer(hostile(tmp_path, body), run)
    look = "import os; assert os.listdir('.') == ['mine.py'], os.listdir('.')"
    assert answer(hostile(tmp_path, look), run).effect.isfinite().all()


# ---- what there is to see --------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("backend")
def test_the_room_has_no_environment_no_open_files_and_no_other_process(tmp_path: Path, run: Trajectory) -> None:
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        body = """
        import os
        assert 'SECRET_TOKEN' not in os.environ
        for place in ('self', 1, os.getpid()):
            try:
                assert b'SECRET_TOKEN' not in open(f'/proc/{place}/environ', 'rb').read()
            except (PermissionError, FileNotFoundError):
                pass
        found = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(64) if os.path.islink(f'/proc/self/fd/{fd}')]
        assert all(at == '/dev/null' or at.startswith(('socket:', '/proc/')) for at in found), found
        try:
            others = [n for n in os.listdir('/proc') if n.isdigit() and int(n) not in (1, os.getpid())]
        except PermissionError:
            others = []
        assert not others, others
        """
        assert answer(hostile(tmp_path, body), run).effect.isfinite().all()


@pytest.mark.usefixtures("backend")
def test_frames_and_modules_lead_to_no_truth(tmp_path: Path, run: Trajectory) -> None:
    body = """
    import sys
    frame, seen = sys._getframe(), []
    while frame:
        seen += [type(value).__name__ for value in (*frame.f_locals.values(), *frame.f_globals.values())]
        frame = frame.f_back
    assert 'GroundTruth' not in seen
    assert {m.split('.')[1] for m in sys.modules if m.startswith('benchmark.')} == {'core', 'estimating', 'retraining'}
    """
    assert answer(hostile(tmp_path, body), run).effect.isfinite().all()


@pytest.mark.usefixtures("backend")
def test_a_patched_torch_and_scorer_change_nothing_outside(tmp_path: Path, run: Trajectory) -> None:
    honest = answer(hostile(tmp_path, ""), run)
    body = """
    import sys, torch
    torch.equal = lambda *_: True
    torch.Tensor.isfinite = lambda self: torch.ones_like(self, dtype=torch.bool)
    for module in list(sys.modules.values()):
        for name in ('kendall', 'spearman', 'scores', '_judge', 'estimate'):
            if hasattr(module, name) and getattr(module, '__name__', '').startswith('benchmark.'):
                setattr(module, name, lambda *_, **__: 1.0)
    """
    assert answer(hostile(tmp_path, body), run).effect.equal(honest.effect)
    with pytest.raises(Failure) as failure:
        answer(hostile(tmp_path, body + "    return torch.full((12, 3), float('nan'))\n"), run)
    assert failure.value.status == "non-finite"
    run.problem.train.inputs.sum()  # not mutated: the child had a copy


LINE = """
import json, os, sys
from safetensors.torch import save
pack = lambda tensors, facts: save(tensors, {name: json.dumps(value) for name, value in facts.items()})
class Line:
    send = sendall = lambda self, content: os.write(3, content)
    close = lambda self: os.close(3)
line = Line()
say = lambda content: line.send(len(content).to_bytes(8, 'little') + content)
"""
FORGED = {  # what a stranger's code could say in the name of the program that runs it, on its line
    "a number of bytes beyond all": "line.send(b'\\xff' * 8)",
    "8 GB of bytes to come": "line.send((2**33).to_bytes(8, 'little'))",
    "garbage": "line.send((8).to_bytes(8, 'little') + b'garbage!')",
    "a pickle": "import pickle; c = pickle.dumps(print); line.send(len(c).to_bytes(8, 'little') + c)",
    "a header nested deep": "h = b'[' * 60000; say(len(h).to_bytes(8, 'little') + h)",
    "done before the work": "line.send((4).to_bytes(8, 'little') + b'done'); line.close()",
    "counts that cannot be": (
        "import torch; say(b'done'); "
        "say(pack({'effect': torch.rand(12, 3)}, {'gradients': -1, 'hessian_products': 10**30, 'notes': {}}))"
    ),
    "notes with HTML": (
        "import torch; say(b'done'); "
        "say(pack({'effect': torch.rand(12, 3)}, {'gradients': 1, 'hessian_products': 1, 'notes': {'<b>': 1}}))"
    ),
    "that this task is not for it": "say(pack({}, {'failure': 'unsupported', 'message': 'no states'}))",
    "a failure of its own making": "say(pack({}, {'failure': '<script>', 'message': '<script>\\n\\x1b[31m' * 999}))",
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_conversation_is_a_typed_failure(backend: str, what: str, tmp_path: Path, run: Trajectory) -> None:
    body = f"{LINE}\n{FORGED[what]}\nimport time; time.sleep(60)\n"
    with pytest.raises(Failure) as failure:
        answer(hostile(tmp_path, body), run, SHORT)

    usual = ("crashed", "timeout", "forbidden-access")
    assert failure.value.status in ("bad-shape" if "bytes" in what else usual), f"{backend}: {failure.value}"
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) <= MOST
    assert "<script>" not in failure.value.status
    assert "\x1b" not in str(failure.value)


# ---- what a file declares --------------------------------------------------------------------------------------------
DECLARED = {
    "a path as its name": ("@estimator('../../mine', paper='none')", "a name is up to 64"),
    "lines in its name": ("@estimator('mine\\n| best | 1.000 |', paper='none')", "a name is up to 64"),
    "HTML in its name": ("@estimator('<script>alert(1)</script>', paper='none')", "a name is up to 64"),
    "a name of 10,000 letters": ("@estimator('m' * 10000, paper='none')", "a name is up to 64"),
    "the name of another": ("@estimator('sgd-ie', paper='none')", "taken by a registered estimator"),
    "settings that are no JSON": ("@estimator('mine', paper='none', at={1, 2})", "settings must be JSON"),
    "a paper of a megabyte": ("@estimator('mine', paper='p' * 10**6)", "paper must say"),
    "an optimiser that is none": ("@estimator('mine', paper='none', optimizers=('magic',))", "unknown optimizers"),
    "nothing, but opens a file first": ("open('/home/somebody/.ssh/id_rsa')", "forbidden-access"),
    "nothing, but never ends": ("while True: pass", "timeout"),
    "nothing, but ends the process": ("import os; os._exit(0)", "crashed"),
    "what the harness hides": ("from benchmark.truths.truth import answer", "may import only"),
}


@pytest.mark.parametrize("what", DECLARED)
def test_a_file_that_declares_nonsense_is_refused_in_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, message = DECLARED[what]
    at = tmp_path / "mine.py"
    at.write_text(
        f"from benchmark.estimating import estimator\n{line}\n{'' if line[0] != '@' else 'def mine(run):' + chr(10) + HONEST}"
    )
    limit = "1" if message == "timeout" else "4"
    code = main(["run", "--task", TASK, "--seeds", "1", "--estimator", str(at), "--time-limit", limit])
    printed = capsys.readouterr()

    assert code == 2
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert len(printed.err) < 1000
    assert not Path("my-results").exists()


# ---- the whole command -----------------------------------------------------------------------------------------------
def test_a_run_of_hostile_and_honest_files_scores_the_honest_and_types_the_hostile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "sgd-ie"]) == 0
    truth = next(at for at in sorted(cache.rglob("*.safetensors")) if "estimates" not in at.parts)
    (tmp_path / "bad.py").write_text(
        "from benchmark.estimating import estimator\n"
        f"@estimator('thief', paper='none')\ndef thief(run):\n    open({str(truth)!r}, 'rb').read()\n{HONEST}"
        f"@estimator('honest', paper='none')\ndef honest(run):\n{HONEST}"
    )
    before = snapshot(truth.parent, tmp_path / "my-results")
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "bad.py"]) == 1

    assert "forbidden-access: thief: read" in capsys.readouterr().err
    after = snapshot(truth.parent, tmp_path / "my-results")
    assert {at: after[at] for at in before} == before
    assert {Path(at).stem for at in after.keys() - before.keys() if ".locks" not in at} == {"thief", "honest"}


def test_where_no_sandbox_works_a_strangers_file_is_refused_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget()
    monkeypatch.setattr(process, "BACKENDS", {"none": (lambda: "there is none", list)})
    command = ["run", "--task", TASK, "--seeds", "1", "--estimator", str(hostile(tmp_path, ""))]

    assert main(command) == 2
    assert "--no-sandbox runs the estimator as you" in capsys.readouterr().err
    assert main([*command, "--no-sandbox"]) == 0


@pytest.mark.usefixtures("backend")
def test_threads_are_as_confined_as_the_process(tmp_path: Path, run: Trajectory) -> None:
    body = f"""
    import threading
    {SYSCALL.strip()}
    found = []
    thread = threading.Thread(target=lambda: found.append((call(41, 2, 1, 0), call(57))))
    thread.start(); thread.join()
    if found != [(-1, -1)]: raise ValueError(found)
    raise PermissionError('as it should be')
    """
    with pytest.raises(Failure) as failure:
        answer(hostile(tmp_path, body), run)
    assert failure.value.status == "forbidden-access", f"{failure.value}"
    assert threading.active_count() < 20


def test_the_filter_knows_this_machine() -> None:
    assert kernel.filtered() == (os.uname().machine in kernel.MACHINES)
