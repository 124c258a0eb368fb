"""`loobench verify`: claims, computed again by somebody who need not trust them."""

import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import PUBLISHED
from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(
    o.argument("inputs", "BUNDLE|RESULT.json...", nargs=-1, required=True, type=Path),
    o.repeated("--estimator", metavar="FILE.py[:NAME]", help="Source of result files, if not registered."),
    o.option("--cheap", type=float, default=60.0, metavar="SECONDS", help="Compute all cells again that took less."),
    o.option("--sample", type=int, default=2, metavar="K", help="So many of the others."),
    o.option("--fresh", type=int, default=8, metavar="F", help="Fresh seeds of each task."),
    o.repeated("--reference", metavar="NAME", help="Judge fresh seeds beside it.  [default: six cheap methods]"),
    o.option("--nonce", metavar="HEX", help="Decides sample and fresh seeds.  [default: drawn now]"),
    o.by("verifies"),
    o.option("--markdown", type=Path, metavar="FILE", help="Write the verdict as Markdown."),
    o.flag("--write", help="Write verdicts into result files, not only print them."),
    o.option("--results", type=Path, metavar="DIR", help="With --write: where a bundle's results are put."),
    o.flag("--publish", help=f"With --write: change published results; a bundle's are put into {PUBLISHED}."),
    *(*o.STRANGERS, *o.MEANS, o.CACHE),
    examples=("loobench verify submission/my-estimator", "loobench verify results/quick-digits-mlp-sgd/sgd-ie.json"),
)
def command(options: o.Options) -> int:
    """Compute claims again here, on their seeds and on fresh ones, and judge them."""
    from benchmark.base import files
    from benchmark.submissions import verdicts, verify
    from benchmark.submissions.subjects import subjects

    inquiry, folder = _inquiry(options), _folder(options)
    _probe(options, folder)
    found = subjects(options.inputs, options.estimator, replace(o.rules(options), everyone=not options.no_sandbox))
    if folder:
        verify.refuse_taken(found, folder)
    terminal.tell("note", f"--nonce {inquiry.nonce} repeats this sample and these fresh seeds")
    report = verify.verify(found, inquiry, terminal.bar)
    written = verify.save(found, report, folder) if options.write else []
    if options.markdown:
        files.write(options.markdown, verdicts.markdown(report).encode())
    if written:
        terminal.tell("note", f"wrote {len(written)} result files")
    terminal.table(verdicts.HEADERS, verdicts.lines(report))
    print(verdicts.below(report))
    return 0 if report.verdict == verdicts.VERIFIED else o.FAILED


def _inquiry(options: o.Options) -> Any:
    """How much is computed again. Raises LoobenchError for bad options."""
    from benchmark.submissions.inquiry import REFERENCES, Inquiry, references

    return Inquiry(
        nonce=secrets.token_hex(8) if options.nonce is None else options.nonce,
        cache=options.cache,
        means=partial(o.means, options),
        cheap=options.cheap,
        sample=options.sample,
        fresh=options.fresh,
        references=references(options.reference or REFERENCES),
        by=o.computed_by(options),
    )


def _folder(options: o.Options) -> Path | None:
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


def _probe(options: o.Options, results: Path | None) -> None:
    """Raise LoobenchError where what is to be read is not there, or what is to be written cannot be."""
    from benchmark.base import files

    if lacking := [at for at in options.inputs if not at.exists()]:
        raise LoobenchError(f"{lacking[0]} is not there: give the folder of a bundle, or a result file")
    written = [options.cache, *([results] if results else [])]
    for folder in [*written, *([options.markdown.absolute().parent] if options.markdown else [])]:
        files.probe(folder)
