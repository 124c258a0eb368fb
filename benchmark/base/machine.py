"""What a number was computed on: provenance, and the one thread that makes float64 truths repeat bit for bit."""

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import benchmark
from benchmark.base import git
from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import digest, json_digest, tensor_digest, unix
from benchmark.base.surroundings import undisturbed as undisturbed
from benchmark.base.text import line

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "datasets")
OPTIONAL = ("POT", "captum", "dattri", "kronfluence", "pyDVL", "traker")  # recorded where they are installed
SOURCES = ("benchmark", "baselines", "estimators", "pyproject.toml")  # what a number depends on
PROBES = ((1, 30), (7, 5), (20, 64), (33, 100), (100, 784))  # shapes that the products of small tasks have
FUNCTIONS = (
    torch.exp,
    torch.tanh,
    torch.sigmoid,
    torch.log1p,
    torch.nn.functional.softplus,
    torch.sum,
    partial(torch.softmax, dim=1),
)
VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")  # of the environment, that decide last bits
ABSENT = "not installed"
UNKNOWN = "unknown"  # a commit
Provenance = dict[str, str | int]


@contextmanager
def so_many_threads(threads: int) -> Iterator[None]:
    """Run the block with torch on so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Run a block on one CPU thread: the order of sums, and so the last bit, depends on their number."""
    return so_many_threads(1)


@lru_cache(maxsize=1)
def harness() -> str:
    """Digest of this program's source, as provenance: what decides whether numbers are the same is the protocol."""
    folder = Path(benchmark.__file__).parent
    files = {at.relative_to(folder).as_posix(): unix(at.read_bytes()) for at in folder.rglob("*.py")}
    return digest(*(part for name in sorted(files) for part in (name.encode(), files[name])))[:16]


def device(name: str) -> str:
    """`name` if this machine has such a device. Raises LoobenchError where it has not.

    Convolutions on it are then of whole float32 numbers: cuDNN cuts them to 10 bits unless it is told not to.
    """
    if name not in ("cpu", "cuda"):
        raise unknown("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise LoobenchError(
            "device cuda was asked for, but torch sees no GPU here: leave --device out, or install a CUDA build"
        )
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return name


def free_memory(device: str) -> int:
    """Bytes of memory that are free: of the GPU, or of this machine within what its control group may have."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return max(0, min([_available(), *map(_free_in, control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))]))


def clock(device: str) -> Callable[[], float]:
    """Seconds, from some moment on: of processors in this process, whatever else the machine does; of a GPU, on the wall."""
    return time.process_time if device == "cpu" else time.perf_counter


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """The most bytes in use at once since the block began, beyond those in use then; None where the system does not tell.

    Of the GPU: tensors. Of the CPU: resident pages of this process, on Linux, once memory that was freed is given back.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: max(0, torch.cuda.max_memory_allocated() - before)
        return
    start = _resident("VmRSS") if _forget_peak() else None
    yield lambda: None if start is None else max(0, (_resident("VmHWM") or start) - start)


def _forget_peak() -> bool:
    """Give freed memory back and let the system count this process's peak anew; whether it does."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(kind: str) -> int | None:
    """Bytes of resident pages, now or at their peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")), None)


def control_groups(own: Path, root: Path) -> list[Path]:
    """Folders of the control groups whose memory this process shares, and of all groups above them."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    places = [(root if not kinds else root / "memory", path) for _, kinds, path in lines if not kinds or "memory" in kinds]
    groups = [(base, base / path.lstrip("/")) for base, path in places]
    return [folder for base, group in groups for folder in (group, *group.parents) if folder.is_relative_to(base)]


def _free_in(group: Path) -> int:
    """What a control group may still take; the files it has read ahead can be given up."""
    for limit, use, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return _number(group / limit) - _number(group / use) + int(stat.get(cached, 0))
        except (OSError, ValueError):
            continue
    return 2**62


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return int(text) if text.isdecimal() else 2**62  # "max": no limit


def peak_growth(act: Callable[[], object], device: str) -> int | None:
    """Bytes by which the memory of this process, or of the GPU, grew at its peak inside `act`; None where none can tell."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        act()
        return int(torch.cuda.max_memory_allocated()) - before
    try:
        _give_back()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        before = _held("VmHWM")
    except OSError:
        act()
        return None
    act()
    return _held("VmHWM") - before


def _give_back() -> None:
    """Return freed memory to the system, so that taking it again is seen; not every system's C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _held(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given, so that a clock may be read."""
    if device == "cuda":
        torch.cuda.synchronize()


@lru_cache(maxsize=2)
def hardware(device: str) -> str:
    """The name of the processor or GPU."""
    return torch.cuda.get_device_name() if device == "cuda" else _cpu()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def arithmetic() -> str:
    """Digest of the last bits of some sums and functions here: where it is the same, the bits of truths have been so, too.

    The kind of vector instructions does not say as much: MKL takes other ways on a processor of another maker.
    """
    given = [torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns).sin() for rows, columns in PROBES]
    plain = torch.tensor(sum([0.1] * 10), dtype=torch.float64)  # Python 3.12 and later add floats more exactly
    with one_thread():
        products = [one @ one.T for one in given] + [one.T @ one for one in given]
        return tensor_digest([plain, *products, *(act(one) for act in FUNCTIONS for one in given)])[:16]


def instructions() -> str:
    """The vector instructions that torch uses here, as "AVX512" or "AVX2"; its matrix products choose their own."""
    return torch.backends.cpu.get_cpu_capability()


def variables() -> dict[str, str]:
    """The variables of the environment that decide last bits, as they are set."""
    return {name: line(os.environ[name]) for name in VARIABLES if name in os.environ}


def timed_on(device: str) -> str:
    """Digest of all that a wall time depends on and that we can name; times of different ones must not be compared."""
    return json_digest([hardware(device), os.cpu_count(), torch.get_num_threads(), torch.__version__, benchmark.__version__])[
        :16
    ]


def provenance(command: str, device: str, dtype: str) -> Provenance:
    """Command, commit, versions, device, vector instructions, threads and dtype of what is computed now."""
    return {
        "command": line(command),
        "commit": commit(),
        "loobench": benchmark.__version__,
        "protocol": benchmark.PROTOCOL,
        "harness": harness(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **{name: found for name in OPTIONAL if (found := _version(name)) != ABSENT},
        "system": f"{platform.system()} {platform.machine()}",
        "device": line(hardware(device)),
        "instructions": instructions(),
        "arithmetic": arithmetic(),
        **variables(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the checkout that this code is in, with "+changes" where its sources differ from it; or "unknown"."""
    try:
        return _commit()
    except LoobenchError:
        return UNKNOWN


def no_commit() -> str | None:
    """Why the commit is unknown; None where it is known."""
    if commit() != UNKNOWN:
        return None
    try:
        _commit()
    except LoobenchError as error:
        return str(error)
    return None


def _commit() -> str:
    """The commit, from git. Raises LoobenchError where git does not tell, or this code is in no checkout of its own."""
    folder = Path(benchmark.__file__).resolve().parent.parent
    top = git.ask(folder, "rev-parse", "--show-toplevel").decode(errors="surrogateescape").strip()
    if Path(top) != folder:
        raise LoobenchError(f"{folder} is no checkout of loobench, but lies in {top}")
    head = git.ask(folder, "rev-parse", "--verify", "HEAD").decode().strip()
    changed = git.ask(folder, "status", "--porcelain", "--untracked-files=normal", "--", *SOURCES)
    return head + ("+changes" if changed else "")
