"""Each record lies in the file that its content names, and in that alone, whatever a synchronising program left beside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.base.errors import DamagedFile


@dataclass(frozen=True)
class Held:
    """A file, where its record belongs, what it has of each seed, and the rest of the record."""

    at: Path
    meant: Path
    seeds: Mapping[str, Any]
    rest: Mapping[str, Any]


def json_files(folder: Path, pattern: str) -> list[Path]:
    """The files under a folder that fit a pattern, in order, without hidden ones, a system's own: `._x.json`, `.stversions`."""
    found = folder.glob(pattern)
    return sorted(at for at in found if not any(part.startswith(".") for part in at.relative_to(folder).parts))


def expect_one_each(found: Iterable[Held]) -> None:
    """Raise DamagedFile where several files hold one record: it says which has what. None of them may be lost."""
    together: dict[Path, list[Held]] = {}
    for one in found:
        together.setdefault(one.meant, []).append(one)
    for meant, files in together.items():
        if len(files) > 1:
            raise DamagedFile(
                f"{len(files)} files hold the record of {meant}: {_contents(files)}; keep one, move the others out of "
                f"{meant.parent} (overwrite none by another: what only one has would be lost), then repeat"
            )


def expect_places(found: Sequence[Held]) -> None:
    """Raise DamagedFile where several files hold one record, or a file lies elsewhere than its content says."""
    expect_one_each(found)
    for one in found:
        if one.at != one.meant:
            free = f"move it to {one.meant}"
            taken = f"another record lies in {one.meant}: move both out of the folder, then each to its own place"
            raise DamagedFile(f"{one.at} holds the record of {one.meant}: {taken if one.meant.exists() else free}")


def _contents(files: Sequence[Held]) -> str:
    """Which seeds each has, which are not the same in all, and what else is not."""
    each = [f"{one.at} has seed {', '.join(one.seeds) or 'none'}" for one in files]
    shared = [seed for seed in files[0].seeds if all(seed in one.seeds for one in files)]
    apart = [seed for seed in shared if _vary(one.seeds[seed] for one in files)]
    other = [name for name in files[0].rest if _vary(one.rest[name] for one in files)]
    same = not apart and not other and not _vary({*one.seeds} for one in files)
    told = [f"seed {', '.join(apart)} is not the same in all"] * bool(apart) + [f"they differ in {', '.join(other)}"] * bool(
        other
    )
    return "; ".join([*each, *told, *["they say the same"] * same])


def _vary(values: Iterable[Any]) -> bool:
    first, *others = values
    return any(value != first for value in others)
