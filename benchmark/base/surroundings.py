"""What a stranger's call may change in this process for all that comes after it, and putting that back.

What cannot be put back is not here: threads that go on, modules that were imported or changed, memory, files.
"""

import decimal
import gc
import importlib
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

NUMBERS = "random states"
LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
PRECISIONS = (  # of products of float32 numbers, where this torch has them one by one
    (torch.backends, "fp32_precision"),
    *((getattr(torch.backends.mkldnn, part, None), "fp32_precision") for part in ("matmul", "conv", "rnn")),
    *((getattr(torch.backends.cudnn, part, None), "fp32_precision") for part in ("conv", "rnn")),
    (torch.backends.cuda.matmul, "fp32_precision"),
    *((torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
)


@dataclass(frozen=True)
class Setting:
    """A global setting: what it is called, its value now, and how a value is given back to it."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


@contextmanager
def undisturbed() -> Iterator[list[str]]:
    """Put back what the block changes; the list then has the names of what it changed."""
    changed: list[str] = []
    before = [_value(setting) for setting in SETTINGS]
    try:
        yield changed
    finally:
        for setting, value in zip(SETTINGS, before, strict=True):
            if not _same(_value(setting), value):
                changed.append(setting.name)
                with suppress(Exception):  # a folder that is gone, a limit that cannot rise again
                    setting.put(value)


def _value(setting: Setting) -> Any:
    try:
        return setting.get()
    except Exception:  # what was left behind may stand in the way of asking, too
        return None


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays: taken for changed
        return False


# ---- kinds of settings -----------------------------------------------------------------------------------------------
def _attributes(name: str, *places: tuple[Any, str]) -> Setting:
    """Attributes of modules and the like, those that there are."""
    there = [(owner, attribute) for owner, attribute in places if owner is not None]
    return Setting(
        name,
        lambda: [_read(*place) for place in there],
        lambda values: _assign(there, values),
    )


def _read(owner: Any, attribute: str) -> Any:
    with suppress(Exception):  # not in this torch, or set by two ways that contradict each other
        return getattr(owner, attribute)


def _assign(places: Iterable[tuple[Any, str]], values: Iterable[Any]) -> None:
    for place, value in zip(places, values, strict=True):
        if value is not None and _read(*place) != value:
            with suppress(Exception):
                setattr(*place, value)


def _list(name: str, owner: Any, attribute: str) -> Setting:
    """A list that others hold, too: the same object, with the items it had."""

    def put(value: tuple[list[Any], list[Any]]) -> None:
        setattr(owner, attribute, value[0])
        value[0][:] = value[1]

    return Setting(name, lambda: (getattr(owner, attribute), getattr(owner, attribute)[:]), put)


def _random(module: str, get: str, put: str) -> Setting:
    found = importlib.import_module(module)
    return Setting(NUMBERS, getattr(found, get), getattr(found, put))


def _put_environment(before: dict[str, str]) -> None:
    """Key by key: another thread may be reading it."""
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()


def _put_warnings(before: tuple[Any, ...]) -> None:
    found, filters, show = before
    warnings.resetwarnings()  # forgets, too, which were shown
    warnings.filters, warnings.showwarning = found, show
    found[:] = filters


def _decimal() -> tuple[Any, ...]:
    c = decimal.getcontext()
    flags, traps = ([kind for kind, on in found.items() if on] for found in (c.flags, c.traps))
    return c.prec, c.rounding, c.Emin, c.Emax, c.capitals, c.clamp, flags, traps


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _put_signals(before: dict[int, Any]) -> None:
    """Only the main thread may; a handler that is not Python's cannot be set."""
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _put_mask(before: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _timed() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)


def _loggers() -> dict[logging.Logger, tuple[Any, ...]]:
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [logger for logger in known if isinstance(logger, logging.Logger)]
    return {logger: (logger.level, logger.handlers[:], logger.disabled, logger.propagate) for logger in found}


def _put_loggers(before: dict[logging.Logger, tuple[Any, ...]]) -> None:
    """Those that are new stay."""
    for logger, (level, handlers, disabled, propagate) in before.items():
        logger.setLevel(level)
        logger.handlers[:], logger.disabled, logger.propagate = handlers, disabled, propagate


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before


def _put_limits(before: list[tuple[int, int]]) -> None:
    for kind, limits in zip(LIMITS, before, strict=True):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limits[0], resource.getrlimit(kind)[1]))


def _denormals_vanish() -> bool:
    """Whether this thread takes numbers below the smallest normal one for 0; torch has no word for it."""
    return sys.float_info.min / 2 == 0


def _put_device(before: torch.device) -> None:
    torch.set_default_device(None if before == torch.device("cpu") else before)


def _cuda_states() -> list[Any]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


SETTINGS = (  # the recursion limit first: below it nothing else may work
    Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("tracing", sys.gettrace, sys.settrace),
    Setting("profiling", sys.getprofile, sys.setprofile),
    Setting("warning filters", lambda: (warnings.filters, warnings.filters[:], warnings.showwarning), _put_warnings),
    Setting("NumPy's error state", np.geterr, lambda value: np.seterr(**value)),
    Setting("NumPy's error handler", np.geterrcall, np.seterrcall),
    Setting("NumPy's print options", np.get_printoptions, lambda value: np.set_printoptions(**value)),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's default device", torch.get_default_device, _put_device),
    Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "torch's deterministic algorithms",
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _attributes("torch's filling of memory", (torch.utils.deterministic, "fill_uninitialized_memory")),
    Setting("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _attributes("torch's backends", *PRECISIONS),
    Setting("torch's anomaly detection", _anomaly, lambda value: torch.autograd.set_detect_anomaly(*value)),
    Setting("flushing of denormal numbers", _denormals_vanish, torch.set_flush_denormal),
    Setting("decimal context", _decimal, lambda value: decimal.setcontext(decimal.Context(*value))),
    Setting("locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    Setting("environment", lambda: dict(os.environ), _put_environment),
    Setting("working folder", os.getcwd, os.chdir),
    Setting("file mode mask", _umask, os.umask),
    Setting("limits of the process", lambda: [resource.getrlimit(kind) for kind in LIMITS], _put_limits),
    _list("module search path", sys, "path"),
    _attributes("standard streams", *((sys, name) for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook"))),
    Setting("signal handlers", _signals, _put_signals),
    Setting("signal mask", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []), _put_mask),
    Setting("alarm", _timed, lambda value: value or signal.setitimer(signal.ITIMER_REAL, 0)),
    Setting("logging", _loggers, _put_loggers),
    Setting("level of all logging", lambda: logging.root.manager.disable, logging.disable),
    Setting("garbage collection", gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    Setting("network time-out", socket.getdefaulttimeout, socket.setdefaulttimeout),
    Setting("thread switching", sys.getswitchinterval, sys.setswitchinterval),
    Setting("digits of numbers", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    _attributes("hook of threads", (threading, "excepthook")),
    Setting(
        "start of processes",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda value: multiprocessing.set_start_method(value, force=True),
    ),
    _random("random", "getstate", "setstate"),
    _random("numpy.random", "get_state", "set_state"),
    _random("torch", "get_rng_state", "set_rng_state"),
    Setting(NUMBERS, _cuda_states, torch.cuda.set_rng_state_all),
)
