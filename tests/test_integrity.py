"""Random damage to published results: every one is detected or harmless, and none ends in a traceback."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from test_board import claimed, verified

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import json_digest
from benchmark.base.records import Mismatch
from benchmark.commands.main import main
from benchmark.publishing import manifest, page
from benchmark.scores import store
from benchmark.scores.results import Result
from benchmark.scores.store import Store
from benchmark.tasks.definition import record_digest
from benchmark.tasks.suites import TASKS

ROOT, FOLDER, TASK = Path(__file__).resolve().parents[1], Path("results"), TASKS["hara2019-20news-mlp"]
COUNT = 200
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 10**400, 1e308, -0.5, 1.5, 0.999999, "", "0", "ok", "verified", "../../x", "a\nb", "<script>"),
    *("\ud800", "\x00", "NaN", [], {}, [[]], [None], {"": None}, ["x"], "9" * 300, "x" * 3000, [0.5] * 60, "cpu", "each"),
)


@pytest.fixture(autouse=True)
def _without_the_charting_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all else."""
    monkeypatch.setattr(page, "library", lambda: b"")


@pytest.fixture
def at() -> Path:
    """The file of a verified result, published with another, with limits, board and manifest."""
    theirs = verified(claimed(synthetic.result(TASK, "theirs", 2, 0.5), 0.5), 0.5)
    for one in (theirs, synthetic.result(TASK, "loss", 2, 0.3)):
        found = Store(FOLDER).keep(one)
    Store(FOLDER).keep(synthetic.limits(TASK, 2))
    assert main(["report", "--publish"]) == main(["report", "--check"]) == 0
    return found.with_name("theirs.json")


# ---- damage ----------------------------------------------------------------------------------------------------------
Random = np.random.RandomState
Content = dict[str, Any]


def flipped(whole: bytes, random: Random) -> bytes:
    """One to four bits are others."""
    found = bytearray(whole)
    for place in random.randint(0, len(whole), random.randint(1, 5)):
        found[place] ^= 1 << random.randint(8)
    return bytes(found)


def cut(whole: bytes, random: Random) -> bytes:
    """The end is missing, or a piece."""
    start, end = sorted(random.randint(0, len(whole) + 1, 2).tolist())
    return whole[:start] + (whole[end:] if random.randint(2) else b"")


def noisy(whole: bytes, random: Random) -> bytes:
    """Some bytes more, of any value."""
    place = random.randint(len(whole) + 1)
    return whole[:place] + random.bytes(random.randint(1, 9)) + whole[place:]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """All (record or list, key or number) of a content."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in entries:
        yield content, key
        yield from places(inner)


def lacking(content: Content, random: Random) -> None:
    """A field or an entry less."""
    inside, key = pick(content, random)
    del inside[key]


def fuller(content: Content, random: Random) -> None:
    """A field or an entry more, anywhere."""
    inside, _ = pick(content, random)
    odd = copy.deepcopy(ODD[random.randint(len(ODD))])
    if isinstance(inside, dict):
        inside[f"extra{random.randint(99)}" if random.randint(2) else str(random.randint(9))] = odd
    else:
        inside.append(odd)


def other(content: Content, random: Random) -> None:
    """A value is another: an odd one, or a number a little larger."""
    inside, key = pick(content, random)
    number = isinstance(inside[key], int | float) and random.randint(2)
    inside[key] = inside[key] * 1.01 + 0.001 if number else copy.deepcopy(ODD[random.randint(len(ODD))])


def pick(content: Content, random: Random) -> tuple[Any, Any]:
    """A place in a content, near its top as often as deep in it."""
    shallow = [(content, key) for key in content] if random.randint(3) == 0 else [*places(content)]
    return shallow[random.randint(len(shallow))]


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (flipped, cut, noisy)
FIELDS: tuple[Callable[[Content, Random], None], ...] = (lacking, fuller, other)


def damaged(whole: bytes, random: Random) -> tuple[str, bytes]:
    """A kind of damage, and the file after it; of some, digests are such that the damage does not show by them."""
    if random.randint(3) == 0:
        spoil = BYTES[random.randint(len(BYTES))]
        return spoil.__name__, spoil(whole, random)
    content, change = json.loads(whole), FIELDS[random.randint(len(FIELDS))]
    change(content, random)
    if random.randint(4) == 0:
        return change.__name__, dumped(content)
    return f"{change.__name__}, digest anew", dumped(sealed(content))


def sealed(content: Content) -> Content:
    """A content with digests that fit it: of its task, of what was verified, and its own."""
    content.pop("digest", None)
    if isinstance(content.get("task"), dict) and isinstance(content.get("protocol"), str):
        content["task_digest"] = record_digest(content["task"], content["protocol"])
    if isinstance(content.get("verified"), dict):
        content["verified"]["of"] = json_digest({k: v for k, v in content.items() if k not in ("claimed", "verified")})
    return {**content, "digest": json_digest(content)}


def dumped(content: Content) -> bytes:
    """A content as a file."""
    return json.dumps(content).encode()


# ---- what is detected ------------------------------------------------------------------------------------------------
def loaded(at: Path) -> Result | None:
    """The result of a file, None where it is refused in our words; any other error is one of the test."""
    try:
        return store.load(at)
    except LoobenchError:
        return None


def told(capsys: pytest.CaptureFixture[str], arguments: list[str], codes: tuple[int, ...]) -> list[str]:
    """The errors that a command prints, one line each; it must end in one of the codes."""
    code = main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code in codes
    assert bool(lines) is bool(code)
    return lines


def test_random_damage_to_a_result_is_detected_or_harmless_and_never_a_traceback(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, random, counts = at.read_bytes(), np.random.RandomState(8), Counter[str]()
    right = store.load(at)
    for _ in range(COUNT):
        kind, content = damaged(whole, random)
        at.write_bytes(content)
        found, lines = loaded(at), told(capsys, ["report", "--check"], (0, 1, 2))
        how = "refused" if found is None else "found by the check" if lines else "harmless" if found == right else "silent"
        counts[f"{kind}: {how}"] += 1
        counts[how] += 1
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

    assert counts["refused"] + counts["found by the check"] + counts["harmless"] == COUNT, said
    assert counts["silent"] == 0, said
    assert counts["refused"] > COUNT / 3, said
    assert counts["found by the check"] > COUNT / 20, said
    at.write_bytes(whole)
    assert main(["report", "--check"]) == 0


def test_a_stranger_s_odd_result_gives_a_board_or_an_error_in_words(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a manifest, as when the file is new: what our reader takes must not break the pages."""
    whole, random, counts = at.read_bytes(), np.random.RandomState(9), Counter[str]()
    for _ in range(COUNT):
        content = json.loads(whole)
        FIELDS[random.randint(len(FIELDS))](content, random)
        at.write_bytes(dumped(sealed(content)))
        (FOLDER / manifest.MANIFEST).unlink(missing_ok=True)
        lines = told(capsys, ["report", "--publish"], (0, 2))
        counts["refused" if lines else "shown"] += 1

    assert counts["refused"] > COUNT / 3, counts
    assert counts["shown"] > COUNT / 20, counts


