"""The program that fetches a data set from the Hub, in a process of its own (benchmark/tasks/data.py starts it).

The Hub's client takes what is named as a repository in the working folder for the repository: here that folder is empty. And it
waits as long as a server asks for, or trickles: here it is watched, and ended.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.tasks.data import LONGEST, ROWS, SAID, SLOWEST, Column, Source, Splits, Table, source, write_rows

CHUNK = 1 << 16  # bytes in which a file is written as it comes, so that it is soon seen to grow
FOLDERS = ("_HOME", "_CACHE", "_PATH", "_DIR", "_FILE", "_BUNDLE")  # what variables with places end in
CLIENTS = ("HF_", "HUGGINGFACE_", "XDG_", "SSL_", "REQUESTS_", "CURL_")  # and begin with
NONE = "nothing was kept"


@dataclass(frozen=True)
class Asked:
    """A data set, the folder for its rows, seconds of patience, and the process that waits."""

    wanted: Source
    room: Path
    patience: float
    parent: int


def main() -> int:
    """Write the rows of a data set, or what went wrong, into a folder: `NAME FOLDER PATIENCE PARENT [fresh]`."""
    name, folder, patience, parent, *fresh = sys.argv[1:]
    asked = Asked(source(name), Path(folder), float(patience), int(parent))
    return alone(asked, lambda: write_rows(asked.room / ROWS, _decoded(asked.wanted, _served(asked, bool(fresh)))))


def alone(asked: Asked, act: Callable[[], None]) -> int:
    """Do what is asked in an empty working folder; an exit code. What goes wrong is written down for the process that waits."""
    signal.signal(signal.SIGTERM, lambda *_: _end())
    os.environ.update(absolute(os.environ))
    (asked.room / "empty").mkdir()
    os.chdir(asked.room / "empty")
    try:
        act()
    except LoobenchError as error:
        _say(asked.room, error)
        return 1
    return 0


def absolute(mine: Mapping[str, str]) -> dict[str, str]:
    """The variables that name places for the Hub's client, as they are seen from the working folder of now."""
    places = {name: value for name, value in mine.items() if name.startswith(CLIENTS) and name.endswith(FOLDERS) and value}
    return {name: os.path.abspath(os.path.expanduser(os.path.expandvars(value))) for name, value in places.items()}


def _say(room: Path, error: LoobenchError) -> None:
    (room / SAID).write_text(json.dumps({"damaged": isinstance(error, DamagedFile), "message": str(error)}))


