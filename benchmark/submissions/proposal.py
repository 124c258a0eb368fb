"""What a branch proposes, judged: `make verify-pr`, and the robot that judges pull requests.

    python -m benchmark.submissions.proposal [--base origin/main] [--head HEAD] [--bundle DIR] [--markdown FILE] [--nonce HEX]

The branch's own code of the harness is never used: its one source file and its results are taken out of git as a bundle, and
`check`, `audit` and `verify` run in a clone of the base, of which they replace what they propose.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.base import git
from benchmark.base.errors import LoobenchError
from benchmark.base.files import write as put
from benchmark.base.text import fenced, line, printable
from benchmark.base.text import markdown as escaped
from benchmark.core.syntax import source_digest
from benchmark.submissions import submission
from benchmark.submissions.bundle import MOST_BYTES, MOST_FILES, RESULT, SOURCE, Bundle, paths, read


@dataclass(frozen=True)
class Change:
    """A file that a branch adds or changes."""

    path: str
    mode: str
    status: str


@dataclass(frozen=True)
class Step:
    """A command that judged a proposal: what it is, its exit code, and what it said."""

    name: str
    code: int
    output: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge what a branch or a bundle proposes; the exit code is 0, 1 where a step did not hold, 2 for no submission."""
    options = parser().parse_args(arguments)
    try:
        held = judge(options)
    except LoobenchError as error:
        _tell(options.markdown, f"## Not a submission that can be verified\n\n{fenced(str(error))}\n")
        print(f"error: {line(error, 2000)}", file=sys.stderr)
        return 2
    return 0 if held else 1


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(
        "python -m benchmark.submissions.proposal", description="Judge what a branch or a bundle proposes."
    )
    top.add_argument("--base", default="origin/main", help="what the branch is proposed to (default: %(default)s)")
    top.add_argument("--head", default="HEAD", help="the branch (default: %(default)s)")
    top.add_argument("--bundle", type=Path, metavar="DIR", help="judge this bundle beside the commit --head instead")
    top.add_argument("--markdown", type=Path, metavar="FILE", help="write the verdict there")
    top.add_argument("--nonce", metavar="HEX", help="that of `loobench verify` (default: drawn now)")
    return top


def judge(options: argparse.Namespace) -> bool:
    """Judge all bundles that a branch proposes; whether every step held."""
    root = Path(git.ask(Path(), "rev-parse", "--show-toplevel").decode().strip())
    head = _commit(root, options.head)
    if options.bundle:
        base, found = head, [read(options.bundle.absolute())]
        return _judged(root, base, found, options)
    base = git.ask(root, "merge-base", _commit(root, options.base), head).decode().strip()
    with tempfile.TemporaryDirectory(prefix="loobench-") as folder:
        return _judged(root, base, list(bundles(root, base, head, Path(folder))), options)


def _judged(root: Path, base: str, found: Sequence[Bundle], options: argparse.Namespace) -> bool:
    parts, held = [], True
    for bundle in found:
        with tempfile.TemporaryDirectory(prefix="loobench-") as folder:
            tree, verdict = _beside(root, base, bundle, Path(folder) / "tree"), Path(folder) / "verdict.md"
            steps = [_step(tree, command) for command in _commands(base, bundle, verdict, options.nonce)]
            parts.append(_verdict(bundle, steps, verdict.read_text(errors="replace") if verdict.is_file() else ""))
        held = held and not any(step.code for step in steps)
    _tell(options.markdown, "\n".join(parts))
    return held


# ---- what a branch proposes ------------------------------------------------------------------------------------------
def bundles(root: Path, base: str, head: str, out: Path) -> Iterator[Bundle]:
    """A bundle in `out` for each source file that a branch adds or changes, or adds results of, from git alone.

    Raises LoobenchError where the branch does anything else, and where it adds no result.
    """
    changed = changes(root, base, head)
    refuse_others(changed)
    files = {change.path: _blob(root, head, change.path) for change in changed}
    sources = {source_digest(content): path for path, content in _sources(root, head).items()}
    proposed: dict[str, dict[str, bytes]] = {path: {} for path in files if SOURCE.fullmatch(path)}
    for path, content in files.items():
        if RESULT.fullmatch(path):
            proposed.setdefault(_source_of(path, content, sources), {})[path] = content
    for source, results in proposed.items():
        bundle = submission.pack(source, _blob(root, head, source), results, out)
        if source in files:
            submission.refuse_incomplete(bundle)
        yield bundle


