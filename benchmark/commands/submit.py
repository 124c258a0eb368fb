"""`loobench submit`: from result files to a pull request."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import MINE
from benchmark.commands import options as o
from benchmark.commands import terminal
from benchmark.commands.check import checked


@o.command(
    o.ESTIMATOR,
    o.option("--results", type=Path, default=MINE, metavar="DIR", help="Folder of its result files."),
    o.option("--out", type=Path, default="submission", metavar="DIR", help="Folder for the bundle."),
    o.by("claims the results"),
    o.flag("--open", help="Make branch and commit, push, and open the pull request by gh."),
    *o.STRANGERS,
    examples=("loobench submit my_estimator.py", "loobench submit my_estimator.py --by 'Ada Lovelace' --open"),
)
def command(options: o.Options) -> int:
    """Write the bundle of a submission; propose it."""
    from benchmark.submissions import check_task, submission

    if check_task.is_task(options.estimator):
        raise LoobenchError(f"{options.estimator} is a task, whose results stay yours: only estimators are submitted")
    if (by := o.computed_by(options)) == "unknown":
        raise LoobenchError("who claims these results? git knows no name here: say --by 'Your Name'")
    if (found := checked(options)) is None:
        print("\na rule is broken: nothing is submitted; docs/submitting.md says what each one asks", file=sys.stderr)
        return o.FAILED
    bundle = submission.write(list(found), options.results, _source(options.estimator), options.out, by)
    rows = [[result.name, result.estimator.name, _figure(result)] for result in bundle.results]
    terminal.table(["task", "estimator", "claimed"], rows)
    print(f"\n{bundle.folder} holds {bundle.source.name}, {len(rows)} results and a manifest")
    commands = pull_request(bundle)
    if options.open:
        return _open(bundle, commands)
    print("\nIn a clone of your fork of the repository, this proposes it:\n")
    print("\n".join(f"    {shlex.join(words)}" for words in commands))
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
    for words in commands:
        print(f"$ {shlex.join(words)}", flush=True)
        if code := subprocess.run(words, check=False, env=git.environment()).returncode:
            raise LoobenchError(f"`{shlex.join(words)}` failed with {code}: see above, and go on from there by hand")
    return 0
