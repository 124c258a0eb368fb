"""The commands of a submitter, and of who verifies. Imports of what is slow happen inside them, as in cli.py."""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import MINE, PUBLISHED
from benchmark.base.text import is_line, line

FAILED = 1  # exit code
WIDTH = 88  # characters of what was found, in a line


# ---- the sandbox ---------------------------------------------------------------------------------------------------
def sandbox_options(command: argparse.ArgumentParser, *, everyone: bool = True) -> None:
    """The options of all commands that run strangers' code; `everyone`: of those that may run all estimators confined."""
    group = command.add_mutually_exclusive_group()
    if everyone:
        group.add_argument("--sandbox", action="store_true", help="run all estimators in the sandbox, not strangers' only")
    group.add_argument("--no-sandbox", action="store_true", help="run strangers' files as you, with your files and network")
    command.add_argument(
        "--time-limit", type=float, default=600.0, metavar="SECONDS", help="of the sandbox, for one seed of a task"
    )
    command.add_argument("--traceback", action="store_true", help="show all lines that a failing estimator went through")


def rules(options: argparse.Namespace, memory: int | None = None) -> Any:
    """Who is run in the sandbox, and with what. Raises LoobenchError for a limit that is none."""
    from benchmark.base import machine
    from benchmark.sandbox.client import Rules
    from benchmark.sandbox.process import Allowance

    if not 0 < options.time_limit < 1e7:
        raise LoobenchError(f"--time-limit takes seconds, more than 0, got {options.time_limit:g}")
    held = memory or min(4 << 30, machine.free_memory("cpu") // 2)
    return Rules(not options.no_sandbox, getattr(options, "sandbox", False), Allowance(options.time_limit, held))


# ---- who -------------------------------------------------------------------------------------------------------------
def computed_by(options: argparse.Namespace) -> str:
    """Who uses this program: as --by says, else as git knows, else "unknown". Raises LoobenchError for what is no name."""
    from benchmark.base import git

    asked = getattr(options, "by", None)
    name = line(git.user() or "unknown", 100) if asked is None else str(asked)
    if not (name.strip() and is_line(name, 100)):
        raise LoobenchError(f"--by takes 1 to 100 printable characters, got {name!a:.120}")
    return name


# ---- new -------------------------------------------------------------------------------------------------------------
def new_options(command: argparse.ArgumentParser) -> None:
    """The options of `loobench new`."""
    command.add_argument("name", metavar="NAME", help="of the estimator, as my-estimator")
    command.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")


def new_command(options: argparse.Namespace) -> int:
    """`loobench new`."""
    from benchmark.submissions import scaffold

    source, test = scaffold.write(options.name, options.folder)
    print(f"wrote {source}, which runs as it stands, and {test}\n")
    print("Before it can be submitted, say in its first line what the method does, and in `paper` where it is from.\n\nNext:\n")
    for command in (["run", "--suite", "quick", "--estimator", str(source)], ["check", str(source)]):
        print(f"    {shlex.join(['loobench', *command])}")
    print(f"    {shlex.join(['python', '-m', 'pytest', str(test)])}")
    return 0


# ---- check -----------------------------------------------------------------------------------------------------------
def check_options(command: argparse.ArgumentParser) -> None:
    """The options of `loobench check`."""
    command.add_argument("estimator", metavar="NAME|FILE.py[:NAME]")
    sandbox_options(command, everyone=False)


def check_command(options: argparse.Namespace) -> int:
    """`loobench check`."""
    from benchmark.submissions import check

    found = check.check(options.estimator, rules(options))
    _print_findings(found)
    if any(map(check.broken, found.values())):
        print("\na rule is broken: docs/submitting.md says what each one asks", file=sys.stderr)
        return FAILED
    print(f"\nall rules are kept; next: {_loobench('run', '--suite', 'core', '--estimator', options.estimator)}")
    return 0


def _loobench(*arguments: str) -> str:
    return shlex.join(["loobench", *arguments])


def _print_findings(found: dict[str, list[Any]]) -> None:
    from tabulate import tabulate

    from benchmark.submissions import check

    for name, findings in found.items():
        print(f"\n{name}\n")
        print(tabulate(check.lines(findings), check.HEADERS, disable_numparse=True, maxcolwidths=[None, None, WIDTH]))


# ---- submit ----------------------------------------------------------------------------------------------------------
def submit_options(command: argparse.ArgumentParser) -> None:
    """The options of `loobench submit`."""
    command.add_argument("estimator", metavar="NAME|FILE.py[:NAME]")
    command.add_argument("--results", type=Path, default=MINE, help="folder of its result files (default: %(default)s)")
    command.add_argument("--out", type=Path, default=Path("submission"), help="folder for the bundle (default: %(default)s)")
    command.add_argument("--by", metavar="NAME", help="who claims the results (default: `git config user.name`)")
    command.add_argument("--open", action="store_true", help="make branch and commit, push, and open the pull request by gh")
    sandbox_options(command, everyone=False)


def submit_command(options: argparse.Namespace) -> int:
    """`loobench submit`."""
    from tabulate import tabulate

    from benchmark.submissions import check, submission

    if (by := computed_by(options)) == "unknown":
        raise LoobenchError("who claims these results? git knows no name here: say --by 'Your Name'")
    found = check.check(options.estimator, rules(options))
    if any(map(check.broken, found.values())):
        _print_findings(found)
        print("\na rule is broken: nothing is submitted; docs/submitting.md says what each one asks", file=sys.stderr)
        return FAILED
    bundle = submission.write(list(found), options.results, _source(options.estimator), options.out, by)
    rows = [[result.name, result.estimator.name, _figure(result)] for result in bundle.results]
    print(tabulate(rows, ["task", "estimator", "claimed"], disable_numparse=True))
    print(f"\n{bundle.folder} holds {bundle.source.name}, {len(rows)} results and a manifest")
    commands = pull_request(bundle)
    if options.open:
        return _open(bundle, commands)
    print("\nIn a clone of your fork of the repository, this proposes it:\n")
    print("\n".join(f"    {shlex.join(command)}" for command in commands))
    return 0


def _figure(result: Any) -> str:
    """What a result claims, or what its cells say instead."""
    said = sorted({cell.status for cell in result.cells.values() if cell.status != "ok"})
    value = [] if result.claimed.value is None else [f"{result.claimed.value:.3f}"]
    return ", ".join([*value, *said])


def _source(name: str) -> Path:
    """The file of an estimator. Raises LoobenchError where it is not known."""
    from benchmark.core import registry

    if (path := name.partition(":")[0]).endswith(".py"):
        return Path(path)
    if name not in registry.sources():
        raise LoobenchError(f"the file of {name} is not known: give FILE.py:{name}")
    return places.ROOT / registry.sources()[name]


def pull_request(bundle: Any) -> list[list[str]]:
    """The commands that make a bundle a pull request, run in a clone of one's fork."""
    from benchmark.scores import results

    name, source = bundle.folder.name, f"estimators/{bundle.source.name}"
    branch, title = f"submit-{name}", f"Submission: {', '.join(bundle.names)}"
    files = [f"results/*/{results.file_name(one)}" for one in bundle.names]
    body = "A submission, as docs/submitting.md has it. Every result carries what it claims."
    return [
        ["git", "switch", "--create", branch],
        ["cp", str(bundle.source), source],
        ["cp", "-R", f"{bundle.folder / 'results'}/.", "results"],
        ["git", "add", "--", source, *files],
        ["git", "commit", "--message", title, "--", source, *files],
        ["git", "push", "--set-upstream", "origin", branch],
        ["gh", "pr", "create", "--title", title, "--body", body],
    ]


def _open(bundle: Any, commands: Sequence[Sequence[str]]) -> int:
    """Run the commands of the pull request. Raises LoobenchError where one fails or cannot be run."""
    from benchmark.base import git

    if not Path("estimators", "sgd_ie.py").is_file():
        raise LoobenchError("--open works in a clone of the repository: go to its top folder, or leave --open out")
    if shutil.which("gh") is None:
        raise LoobenchError(
            f"--open needs the program gh (https://cli.github.com), which is not here; {bundle.folder} is written: "
            "leave --open out for the commands to run by hand"
        )
    for command in commands:
        print(f"$ {shlex.join(command)}", flush=True)
        if code := subprocess.run(command, check=False, env=git.environment()).returncode:
            raise LoobenchError(f"`{shlex.join(command)}` failed with {code}: see above, and go on from there by hand")
    return 0


# ---- verify ----------------------------------------------------------------------------------------------------------
def verify_options(command: argparse.ArgumentParser) -> None:
    """The options of `loobench verify`."""
    command.add_argument("inputs", nargs="+", type=Path, metavar="BUNDLE|RESULT.json", help="folders of bundles, result files")
    command.add_argument(
        "--estimator", action="append", default=[], metavar="FILE.py[:NAME]", help="source of result files, if not registered"
    )
    command.add_argument(
        "--cheap", type=float, default=60.0, metavar="SECONDS", help="compute all cells again that took less (default: 60)"
    )
    command.add_argument("--sample", type=int, default=2, metavar="K", help="so many of the others (default: %(default)s)")
    command.add_argument("--fresh", type=int, default=8, metavar="F", help="fresh seeds of each task (default: %(default)s)")
    command.add_argument(
        "--reference", action="append", metavar="NAME", help="judge fresh seeds beside it (default: six cheap methods)"
    )
    command.add_argument("--nonce", metavar="HEX", help="decides sample and fresh seeds (default: drawn now)")
    command.add_argument("--by", metavar="NAME", help="who verifies (default: `git config user.name`)")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the verdict as Markdown")
    command.add_argument("--write", action="store_true", help="write verdicts into result files (default: only print them)")
    command.add_argument("--results", type=Path, metavar="DIR", help="with --write: where a bundle's results are put")
    command.add_argument(
        "--publish", action="store_true", help=f"with --write: change published results; a bundle's are put into {PUBLISHED}"
    )
    sandbox_options(command, everyone=False)


def verify_command(options: argparse.Namespace, means: Callable[[str], Any], bar: Any) -> int:
    """`loobench verify`; `means` of a device and `bar` are those of `loobench run`."""
    from dataclasses import replace

    from benchmark.base import files
    from benchmark.submissions import verdicts, verify
    from benchmark.submissions.subjects import subjects

    inquiry, folder = _inquiry(options, means), _folder(options)
    _probe(options, folder)
    found = subjects(options.inputs, options.estimator, replace(rules(options), everyone=not options.no_sandbox))
    if folder:
        verify.refuse_taken(found, folder)
    print(f"note: --nonce {inquiry.nonce} repeats this sample and these fresh seeds", file=sys.stderr)
    report = verify.verify(found, inquiry, bar)
    written = verify.save(found, report, folder) if options.write else []
    if options.markdown:
        files.write(options.markdown, verdicts.markdown(report).encode())
    if written:
        print(f"note: wrote {len(written)} result files", file=sys.stderr)
    print(verdicts.table(report))
    return 0 if report.verdict == verdicts.VERIFIED else FAILED


def _inquiry(options: argparse.Namespace, means: Callable[[str], Any]) -> Any:
    """How much is computed again. Raises LoobenchError for bad options."""
    import secrets

    from benchmark.submissions.inquiry import REFERENCES, Inquiry, references

    return Inquiry(
        nonce=secrets.token_hex(8) if options.nonce is None else options.nonce,
        cache=options.cache,
        means=means,
        cheap=options.cheap,
        sample=options.sample,
        fresh=options.fresh,
        references=references(options.reference or REFERENCES),
        by=computed_by(options),
    )


def _folder(options: argparse.Namespace) -> Path | None:
    """Where the results of bundles are written, if they are. Raises LoobenchError for what is published, unless asked for."""
    if not options.write:
        if options.results or options.publish:
            raise LoobenchError("--results and --publish say where verdicts are written: add --write, or leave them out")
        return None
    for at in options.inputs:
        if not at.is_dir():
            places.written(at.absolute().parent.parent, publish=options.publish)
    if not any(at.is_dir() for at in options.inputs):
        return None
    if not (options.results or options.publish):
        raise LoobenchError("--write puts the results of a bundle into a folder: name it by --results")
    return places.written(options.results, publish=options.publish)


def _probe(options: argparse.Namespace, results: Path | None) -> None:
    """Raise LoobenchError where what is to be read is not there, or what is to be written cannot be."""
    from benchmark.base import files

    if lacking := [at for at in options.inputs if not at.exists()]:
        raise LoobenchError(f"{lacking[0]} is not there: give the folder of a bundle, or a result file")
    written = [options.cache, *([results] if results else [])]
    for folder in [*written, *([options.markdown.absolute().parent] if options.markdown else [])]:
        files.probe(folder)
