"""The program that fetches files of a published data set, in a process of its own (benchmark/truths/published.py starts it)."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.tasks import hub
from benchmark.tasks.data import Source, ask_hub

COMMIT = "commit.txt"  # a file of the room: the commit that a revision names


@dataclass(frozen=True)
class Repository(Source):
    """A data set of the Hub at a revision, of which single files are wanted."""

    @property
    def again(self) -> str:
        """The command that fetches it."""
        return f"loobench truth TASK --from-hub {self.name}@{self.digest}"


def repository(name: str, revision: str) -> Repository:
    """The data set `name` at a revision."""
    return Repository(name, name, licence="", rows={}, columns=(), digest=revision)


def fetch(name: str, revision: str, files: list[str], room: Path) -> str:
    """Fetch files of a data set at a revision into a new folder, as they lie there; the commit that the revision names.

    Raises LoobenchError where the Hub has no such data set, revision or file, or is out of reach, too slow or in trouble.
    """
    room.mkdir(parents=True)
    ask_hub("benchmark.truths.download", repository(name, revision), room, revision, *files)
    return (room / COMMIT).read_text()


def main() -> int:
    """Fetch files into a folder: `NAME FOLDER PATIENCE PARENT REVISION FILE...`."""
    name, folder, patience, parent, revision, *files = sys.argv[1:]
    asked = hub.Asked(repository(name, revision), Path(folder), float(patience), int(parent))
    return hub.alone(asked, lambda: _fetched(asked, revision, files))


def _fetched(asked: hub.Asked, revision: str, files: list[str]) -> None:
    client = hub.client()

    def commit() -> None:
        info = _answered(asked, client, lambda: client.HfApi().dataset_info(asked.wanted.origin, revision=revision))
        (asked.room / COMMIT).write_text(info.sha)

    def all_files() -> None:
        at = (asked.room / COMMIT).read_text()
        for name in files:
            where = {"repo_type": "dataset", "revision": at, "local_dir": asked.room}
            _answered(asked, client, lambda name=name, where=where: client.hf_hub_download(asked.wanted.origin, name, **where))

    hub.watched(asked, commit, all_files)


def _answered(asked: hub.Asked, client: Any, get: Any) -> Any:
    """What the Hub gives; that it lacks the revision or the file is said as that."""
    missing = client.errors
    try:
        return get()
    except missing.RevisionNotFoundError as error:
        what = f"has no revision {asked.wanted.digest}: take one of its history"
        raise LoobenchError(f"cannot download truths: {asked.wanted.name} {what}, as in {asked.wanted.again}") from error
    except missing.LocalEntryNotFoundError:  # no answer at all
        raise
    except missing.EntryNotFoundError as error:
        what = "lacks a file that a data set of truths has: name one that `loobench truth TASK --push` has written"
        raise LoobenchError(f"cannot download truths: {asked.wanted.name} {what} ({str(error).splitlines()[0]})") from error


if __name__ == "__main__":
    sys.exit(main())
