"""Git, asked about the folder that is named: whatever the environment and the repository's own settings would have it do."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmark.base.errors import LoobenchError

ELSEWHERE = (  # what points git to another repository, index, history or settings: git exports it to every hook
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_INDEX_VERSION", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CEILING_DIRECTORIES", "GIT_IMPLICIT_WORK_TREE"),
    *("GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_INTERNAL_SUPER_PREFIX"),
    *("GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_ATTR_SOURCE", "GIT_QUARANTINE_PATH"),
    *("GIT_DEFAULT_HASH", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
)
NUMBERED = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
QUIET = ("--no-optional-locks", "--no-replace-objects", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def environment() -> dict[str, str]:
    """The environment of this process, without what points git elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in ELSEWHERE and not name.startswith(NUMBERED)}


def run(folder: Path, *arguments: str, options: Sequence[str] = ()) -> bytes:
    """What a git command in a folder prints. Raises LoobenchError where git does not start or fails, with what it says."""
    command = ["git", "-C", str(folder), *options, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment(), stdin=subprocess.DEVNULL)
    except OSError as error:
        raise LoobenchError(f"git cannot be run: {error.strerror}") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:300] or f"exit code {done.returncode}"
        raise LoobenchError(f"git {arguments[0]} failed: {said} (in {folder}, of {arguments[-1]!a:.100})")
    return done.stdout


def ask(folder: Path, *arguments: str) -> bytes:
    """What git says of the repository that a folder is in, whoever owns that: nothing is written, no hook is run.

    Raises LoobenchError as `run` does.
    """
    return run(folder, *arguments, options=(*QUIET, "-c", f"safe.directory={_top(folder)}"))


def _top(folder: Path) -> Path:
    """The folder whose owner git looks at: the nearest one upwards that has a repository."""
    whole = folder.resolve()
    return next((at for at in (whole, *whole.parents) if os.path.lexists(at / ".git")), whole)


def user() -> str | None:
    """The name that git knows of who sits here."""
    try:
        return run(Path(), "config", "user.name").decode(errors="replace").strip() or None
    except LoobenchError:
        return None
