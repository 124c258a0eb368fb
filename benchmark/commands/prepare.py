"""`loobench prepare`: data sets, before they are needed."""

from benchmark.base.errors import LoobenchError
from benchmark.commands import options as o


@o.command(
    o.argument("datasets", "[NAME]...", nargs=-1),
    o.repeated("--suite", metavar="SUITE", help="Those of a suite's tasks; may be repeated."),
    o.CACHE,
    examples=("loobench prepare adult mnist", "loobench prepare --suite core"),
)
def command(options: o.Options) -> int:
    """Download data sets ahead; `loobench list datasets` has their names."""
    from benchmark.base.files import probe
    from benchmark.tasks import data, suites

    names = [*options.datasets, *(task.dataset for name in options.suite for task in suites.suite(name).tasks)]
    if not names:
        raise LoobenchError("nothing to prepare: name data sets, or a suite by --suite; see `loobench list datasets`")
    for name in names:
        data.source(name)
    probe(options.cache)
    for name in dict.fromkeys(names):
        data.load(name, options.cache)
        print(f"{name}: ready, content digest {data.source(name).digest}")
    return 0