def changes(root: Path, base: str, head: str) -> list[Change]:
    """The files that differ between two commits, renames being two changes."""
    parts = git.ask(root, "diff", "--raw", "-z", "--no-renames", "--no-abbrev", base, head).decode(errors="replace").split("\0")
    pairs = zip(parts[:-1:2], parts[1::2], strict=True)
    return [Change(path, facts.split()[1], facts.split()[4]) for facts, path in pairs]


def refuse_others(changed: Sequence[Change]) -> None:
    """Raise LoobenchError where a branch does anything but add or change plain files that a submission has."""
    if not any(RESULT.fullmatch(change.path) for change in changed):
        raise LoobenchError("the branch adds no result: a submission is what `loobench submit` writes")
    if len(changed) > MOST_FILES:
        raise LoobenchError(f"the branch changes {len(changed)} files: a submission has at most {MOST_FILES}")
    for change in changed:
        if change.mode != "100644" or not (SOURCE.fullmatch(change.path) or RESULT.fullmatch(change.path)):
            what = {"D": "deletes"}.get(change.status, "changes")
            raise LoobenchError(
                f"the branch {what} {change.path!a:.100}: a submission adds plain files estimators/<file>.py and "
                "results/<task>/<estimator>.json alone; propose all else in a pull request of its own"
            )


def _sources(root: Path, head: str) -> dict[str, bytes]:
    """The files of the folder `estimators` at a commit."""
    names = git.ask(root, "ls-tree", "-z", "--name-only", head, "estimators/").decode(errors="replace").split("\0")
    return {name: _blob(root, head, name) for name in names if SOURCE.fullmatch(name)}


def _source_of(path: str, content: bytes, sources: Mapping[str, str]) -> str:
    """The source file of a result, by the digest that it states."""
    try:
        stated = json.loads(content)["estimator"]["source"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LoobenchError(f"{path} is no result: {type(error).__name__}; write the bundle by `loobench submit`") from error
    if not isinstance(stated, str) or stated not in sources:
        raise LoobenchError(f"{path} is of no file in estimators/: its source digest is {stated!a:.70}")
    return sources[stated]


def _blob(root: Path, commit: str, path: str) -> bytes:
    if (size := int(git.ask(root, "cat-file", "-s", f"{commit}:{path}"))) > MOST_BYTES:
        raise LoobenchError(f"{path} has {size} bytes: a file of a submission has at most {MOST_BYTES}")
    return git.ask(root, "cat-file", "blob", f"{commit}:{path}")


def _commit(root: Path, name: str) -> str:
    try:
        return git.ask(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except LoobenchError as error:
        raise LoobenchError(f"git knows no commit {name!a:.100}: fetch it, or say --base and --head") from error


# ---- what is made of it ----------------------------------------------------------------------------------------------
def _beside(root: Path, base: str, bundle: Bundle, tree: Path) -> Path:
    """A clone of the base whose results have the bundle's, and whose estimators lack a file of its name."""
    git.run(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(tree))
    git.run(tree, "checkout", "--quiet", "--detach", base)
    own, *others = paths(bundle)
    (tree / own).unlink(missing_ok=True)  # so that it is a stranger's file to the registry, also where it is a new version
    for path in others:
        put(tree / path, (bundle.folder / path).read_bytes())
    return tree


def _commands(base: str, bundle: Bundle, markdown: Path, nonce: str | None) -> list[list[str]]:
    """What judges a bundle, each step also where one before it did not hold."""
    return [
        ["check", str(bundle.source)],
        ["audit", "--base", base, "--submission"],
        ["verify", str(bundle.folder), "--markdown", str(markdown), *(["--nonce", nonce] if nonce else [])],
    ]


def _step(tree: Path, command: Sequence[str]) -> Step:
    """Run a command with the base's code."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    print(f"\n$ loobench {' '.join(command)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *command],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    print(printable(output), flush=True)
    return Step(f"loobench {command[0]}", done.returncode, output)


def _verdict(bundle: Bundle, steps: Sequence[Step], table: str) -> str:
    """A verdict as Markdown; what commands said stands in fences, for it may quote a stranger."""
    held = not any(step.code for step in steps)
    rows = [f"| {step.name} | {'holds' if not step.code else f'does not hold ({step.code})'} |" for step in steps]
    title = f"## {escaped(', '.join(bundle.names))}: {'every check holds' if held else 'a check does not hold'}"
    said = [f"<details><summary>{step.name}</summary>\n\n{fenced(step.output)}\n\n</details>" for step in steps]
    return "\n".join([title, "", "| step | |", "|---|---|", *rows, "", table, "", *said, ""])


def _tell(markdown: Path | None, text: str) -> None:
    if markdown:
        put(markdown, text.encode(errors="replace"))
    else:
        print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