@pytest.mark.parametrize("field", [*TASK.record(), "truth", "uses"])
def test_a_task_s_record_that_is_odd_gives_a_board_or_an_error_in_words(
    field: str, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = at.read_bytes()
    (FOLDER / TASK.name / "loss.json").unlink()  # two definitions of a task are refused whatever they are
    for odd in (None, "", -1, [], {}, {"kind": "guess"}, "x", ["x"]):
        content = json.loads(whole)
        content["task"].update({field: odd}) if odd is not None else content["task"].pop(field, None)
        at.write_bytes(dumped(sealed(content)))
        (FOLDER / manifest.MANIFEST).unlink(missing_ok=True)
        told(capsys, ["report", "--publish"], (0, 2))


def test_half_of_a_letter_is_refused(at: Path) -> None:
    content = json.loads(at.read_bytes())
    content["estimator"]["paper"] = "\ud800"
    at.write_bytes(dumped(sealed(content)))

    with pytest.raises(DamagedFile, match="surrogates not allowed"):
        store.load(at)


# ---- what a cheat would do -------------------------------------------------------------------------------------------
def better(content: Content) -> None:
    """Raise the score of a seed, everywhere it stands."""
    cell = content["cells"]["0"]
    cell["scores"]["kendall"] = [min(1.0, value + 0.1) for value in cell["scores"]["kendall"]]
    cell["by_query"] = [value + 0.1 for value in cell["by_query"]]


def test_a_better_score_with_digests_that_fit_is_found_by_the_manifest_and_cannot_be_reported(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(at.read_bytes())
    better(content)
    at.write_bytes(dumped(sealed(content)))

    assert store.load(at).trusted  # nothing in the file itself tells
    lines = told(capsys, ["report", "--check"], (1,))
    assert any("theirs.json was changed without manifest.json" in line for line in lines)
    assert any("seed 0 changed from" in line and "not the estimator's version" in line for line in lines)
    assert "seed 0 changed from" in told(capsys, ["report", "--publish"], (1,))[0]


INCONSISTENT: dict[str, tuple[Callable[[Content], Any], str]] = {
    "a better curve": (lambda c: c["scores"].update(kendall=[0.9] * 3), "expected the mean 0.9 of kendall, got"),
    "better queries": (lambda c: c.update(by_query=[0.9]), "of kendall, got 0.9"),
    "above the best": (lambda c: c["scores"].update(spearman=[1.1] * 3), "scores.spearman: expected -1 to 1, got 1.1"),
    "below the worst": (lambda c: c["scores"].update(rmse=[-0.1] * 3), "scores.rmse: expected 0 to inf, got -0.1"),
    "more queries": (lambda c: c.update(by_query=c["by_query"] * 2), "expected 1 queries, got 2"),
    "cheaper": (lambda c: c.update(relative_cost=0.01), "relative_cost: expected seconds / exact_seconds"),
    "faster than time": (lambda c: c.update(seconds=-1.0), "seconds: expected 0 or more, got -1.0"),
    "no exact time": (lambda c: c.update(exact_seconds=0.0), "exact_seconds above 0"),
    "no exact gradients": (lambda c: c.update(exact_gradients=0), "exact_gradients and"),
    "less than no gradient": (lambda c: c.update(gradients=-1), "gradients: expected 0 or more"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_a_result_whose_parts_contradict_each_other_is_refused_even_with_digests_that_fit(name: str, at: Path) -> None:
    change, said = INCONSISTENT[name]
    content = json.loads(at.read_bytes())
    change(content["cells"]["1"])
    at.write_bytes(dumped(sealed(content)))

    with pytest.raises(DamagedFile, match=said):
        store.load(at)


def test_what_contradicts_itself_is_not_written_either(at: Path) -> None:
    made = store.load(at)
    cell = replace(made.cells["0"], by_query=[0.99])

    with pytest.raises(Mismatch, match="by_query"):
        Store(FOLDER).keep(replace(made, cells={**made.cells, "0": cell}))


def test_no_published_result_contradicts_itself() -> None:
    assert len(store.load_all(ROOT / "results")) > 1000
