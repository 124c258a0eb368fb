"""What a work tree's results/ change of a git revision's, and whether that is allowed: for whoever reviews them."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from benchmark.base import git
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import LOCKS, read, unix
from benchmark.base.places import MANIFEST
from benchmark.base.text import markdown
from benchmark.publishing import manifest
from benchmark.scores import store
from benchmark.scores.results import Result

REVISION = r"[A-Za-z0-9_.@/][A-Za-z0-9_.@/~^{}-]*"
LARGEST = 1_000_000  # bytes of a result file
HEADERS = ("file", "what", "allowed")


@dataclass(frozen=True)
class Finding:
    """What became of a file, and whether it may."""

    path: str  # relative to the folder of results
    said: str
    allowed: bool = True


@dataclass(frozen=True)
class Base:
    """The files of a folder at a git revision: path relative to the folder -> digest of its content."""

    folder: Path
    commit: str
    blobs: Mapping[str, str]

    def result(self, name: str) -> Result:
        """A result as it was. Raises DamagedFile where it was not whole, or of another schema."""
        content = asked(self.folder, "cat-file", "blob", self.blobs[name])
        return store.parse(content, f"{name} at {self.commit[:12]}", Result)


# ---- git -------------------------------------------------------------------------------------------------------------
def base(folder: Path, revision: str) -> Base:
    """What a folder held at a revision. Raises LoobenchError where git has no such revision, or there is no git."""
    if not re.fullmatch(REVISION, revision):
        raise LoobenchError(f"--base takes a git revision such as origin/main or a commit's digest, got {revision!r:.100}")
    if not folder.is_dir():
        raise LoobenchError(f"there is no folder {folder}: name that of the results by --results")
    commit = asked(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    listed = asked(folder, "ls-tree", "-r", "-z", "--full-tree", f"{commit}:{prefix(folder)}").decode(errors="replace")
    entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
    return Base(folder, commit, {name: facts.split()[2] for facts, _, name in entries})


def prefix(folder: Path) -> str:
    """The way from the top of the repository to a folder in it."""
    return asked(folder, "rev-parse", "--show-prefix").decode().strip().rstrip("/")


def asked(folder: Path, *arguments: str) -> bytes:
    """What git says. Raises LoobenchError where it does not know what is asked."""
    try:
        return git.ask(folder, *arguments)
    except LoobenchError as error:
        raise LoobenchError(f"{error}; fetch the revision, or name another") from error


def blob(content: bytes, like: str) -> str:
    """The digest that git gives to a content, of the kind of another digest."""
    kind = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(content) + content).hexdigest()


# ---- findings --------------------------------------------------------------------------------------------------------
def audit(folder: Path, revision: str, *, submission: bool = False) -> list[Finding]:
    """What changed under a folder of results since a revision, in order of path; nothing where nothing did.

    A published score may not change without a new version of its estimator. In a `submission` what is there already stays as
    it is but for new versions of what its submitter claims, no limits come, and nothing is verified: that is for those who
    compute it again. Raises LoobenchError for a revision that git does not know.
    """
    before, now = base(folder, revision), {*files(folder)}
    names = sorted((now | before.blobs.keys()) - {MANIFEST})
    found = (finding(name, before, name in now, submission=submission) for name in names)
    return [one for one in found if one]


def files(folder: Path) -> Iterator[str]:
    """All files under a folder but lock files, and links, which are not followed, by path relative to it."""
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if (Path(at) / name) != folder / LOCKS]
        links = [name for name in folders if (Path(at) / name).is_symlink()]
        yield from ((Path(at) / name).relative_to(folder).as_posix() for name in (*names, *links))


def finding(name: str, before: Base, here: bool, *, submission: bool) -> Finding | None:
    """What became of one file; None where it is as it was."""
    known, at = name in before.blobs, before.folder / name
    if not here:
        return Finding(name, "removed", not submission)
    if at.is_symlink() or not at.is_file() or at.stat().st_size > LARGEST:
        return Finding(name, f"no plain file of at most {LARGEST} bytes", allowed=False)
    if known and before.blobs[name] in (blob(text, before.blobs[name]) for text in (read(at), unix(read(at)))):
        return None
    if is_limits(name):
        return limits(name, at, known, submission=submission)
    try:
        result = placed(name, before.folder)
        return changed(name, before.result(name), result, submission) if known else added(name, result, submission)
    except DamagedFile as error:
        return Finding(name, str(error), allowed=False)


def is_limits(name: str) -> bool:
    """Whether a file is where limits lie."""
    return "/" not in name and name.endswith(".json")


def limits(name: str, at: Path, known: bool, *, submission: bool) -> Finding:
    """New or other limits, which only maintainers write."""
    try:
        store.load_limits(at)
    except DamagedFile as error:
        return Finding(name, str(error), allowed=False)
    return Finding(name, f"limits {'changed' if known else 'added'}", not submission)


def placed(name: str, folder: Path) -> Result:
    """The result of a file. Raises DamagedFile where it is none, or lies elsewhere than its content says."""
    if not re.fullmatch(r"[^/]+/[^/]+\.json", name):
        raise DamagedFile("neither a result nor limits: results lie in <task>/<estimator>.json")
    found = store.load(folder / name)
    if found.file != name:
        raise DamagedFile(f"holds the result of {found.file}")
    return found


def added(name: str, result: Result, submission: bool) -> Finding:
    """A new result: of a submission it must be claimed by somebody, and not verified by the same."""
    faults = [*unfit(result)] if submission else []
    who = f" by {result.claimed.by}" if result.claimed else ""
    return Finding(name, "; ".join([f"added{who}", *faults]), not faults)


def unfit(result: Result) -> Iterator[str]:
    """What a result must not or must have to be sent by a stranger."""
    if result.verified is not None:
        yield "carries a verification, which a submission may not bring"
    if result.claimed is None:
        yield "lacks a claim, as if maintainers had computed it"
    elif manifest.differ(result.claimed.value, found := ranked(result)):
        yield f"claims {manifest.shown(result.claimed.value)}, but its seeds say {manifest.shown(found)}"


def ranked(result: Result) -> float | None:
    """The mean over seeds of the score that ranks; None where a seed has none."""
    known = [value for seed in result.cells if (value := manifest.score(result, seed)) is not None]
    return fmean(known) if known and len(known) == len(result.cells) else None


def changed(name: str, before: Result, now: Result, submission: bool) -> Finding:
    """A result that is another: its scores under the same version, and in a submission who may change what."""
    old, new = (manifest.published(one, b"") for one in (before, now))
    scores = [*manifest.changes(old, new)]
    renewed = old.version != new.version
    silent = bool(scores) and (not renewed if submission else manifest.same_version(old, new))
    faults = [*owned(before), *unfit(now)] if submission else []
    version = f"version {old.version} to {new.version}" if renewed else f"version {new.version} as before"
    said = [*(scores or ["changed, its scores are as before"]), version, *faults]
    return Finding(name, "; ".join(said), not silent and not faults)


def owned(before: Result) -> Iterator[str]:
    """Why a submission may not change a result."""
    if before.claimed is None:
        yield "is the maintainers'"


# ---- the table -------------------------------------------------------------------------------------------------------
def table(found: Sequence[Finding]) -> str:
    """Findings as a Markdown table that no name breaks out of, what is not allowed first."""
    ordered = sorted(found, key=lambda one: (one.allowed, one.path))
    rows = [(markdown(one.path), markdown(one.said), "yes" if one.allowed else "**no**") for one in ordered]
    return str(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True))
