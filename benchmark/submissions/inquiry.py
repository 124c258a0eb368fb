"""Which cells are computed again: all cheap ones, a sample of the others, fresh seeds, and one cell twice."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.base.text import is_line, quoted
from benchmark.core import registry
from benchmark.core.declaration import Estimator
from benchmark.retraining.chunks import Means
from benchmark.scores.results import Cell
from benchmark.submissions.subjects import Subject
from benchmark.tasks.definition import Task

REFERENCES = ("sgd-ie", "grad-dot", "adam-ie", "if-direct-gauss-newton", "tracin", "loss")  # of each family a cheap one
FIRST_FRESH, LAST_FRESH = 100, 2**31 - 1  # the command line's seeds end before the first
CHEAP_TRUTH, CHEAPEST = 10.0, 6  # fresh seeds are for tasks whose truth takes so many seconds, and for so many in any case


@dataclass(frozen=True)
class Inquiry:
    """How much is computed again, with what, and who does it."""

    nonce: str  # decides the sample and the fresh seeds
    cache: Path
    means: Callable[[str], Means]  # of a device
    cheap: float = 60.0  # cells that take so many seconds, with their truth, are all computed again
    sample: int = 2  # so many of the others, of each estimator
    fresh: int = 8  # seeds of each cheap task
    references: tuple[Estimator, ...] = ()
    by: str = "unknown"

    def __post_init__(self) -> None:
        """Raise LoobenchError for what cannot be asked."""
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.nonce):
            raise LoobenchError(f"--nonce takes 8 to 64 digits 0-9 and a-f, got {self.nonce!a:.80}")
        if not (self.cheap >= 0 and self.sample >= 0 and 1 <= self.fresh <= 100):
            given = f"{self.cheap:g}, {self.sample} and {self.fresh}"
            raise LoobenchError(f"--cheap and --sample take 0 or more, --fresh 1 to 100, got {given}")
        if not (self.by and is_line(self.by, 100)):
            raise LoobenchError(f"--by takes 1 to 100 printable characters, got {quoted(self.by)}")


@dataclass(frozen=True)
class Place:
    """One seed of a task, on a class of device."""

    task: Task
    device: str
    seed: int


Found = dict[Place, dict[str, Cell] | str]  # the cell of each estimator by name; or why there is no truth
Chosen = Sequence[tuple[Subject, int]]  # with the seed of a cell


def references(names: Sequence[str]) -> tuple[Estimator, ...]:
    """The registered estimators that fresh seeds are judged beside. Raises LoobenchError for names that are not registered."""
    if files := [name for name in names if name.partition(":")[0].endswith(".py")]:
        raise LoobenchError(f"--reference takes registered estimators, got {files[0]}")
    return tuple(registry.resolve(names)) if names else ()


def choose(found: Sequence[Subject], inquiry: Inquiry) -> list[tuple[Subject, int]]:
    """Of each estimator all cheap cells and a random sample of the others, which the nonce decides, by task and seed."""
    cells = sorted(((one, int(seed)) for one in found for seed in one.result.cells), key=_order)
    by_name = groupby(cells, lambda cell: cell[0].estimator.name)
    return [cell for name, some in by_name for cell in _sampled(name, list(some), inquiry)]


def _order(cell: tuple[Subject, int]) -> tuple[str, str, int]:
    return cell[0].estimator.name, cell[0].result.name, cell[1]


def _sampled(name: str, cells: Chosen, inquiry: Inquiry) -> list[tuple[Subject, int]]:
    costly = [place for place, cell in enumerate(cells) if _seconds(*cell) > inquiry.cheap]
    drawn = stream(f"verify/{inquiry.nonce}/{name}", 0).permutation(len(costly))[: inquiry.sample]
    left = {*costly} - {costly[place] for place in drawn}
    return [cell for place, cell in enumerate(cells) if place not in left]


def _seconds(subject: Subject, seed: int) -> float:
    """What a cell took, with its truth, as claimed."""
    cell = claimed_cell(subject, seed)
    return cell.exact_seconds + cell.seconds


def claimed_cell(subject: Subject, seed: int) -> Cell:
    """The cell of a seed, as claimed."""
    return subject.result.cells[str(seed)]


def place_of(subject: Subject, seed: int) -> Place:
    """Where a cell of a result is computed again."""
    return Place(subject.task, subject.result.device, seed)


def cell_of(found: Found, subject: Subject, seed: int, name: str = "") -> Cell | None:
    """A cell that was computed here, of the subject's estimator or another; None where it was not, or there is no truth."""
    cells = found.get(place_of(subject, seed), "")
    return None if isinstance(cells, str) else cells.get(name or subject.estimator.name)


def fresh_cells(chosen: Chosen, here: Found, inquiry: Inquiry) -> list[tuple[Subject, int]]:
    """Fresh seeds of each estimator's cheap tasks: those with a claim that holds an answer, here too."""
    answered = [(subject, cell) for subject, seed in chosen if (cell := cell_of(here, subject, seed)) and cell.status == "ok"]
    found = []
    for name in _estimators(chosen):
        costs = {one.result.name: (cell.exact_seconds, one) for one, cell in answered if one.estimator.name == name}
        order = sorted(costs.values(), key=lambda cost: (cost[0], cost[1].result.name))
        cheap = [one for rank, (seconds, one) in enumerate(order) if seconds <= CHEAP_TRUTH or rank < CHEAPEST]
        found += [(one, seed) for one in cheap for seed in fresh_seeds(one.result.name, inquiry)]
    return found


def fresh_seeds(task: str, inquiry: Inquiry) -> list[int]:
    """The seeds of a task that the nonce decides: from 100, where those of the command line end, to 2**31 - 1."""
    random = stream(f"verify/{inquiry.nonce}/fresh/{task}", 0)
    drawn: dict[int, None] = {}
    while len(drawn) < inquiry.fresh:
        drawn[int(random.randint(FIRST_FRESH, LAST_FRESH + 1, dtype="int64"))] = None
    return list(drawn)


def _estimators(chosen: Chosen) -> list[str]:
    return list(dict.fromkeys(one.estimator.name for one, _ in chosen))


def task_names(chosen: Chosen) -> list[str]:
    """The tasks of some cells, each once."""
    return list(dict.fromkeys(one.result.name for one, _ in chosen))


def cheapest_cells(chosen: Chosen, here: Found) -> list[tuple[Subject, int]]:
    """Of each estimator the cheapest cell with an answer, to be computed once more."""
    answered = [(one, seed, cell) for one, seed in chosen if (cell := cell_of(here, one, seed)) and cell.status == "ok"]
    cheapest: dict[str, tuple[float, Subject, int]] = {}
    for one, seed, cell in answered:
        cost = (cell.exact_seconds + cell.seconds, one, seed)
        cheapest[one.estimator.name] = min(cost, cheapest.get(one.estimator.name, cost), key=lambda known: known[0])
    return [(one, seed) for _, one, seed in cheapest.values()]
