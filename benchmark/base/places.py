"""Where things lie: this program, what is published, and what is one's own."""

import json
import os
from pathlib import Path

import benchmark
from benchmark.base.errors import LoobenchError

ROOT = (
    Path(benchmark.__file__).resolve().parents[1]
)  # the folder with this program: a checkout, or where packages are installed
HOUSE = ("benchmark", "baselines", "estimators")  # packages whose modules are ours, and may move
PUBLISHED, MINE = Path("results"), Path("my-results")
MANIFEST = "manifest.json"  # makes a folder of results a publication; benchmark/publishing/manifest.py
KEYS = {"format", "results", "limits"}  # of a manifest


def publication(folder: Path) -> Path | None:
    """The publication that a folder is, or lies in; None where it is none of its own and in none."""
    at = folder.resolve()
    return at if (at / MANIFEST).is_file() else next(filter(_is_publication, at.parents), None)


def _is_publication(folder: Path) -> bool:
    """Whether a folder has the manifest of a publication, and not some other file of that name."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= KEYS


def written(named: Path | None, *, publish: bool) -> Path:
    """The folder that results are written into: the one that is named, else one's own, or to `publish` the published one.

    Raises LoobenchError where it is a publication, or lies in one, and was not to be published into.
    """
    folder = named or (PUBLISHED if publish else MINE)
    if not publish and (found := publication(folder)):
        where = "is published" if found == folder.resolve() else f"lies in {found}, which is published"
        raise LoobenchError(
            f"{folder} {where} (it has a {MANIFEST}), and what is published stays as it is: leave --results out, which writes "
            f"into {MINE}, name another folder, or say --publish to change the publication"
        )
    return folder


def read(named: Path | None) -> Path:
    """The folder whose results are shown: the one that is named, else the published one, or one's own where nothing is."""
    return named or (PUBLISHED if PUBLISHED.is_dir() or not MINE.is_dir() else MINE)


def folder(text: str) -> Path:
    """The whole path of a folder that a person names. Raises LoobenchError where it is of nobody's home."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise LoobenchError(f"the folder {text!r} cannot be found: {str(error).rstrip('.')}; write its whole path") from error


def cache() -> Path:
    """The cache: LOOBENCH_CACHE, or the folder that the system has. Raises LoobenchError where it has none to make."""
    from platformdirs import user_cache_path

    if named := os.environ.get("LOOBENCH_CACHE"):
        return folder(named)

    advice = "name a folder by --cache or LOOBENCH_CACHE"
    try:
        (usual := user_cache_path("loobench")).mkdir(parents=True, exist_ok=True)
    except RuntimeError as error:
        raise LoobenchError(f"there is no home for a cache: {error}; or {advice}") from error
    except OSError as error:
        raise LoobenchError(f"the cache {usual} cannot be made: {error.strerror}; {advice}") from error
    return usual
