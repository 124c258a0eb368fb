"""`loobench audit`: what a change does to published results."""

from pathlib import Path

from benchmark.base.places import PUBLISHED
from benchmark.commands import options as o


@o.command(
    o.option("--base", required=True, metavar="REV", help="Git revision to compare with, as origin/main."),
    o.flag("--submission", help="Judge it as a stranger's: claimed, not verified, nothing of others changed."),
    o.option("--results", type=Path, default=PUBLISHED, metavar="DIR", help="Folder."),
    examples=("loobench audit --base origin/main", "loobench audit --base origin/main --submission"),
)
def command(options: o.Options) -> int:
    """What results/ changes of a git revision, and whether it may; as a Markdown table."""
    from benchmark.publishing import audit

    found = audit.audit(options.results, options.base, submission=options.submission)
    bad = sum(not one.allowed for one in found)
    if not found:
        print(f"{options.results} is as at {options.base}")
        return 0
    print(audit.table(found))
    print(f"\n{len(found)} files differ from {options.base}, {bad} in a way that is not allowed")
    return o.FAILED if bad else 0