# ---- too slow ----------------------------------------------------------------------------------------------------
@contextmanager
def _watched(asked: Asked) -> Iterator[None]:
    done = threading.Event()
    threading.Thread(target=_watch, args=(asked, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(asked: Asked, done: threading.Event) -> None:
    """End this process where too little comes in so many seconds, all takes LONGEST times as long, or nobody waits for it."""
    patience, began = asked.patience, time.monotonic()
    then, had = began, 0
    while not done.wait(min(1.0, patience / 5)):
        now, has = time.monotonic(), _arrived(asked)
        if os.getppid() != asked.parent:
            _end()
        if now - began >= LONGEST * patience:
            _give_up(asked, f"it was not done after {LONGEST * patience:g} s")
        if has - had >= SLOWEST * patience:
            then, had = now, has
        elif now - then >= patience:
            came = f"{max(0, has - had) / 1000:.0f} kB came in {now - then:.0f} s"
            expected = f"{SLOWEST * patience / 1000:.0f} kB are expected (a server may ask to wait for longer)"
            _give_up(asked, f"{came}, {expected}")


def _arrived(asked: Asked) -> int:
    """Bytes on disk of what the client fetches and makes of it."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE, f"datasets--{asked.wanted.origin.replace('/', '--')}")
    found = (
        os.path.join(top, name) for place in (asked.room, repository) for top, _, names in os.walk(place) for name in names
    )
    return sum(map(_size, found))


def _size(at: str) -> int:
    with suppress(OSError):  # a file that was renamed meanwhile
        return os.lstat(at).st_size
    return 0


def _give_up(asked: Asked, why: str) -> NoReturn:
    longer = f"LOOBENCH_HUB_PATIENCE={10 * asked.patience:g} {asked.wanted.again}"
    again = f"{NONE}: try again later, or with more patience: {longer}"
    _say(asked.room, LoobenchError(f"cannot download {_called(asked.wanted)}: {why}; {again}"))
    _end()


def _end() -> NoReturn:
    """End at once; what this process was about to write goes with it."""
    with suppress(OSError):
        for handle in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if (at := os.readlink(handle)).endswith(".incomplete"):
                    os.unlink(at)
    os._exit(1)


# ---- what is served ----------------------------------------------------------------------------------------------
def client() -> Any:
    """The Hub's client, whose progress can be seen."""
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub
    from huggingface_hub import constants, errors  # noqa: F401  # which a lazy package has only then

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    return huggingface_hub


def watched(asked: Asked, *acts: Callable[[], Any]) -> Any:
    """What the last of some requests to the Hub gives, each in time and again after a fault. Raises LoobenchError in words."""
    try:
        with _watched(asked):
            return [_patiently(act) for act in acts][-1]
    except LoobenchError:
        raise
    except Exception as error:  # the client raises whatever its transport raises
        raise _refused(asked.wanted, error) from error


def _served(asked: Asked, fresh: bool) -> Any:
    client()
    import datasets

    wanted, made = asked.wanted, str(asked.room / "made")
    mode = datasets.DownloadMode.FORCE_REDOWNLOAD if fresh else datasets.DownloadMode.REUSE_DATASET_IF_EXISTS

    def load() -> Any:
        try:
            return datasets.load_dataset(wanted.origin, cache_dir=made, download_mode=mode)
        except datasets.exceptions.DatasetGenerationError as error:
            if not _status(error):
                raise _undecodable(wanted, error.__cause__ or error) from error
            raise

    return watched(asked, lambda: _reached(wanted), load)


def _reached(wanted: Source) -> None:
    """Ask for one file: what `load_dataset` raises hides what a server answered."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(wanted.origin, "README.md", repo_type="dataset")
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # no answer; else the repository is there, without that file
            raise


def _patiently(get: Callable[[], Any], tries: int = 3) -> Any:
    """`get()`, again after a server's fault: the client itself repeats only lost connections."""
    for attempt in range(1, tries):
        try:
            return get()
        except Exception as error:
            if _status(error) < 500:
                raise
            time.sleep(attempt)
    return get()


def _refused(wanted: Source, error: BaseException) -> LoobenchError:
    """What a failed download means, and what to do."""
    status, cause = _status(error), error.__cause__ or error
    offline = "it is not asked: unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE" if "Offline" in type(cause).__name__ else ""
    trouble = f"it answers {status}: it is in trouble itself; wait some minutes" if status >= 500 else ""
    meaning = {
        401: f"it answers 401: {_token()}",
        403: f"it answers 403: the data set is private or gated there, or this network may not have it: {_token()}",
        404: "it answers 404: it has no such data set; HF_ENDPOINT may name what is no Hub, unset it to ask https://huggingface.co",
        429: "it answers 429: too much was asked of it; wait some minutes",
    }.get(status, offline or trouble or f"{brief(cause)}: check the connection")
    return LoobenchError(f"cannot download {_called(wanted)}: {meaning}; {NONE}; then run `{wanted.again}` again")


def _token() -> str:
    from huggingface_hub import get_token

    if get_token():
        return "a token was sent, which may be wrong or too old; these data sets need none: unset HF_TOKEN, or `hf auth logout`"
    return (
        "no token was sent, and it wants one; https://huggingface.co wants none for these: unset HF_ENDPOINT, or set HF_TOKEN"
    )


def _status(error: BaseException | None) -> int:
    """The status that a server answered with, of an error or of what it came from; 0 where there was no answer."""
    return next((code for one in _chain(error) if (code := getattr(getattr(one, "response", None), "status_code", 0))), 0)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _called(wanted: Source) -> str:
    return f"data set {wanted.name} ({wanted.origin}) from {os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}"


def brief(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:200]}"


# ---- rows --------------------------------------------------------------------------------------------------------
def _decoded(wanted: Source, served: Any) -> Splits:
    try:
        return {split: _decode(served[split], wanted.columns) for split in wanted.rows}
    except Exception as error:  # images and text are decoded here, by whatever libraries those formats need
        raise _undecodable(wanted, error) from error


def _undecodable(wanted: Source, error: BaseException) -> DamagedFile:
    again = "if it happens again, the Hub's copy is damaged"
    return DamagedFile(f"the rows of {_called(wanted)} cannot be decoded: {brief(error)}; {NONE}: {again}")


def _decode(rows: Any, columns: tuple[str, ...]) -> Table:
    return {name: _plain(rows, name) for name in columns}


def _plain(rows: Any, name: str) -> Column:
    kind = type(rows.features[name]).__name__
    if kind == "Image":
        return np.stack([np.asarray(image, dtype=np.uint8) for image in rows[name]])
    values = rows[name][:]
    if isinstance(values[0], str):
        return [text.strip() for text in values]
    return np.asarray(values, dtype="<i8")


if __name__ == "__main__":
    sys.exit(main())
