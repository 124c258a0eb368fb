"""What a reader computes is the reader's: the publication stays as it is, and nothing of the reader's is cited as published."""

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import synthetic
from test_board import TWO, described, limits, of_protocol, scored
from test_report import named_table

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.core import registry
from benchmark.publishing import details, manifest, page
from benchmark.scores import board, results, store
from benchmark.scores.results import Limits, Result
from benchmark.scores.rows import Board, Row, Table
from benchmark.scores.rows import own as as_own
from benchmark.scores.store import Store
from benchmark.tasks import suites
from benchmark.tasks.definition import record_digest
from benchmark.tasks.suites import CORE, TASKS
from benchmark.truths import truth

ROOT = Path(__file__).resolve().parents[1]
QUALITIES = {"sgd-ie": (0.7, 0.5), "acc-sgd-ie": (0.75, 5.0), "grad-dot": (0.5, 0.05), "loss": (0.1, 0.01)}
TASK = "quick-breast-cancer-logistic-sgd"
RUN = ["run", "--task", TASK, "--seeds", "1", "--threads", "1", "--estimator", "grad-dot"]
Told = pytest.CaptureFixture[str]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _somebody_without_the_charting_library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It takes longer than all else."""
    monkeypatch.setattr(page, "library", lambda: b"")
    (known := tmp_path_factory.mktemp("git") / "config").write_text("[user]\n\tname = Ada\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(known))


def of(made: Result, by: str) -> Result:
    """The result as somebody computed it."""
    return replace(made, provenance={key: {**facts, "by": by, "commit": "c" * 40} for key, facts in made.provenance.items()})


def mine(name: str, quality: float, cost: float = 1.0, task: str = TWO[0]) -> Result:
    """A result of Ada's, which is scored against the same truth."""
    return of(synthetic.result(TASKS[task], name, 3, quality, cost), "Ada")


@pytest.fixture
def published() -> Board:
    """The board of four estimators on two tasks, published in the folder of the test."""
    made, known = synthetic.everything({name: TASKS[name] for name in TWO}, QUALITIES, 3)
    for one in made:
        Store(places.PUBLISHED).keep(one)
    for limit in known.values():
        Store(places.PUBLISHED).keep(limit)
    assert main(["report", "--publish"]) == 0
    return board.board(made, known)


def keep(*made: Result) -> None:
    """Write results into one's own folder, with the limits of their truths."""
    for one in made:
        Store(places.MINE).keep(one)
        Store(places.MINE).keep(synthetic.limits(TASKS[one.name], 3))


def snapshot(*places: Path) -> dict[Path, bytes]:
    """The content of all files under some folders."""
    return {at: at.read_bytes() for folder in places for at in folder.rglob("*") if at.is_file() and ".locks" not in at.parts}


# ---- the board of one's own ------------------------------------------------------------------------------------------
OWN = {
    "better and cheaper": [mine("sgd-ie", 0.8, 0.001, task) for task in TWO],
    "of another estimator": [mine("mine", 0.6, 0.1, task) for task in TWO],
    "the truth itself": [of(scored("exact-loo", 1.0, 1.0, task=task), "Ada") for task in TWO],
    "of one task": [mine("sgd-ie", 0.8, 0.001)],
    "of a task that nobody published": [mine("sgd-ie", 0.8), mine("sgd-ie", 0.8, task="quick-digits-mlp-adam")],
    "failed": [of(synthetic.failed(TASKS[TWO[0]], "sgd-ie", "crashed"), "Ada")],
}


def elsewhere(made: Result) -> Result:
    """The result, scored against the truths of another machine, whose last bits differ."""
    return replace(made, cells={seed: replace(cell, truth=f"mine-{seed}") for seed, cell in made.cells.items()})


def limits_elsewhere(task: str) -> Limits:
    """The limits of those truths."""
    found = synthetic.limits(TASKS[task], 3)
    other = {seed: replace(one, truth=f"mine-{seed}", values={"ceiling": [0.5] * 3}) for seed, one in found.seeds.items()}
    return replace(found, seeds=other)


def tables(made: Board) -> dict[str, Table]:
    """All tables by name."""
    return {table.name: table for suite in made.suites for table in (suite.overall, *suite.tasks)}


@pytest.mark.parametrize("what", OWN)
def test_rows_of_ones_own_move_nothing_of_the_published_ones(what: str, published: Board) -> None:
    own, known = as_own([elsewhere(one) for one in OWN[what]], {one.name: limits_elsewhere(one.name) for one in OWN[what]})
    there = [result for suite in published.suites for result in suite.overall.results]
    both = board.board([*own, *there], {**published.limits, **known})

    for name, before in tables(published).items():
        after = tables(both)[name]
        assert [described(row) for row in after.rows if not row.own] == [described(row) for row in before.rows]
        assert [column.title for column in after.columns] == [column.title for column in before.columns]
        assert details.ceiling(after, both.limits) == details.ceiling(before, published.limits)
        assert details.limit_texts(after, both.limits) == details.limit_texts(before, published.limits)
    assert both.suites[0].digest == published.suites[0].digest


def test_a_figure_that_no_published_row_has_adds_no_column_and_one_task_of_many_is_a_row() -> None:
    tasks = [task.name for task in suites.suite("quick").tasks]
    there = [scored("loss", 0.1, 0.2, task=task) for task in tasks]
    own, _ = as_own([mine("sgd-ie", 0.5)], {})
    before, after = (board.board(made, {}).suites[0].overall for made in (there, [*there, *own]))
    alone = board.board(own, {}).suites[0].overall

    assert [column.title for column in after.columns] == [column.title for column in before.columns]
    assert "J10" in {column.title for column in alone.columns} - {column.title for column in before.columns}
    assert [(row.name, row.done, row.tasks) for row in after.rows] == [("loss", 6, 6), ("sgd-ie (yours)", 1, 6)]


@pytest.mark.parametrize("what", OWN)
@pytest.mark.usefixtures("published")
def test_a_row_of_ones_own_stands_by_its_score_in_no_group_and_not_on_the_front(what: str) -> None:
    keep(*OWN[what])
    assert main(["report"]) == 0
    text, name = (places.MINE / "leaderboard.md").read_text(), f"{OWN[what][0].estimator.name} (yours)"
    partial = not {*TWO} <= {result.name for result in OWN[what] if result.cells["0"].status == "ok"}
    [row] = [row for row in named_table(text, "Suite quick", int(partial)) if row["estimator"] == name]

    assert (row["by"], row.get("group", ""), row.get("behind", "")) == ("Ada", "", "")
    assert "Pareto" not in row["marks"]
    assert {other["by"] for other in named_table(text, "Suite quick") if other["estimator"] != name} == {"maintainers"}
    scores = [float(one["tau"].split()[0]) for one in named_table(text, "Suite quick")]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("published")
def test_published_rows_read_as_on_the_published_board() -> None:
    keep(*OWN["better and cheaper"])
    assert main(["report"]) == 0
    there, here = (Path(name).read_text() for name in ("leaderboard.md", "my-results/leaderboard.md"))

    for heading in ("Suite quick", "quick, by task: tau"):
        rows = [row for row in named_table(here, heading) if "(yours)" not in row["estimator"]]
        assert [[cell.replace("(../", "(") for cell in row.values()] for row in rows] == [
            [*row.values()] for row in named_table(there, heading)
        ]


@pytest.mark.usefixtures("published")
def test_every_link_of_ones_own_board_and_page_leads_to_a_file() -> None:
    keep(*OWN["better and cheaper"])
    for name in ("baselines/final_gradient.py", "estimators/sgd_ie.py", "docs/protocol.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("")
    assert main(["report"]) == 0
    links = re.findall(r"\]\(([^)]+)\)", (places.MINE / "leaderboard.md").read_text())
    _, record = page.unpacked((places.MINE / "docs" / "data" / "tasks" / f"{TWO[0]}.js").read_bytes())
    rows = record["details"]

    assert {f"{TWO[0]}/sgd-ie.json", f"../results/{TWO[0]}/sgd-ie.json", "../docs/protocol.md"} <= {*links}
    sources = {f"../{source}" for source in registry.sources().values()}  # of which two are here
    assert [link for link in links if link not in sources and not (places.MINE / link).is_file()] == []
    assert rows["sgd-ie (yours)"]["link"] == f"../{TWO[0]}/sgd-ie.json"
    assert rows["sgd-ie"]["link"] == f"../../results/{TWO[0]}/sgd-ie.json"
    for name in ("sgd-ie", "sgd-ie (yours)"):
        for link in (rows[name]["link"], rows[name]["source"]):
            assert (places.MINE / "docs" / link).is_file(), link
    assert 'href="../../docs/protocol.md"' in (places.MINE / "docs" / "index.html").read_text()


@pytest.mark.usefixtures("published")
def test_the_page_says_who_computed_each_row_and_has_the_curve_and_pairs_of_ones_own() -> None:
    keep(*OWN["better and cheaper"])
    assert main(["report"]) == 0
    _, record = page.unpacked((places.MINE / "docs" / "data" / "tasks" / f"{TWO[0]}.js").read_bytes())
    rows = {row["name"]: (row["by"], row["own"], row["front"], row["group"]) for row in record["table"]["rows"]}

    assert rows["sgd-ie (yours)"] == ("Ada", True, False, "")
    assert rows["sgd-ie"][:2] == ("maintainers", False)
    assert record["details"]["sgd-ie (yours)"]["curve"]
    assert record["details"]["sgd-ie (yours)"]["pairs"]
    shared = record["shared"]
    cited = {name: "".join(shared[at] for at in record["details"][name]["cite"]) for name in ("sgd-ie", "sgd-ie (yours)")}
    assert "unpublished local result" in cited["sgd-ie (yours)"]
    assert "The loobench authors" not in cited["sgd-ie (yours)"]
    assert "The loobench authors" in cited["sgd-ie"]


def test_ones_own_row_is_held_against_the_published_ceiling(published: Board) -> None:
    made = OWN["better and cheaper"]
    for one in made:
        Store(places.MINE).keep(elsewhere(one))
        Store(places.MINE).keep(limits_elsewhere(one.name))
    assert main(["report"]) == 0
    rows = {row["estimator"]: row for row in named_table((places.MINE / "leaderboard.md").read_text(), "Suite quick")}

    assert float(rows["sgd-ie (yours)"]["of ceiling"]) == pytest.approx(
        fmean(of_ceiling(one, published) for one in made), abs=2e-3
    )


def of_ceiling(made: Result, known: Board) -> float:
    """The mean over seeds of a result's score over the published ceiling."""
    ceilings = {seed: found.values["ceiling"][-1] or 0.0 for seed, found in known.limits[made.name].seeds.items()}
    return fmean((cell.scores["kendall"][-1] or 0.0) / ceilings[seed] for seed, cell in made.cells.items())


@pytest.mark.usefixtures("published")
def test_only_suites_that_one_has_results_in_are_shown_and_core_once_all_of_it_is_there() -> None:
    Store(places.PUBLISHED).keep(synthetic.result(TASKS["hara2019-adult-mlp"], "sgd-ie", 3, 0.5))
    assert main(["report", "--publish"]) == 0
    keep(*OWN["of one task"])
    assert main(["report"]) == 0
    assert re.findall(r"^## (Suite .*)$", (places.MINE / "leaderboard.md").read_text(), re.M) == ["Suite quick"]

    keep(*(mine("sgd-ie", 0.5, task=task.name) for task in CORE.tasks))
    assert main(["report"]) == 0
    shown = re.findall(r"^## (Suite .*)$", (places.MINE / "leaderboard.md").read_text(), re.M)
    assert [*shown[:3]] == ["Suite core (version 1)", "Suite quick", "Suite hara2019"]
    assert details.suite_file("core") in {
        at.relative_to(places.MINE / "docs").as_posix() for at in (places.MINE / "docs").rglob("*.js")
    }


@pytest.mark.usefixtures("published")
def test_a_file_that_is_not_as_it_was_published_does_not_stand_among_the_published() -> None:
    Store(places.PUBLISHED).keep(mine("grad-dot", 0.8))
    Store(places.PUBLISHED).keep(mine("stranger", 0.8))
    keep(*OWN["of one task"])
    assert main(["report"]) == 0
    text = (places.MINE / "leaderboard.md").read_text()
    rows = [row for number in (0, 1) for row in named_table(text, "Suite quick", number)]

    assert "stranger" not in {row["estimator"] for row in rows}
    assert [row["tasks"] for row in rows if "grad-dot" in row["estimator"]] == ["1/2"]


def test_where_nothing_is_published_ones_own_results_have_a_board_all_the_same() -> None:
    keep(mine("sgd-ie", 0.7), mine("grad-dot", 0.5))
    assert main(["report"]) == 0
    rows = named_table((places.MINE / "leaderboard.md").read_text(), "Suite quick")

    assert [(row["estimator"], row["by"]) for row in rows] == [("sgd-ie (yours)", "Ada"), ("grad-dot (yours)", "Ada")]


@pytest.mark.usefixtures("published")
def test_without_results_of_ones_own_report_says_what_to_do(capsys: Told) -> None:
    before = snapshot(Path())
    assert main(["report"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: there are no results of yours in my-results: compute some, as by `loobench run")
    assert told.count("\n") == 1
    assert snapshot(Path()) == before


@pytest.mark.usefixtures("published")
def test_the_board_of_ones_own_may_lie_anywhere() -> None:
    Store(Path("deep/er")).keep(OWN["of one task"][0])
    assert main(["report", "--results", "deep/er"]) == 0
    text = Path("deep/er/leaderboard.md").read_text()

    assert f"](../../results/{TWO[0]}/sgd-ie.json)" in text
    assert f"]({TWO[0]}/sgd-ie.json)" in text

    assert main(["report", "--results", "deep/er", "--board", "b/own.md"]) == 0
    text = Path("b/own.md").read_text()
    _, record = page.unpacked((Path("b/docs/data/tasks") / f"{TWO[0]}.js").read_bytes())
    assert f"](../results/{TWO[0]}/sgd-ie.json)" in text
    assert f"](../deep/er/{TWO[0]}/sgd-ie.json)" in text
    assert record["details"]["sgd-ie (yours)"]["link"] == f"../../deep/er/{TWO[0]}/sgd-ie.json"


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("board", ["leaderboard.md", "other.md", "docs/../mine.md"])
def test_a_board_of_ones_own_takes_no_place_beside_what_is_published(board: str, capsys: Told) -> None:
    keep(*OWN["of one task"])
    before = snapshot(Path())

    assert main(["report", "--board", board]) == 2
    assert "choose another --board" in capsys.readouterr().err
    assert snapshot(Path()) == before


# ---- what is published stays -----------------------------------------------------------------------------------------
NAMES: dict[str, Callable[[Path], str]] = {
    "by its name": lambda here: "results",
    "by a way around": lambda here: "./nothing/../results/",
    "by its address": lambda here: str(here / "results"),
    "by a link": lambda here: "link",
    "a folder in it": lambda here: f"results/{TWO[0]}",
    "a new folder in it": lambda here: "results/new/er",
}
COMMANDS = {
    "run": RUN,
    "score": ["score"],
    "migrate": ["migrate"],
    "report": ["report"],
    "reproduce": ["reproduce", "hara2019", "--seeds", "1"],
}


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("published")
def test_naming_the_publication_is_refused_before_anything_is_computed(
    command: str, how: str, tmp_path: Path, capsys: Told
) -> None:
    (tmp_path / "link").symlink_to("results")
    before = snapshot(tmp_path)

    assert main([*COMMANDS[command], "--results", NAMES[how](tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "--publish" in told
    assert "my-results" in told
    assert told.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("published")
def test_inside_the_publication_the_default_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("results")
    assert main(RUN) == 2
    assert not Path("my-results").exists()


def test_a_file_called_manifest_of_another_program_publishes_nothing(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web application"}')

    assert places.publication(Path("my-results")) is None
    assert places.publication(tmp_path) == tmp_path.resolve()


@pytest.mark.usefixtures("published")
def test_a_run_writes_its_own_folder_and_says_by_whom(capsys: Told) -> None:
    before = snapshot(Path("results"), Path("docs"))
    assert main([*RUN, "--by", "Grace Hopper"]) == 0

    (facts,) = store.load(places.MINE / TASK / "grad-dot.json").provenance.values()
    assert facts["by"] == "Grace Hopper"
    assert snapshot(Path("results"), Path("docs")) == before
    assert "results in my-results" in capsys.readouterr().out


def test_without_a_name_it_is_that_which_git_knows_and_nonsense_is_refused(capsys: Told) -> None:
    assert main(RUN) == 0
    assert {facts["by"] for facts in store.load(places.MINE / TASK / "grad-dot.json").provenance.values()} == {"Ada"}
    for name in ("", "a\nb", "x" * 101, " "):
        assert main([*RUN, "--by", name]) == 2
        assert "--by takes 1 to 100 printable characters" in capsys.readouterr().err


def test_a_run_names_the_best_published_row_on_the_same_tasks(capsys: Told) -> None:
    made = {"sgd-ie": 0.7, "grad-dot": 0.5, "theirs": 0.8, "exact-loo": 1.0}
    for name, quality in made.items():
        one = synthetic.result(TASKS[TASK], name, 3, quality) if quality < 1 else scored(name, 1.0, 1.0, task=TASK)
        sent = replace(one, claimed=results.Claim(0.9, "a stranger", "2026-11-01", "Linux")) if name == "theirs" else one
        Store(places.PUBLISHED).keep(sent)
    assert main(["report", "--publish"]) == 0
    found = {row.name: row for row in board.board(store.load_all(places.PUBLISHED), {}).suites[0].overall.rows}
    assert main(RUN) == 0

    assert f"best published on these tasks: sgd-ie, {found['sgd-ie'].score.mean:.3f}\n" in capsys.readouterr().out


def of_another_version(folder: Path, task: str = TASK, seeds: int = 3) -> Path:
    """A result that was computed by another version of loobench, in a folder; and limits."""
    Store(folder).keep(synthetic.limits(TASKS[task], seeds))
    return Store(folder).keep(of_protocol(synthetic.result(TASKS[task], "grad-dot", seeds, 0.5), "9.9"))


def test_publishing_starts_no_file_afresh_unless_told_to_replace(tmp_path: Path, capsys: Told) -> None:
    at = of_another_version(places.PUBLISHED)
    assert main(["report", "--publish"]) == 0
    before = snapshot(Path("results"))

    assert main([*RUN, "--publish"]) == 2
    assert "1 published files would start afresh, as results/" in (told := capsys.readouterr().err)
    assert "--replace" in told
    assert snapshot(Path("results")) == before
    assert main([*RUN, "--replace"]) == 2
    assert "add --publish" in capsys.readouterr().err

    assert main([*RUN, "--publish", "--replace"]) == 0
    assert "note: 1 results of other versions start afresh" in capsys.readouterr().err
    assert [*store.load(at).cells] == ["0"]
    (aside,) = (tmp_path / "cache" / "superseded").rglob("grad-dot-*.json")
    assert aside.read_bytes() == before[at]


def test_reproducing_starts_no_published_file_afresh_either(capsys: Told) -> None:
    task = TASKS["hara2019-adult-logistic"]
    at = Store(places.PUBLISHED).keep(of_protocol(synthetic.result(task, "sgd-ie", 3, 0.5), "9.9"))
    before = at.read_bytes()

    assert main(["reproduce", "hara2019", "--seeds", "1", "--publish"]) == 2
    assert f"would start afresh, as {at}" in capsys.readouterr().err
    assert at.read_bytes() == before


def test_publishing_adds_seeds_to_a_file_of_the_same_version() -> None:
    assert main([*RUN, "--publish"]) == 0
    assert main(["report", "--publish"]) == 0
    assert main(["run", "--task", TASK, "--seeds", "1-1", "--estimator", "grad-dot", "--publish"]) == 0
    assert [*store.load(places.PUBLISHED / TASK / "grad-dot.json").cells] == ["0", "1"]


def test_limits_of_another_definition_of_a_task_are_published_files_too(tmp_path: Path, capsys: Told) -> None:
    made = limits(TASK, {"ceiling": [0.5]})[TASK]
    old = replace(made, protocol="0.9", task_digest=record_digest(made.task, "0.9"))
    Store(places.PUBLISHED).keep(old)
    before = (places.PUBLISHED / f"{TASK}.json").read_bytes()

    assert main([*RUN, "--publish"]) == 2
    assert f"as results/{TASK}.json" in capsys.readouterr().err
    assert main([*RUN, "--publish", "--replace"]) == 0
    (aside,) = (tmp_path / "cache" / "superseded").rglob(f"{TASK}-*.json")
    assert aside.read_bytes() == before


@pytest.mark.parametrize("options", [["--publish", "--replace"], []])
def test_where_there_is_no_data_the_old_file_stays_in_its_place(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    def offline(*_arguments: object) -> None:
        raise LoobenchError("cannot download data set")

    folder = places.PUBLISHED if options else places.MINE
    of_another_version(folder)
    before = snapshot(folder)
    monkeypatch.setattr(truth, "answer", offline)

    assert main([*RUN, *options]) == 2
    assert "afresh" not in capsys.readouterr().err
    assert snapshot(folder) == before
    assert not Path("cache/superseded").exists()


@pytest.mark.slow
def test_a_download_that_fails_leaves_the_old_file_in_its_place(
    loobench: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    of_another_version(tmp_path / "results", "hara2019-adult-logistic")
    before = snapshot(tmp_path / "results")
    run = ["run", "--task", "hara2019-adult-logistic", "--seeds", "1", "--estimator", "grad-dot"]
    done = loobench(*run, "--publish", "--replace")

    assert (done.returncode, "cannot download" in done.stderr) == (2, True)
    assert snapshot(tmp_path / "results") == before


# ---- verify ----------------------------------------------------------------------------------------------------------
FEW = ["--fresh", "1", "--reference", "grad-dot", "--nonce", "0123456789abcdef", "--sample", "0"]


def test_verify_prints_and_writes_only_where_told_and_into_the_publication_only_where_told_that_too(capsys: Told) -> None:
    assert main([*RUN, "--publish"]) == 0
    assert main(["report", "--publish"]) == 0
    at = places.PUBLISHED / TASK / "grad-dot.json"
    before = snapshot(Path("results"))
    capsys.readouterr()

    assert main(["verify", str(at), "--write", *FEW]) == 2
    assert "--publish" in capsys.readouterr().err
    for options in (["--results", "elsewhere"], ["--publish"]):
        assert main(["verify", str(at), *options, *FEW]) == 2
        assert "add --write" in capsys.readouterr().err
    assert main(["verify", str(at), "--markdown", "verdict.md", *FEW]) == 0
    assert "verified" in capsys.readouterr().out
    assert "verified" in Path("verdict.md").read_text()
    assert snapshot(Path("results")) == before

    assert main(["verify", str(at), "--write", "--publish", "--by", "Ada", *FEW]) == 0
    found = store.load(at).verified
    assert found
    assert (found.verdict, found.by) == ("verified", "Ada")


# ---- cite ------------------------------------------------------------------------------------------------------------
def cited(capsys: Told, *arguments: str) -> str:
    """What `loobench cite` prints."""
    capsys.readouterr()
    assert main(["cite", *arguments]) == 0
    return capsys.readouterr().out


def is_local(said: str) -> bool:
    """Whether both forms say that the row is not published, who computed it and at which commit, and name nobody else."""
    entry, _, text = said.partition("\n}\n")
    local = [
        all(words in form for words in ("unpublished local result, computed by Ada", f"commit {'c' * 40}"))
        for form in (entry[entry.index("note =") :], text)
    ]
    assert local[0] is local[1] is ("loobench authors" not in said)
    assert local[0] is ("author = {{Ada}}" in entry)
    return local[0]


def test_a_published_row_is_cited_as_ever(published: Board, capsys: Told) -> None:
    keep(*OWN["better and cheaper"])
    said = cited(capsys, "quick/sgd-ie")

    assert not is_local(said)
    assert said == cited(capsys, "quick/sgd-ie", "--results", "results")
    assert "docs/index.html#quick/sgd-ie" in said
    assert f"tau {published.find('quick/sgd-ie')[1].score.mean:.3f}" in said
    digest = published.find("quick/sgd-ie")[1].digest
    assert said.count(digest) == 2


@pytest.mark.usefixtures("published")
def test_a_row_that_is_not_published_is_cited_as_ones_own(capsys: Told) -> None:
    keep(mine("sgd-ie", 0.8), mine("new", 0.5))

    assert is_local(cited(capsys, "quick/new"))  # not published, but there
    assert is_local(cited(capsys, f"{TWO[0]}/new"))
    assert is_local(cited(capsys, "quick/sgd-ie (yours)"))  # as the board of one's own calls it
    assert is_local(cited(capsys, "quick/sgd-ie", "--results", "my-results"))
    assert not is_local(cited(capsys, "quick/sgd-ie"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "another result": lambda at: Store(places.PUBLISHED).keep(mine("sgd-ie", 0.3)),
    "another space": lambda at: at.write_bytes(at.read_bytes().replace(b": ", b":  ", 1)),
    "no manifest": lambda at: (places.PUBLISHED / manifest.MANIFEST).unlink(),
    "not in the manifest": lambda at: forgotten(f"{TWO[0]}/sgd-ie.json"),
}


def forgotten(name: str) -> None:
    """Take a file out of the manifest."""
    at = places.PUBLISHED / manifest.MANIFEST
    content = json.loads(at.read_text())
    del content["results"][name]
    at.write_text(json.dumps(content))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("published")
def test_a_file_that_is_not_as_the_manifest_has_it_is_not_published(change: str, capsys: Told) -> None:
    for task in TWO:
        Store(places.PUBLISHED).keep(mine("sgd-ie", 0.7, task=task))
    (places.PUBLISHED / manifest.MANIFEST).unlink()  # which would know that the scores were others
    assert main(["report", "--publish"]) == 0
    assert "unpublished" not in cited(capsys, "quick/sgd-ie")

    CHANGES[change](places.PUBLISHED / TWO[0] / "sgd-ie.json")
    assert is_local(cited(capsys, "quick/sgd-ie"))
    if change != "no manifest":
        assert "loobench authors" in cited(capsys, "quick/grad-dot")


@pytest.mark.usefixtures("published")
def test_a_row_that_is_nowhere_is_the_error_of_the_publication(capsys: Told) -> None:
    keep(*OWN["of one task"])
    assert main(["cite", "quick/nobody"]) == 2
    assert "row of quick" in capsys.readouterr().err


# ---- figures ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("published")
def test_figures_are_of_what_is_published_unless_told_and_lie_in_ones_own_folder() -> None:
    keep(mine("sgd-ie", 0.8), mine("grad-dot", 0.5))
    before = snapshot(Path("results"), Path("docs"))
    assert main(["plot", "--suite", "quick", "--kind", "cost"]) == 0
    of_all = snapshot(places.MINE / "figures")
    assert of_all
    assert main(["plot", "--suite", "quick", "--kind", "cost", "--results", "my-results"]) == 0
    assert snapshot(places.MINE / "figures") != of_all
    assert snapshot(Path("results"), Path("docs")) == before


# ---- make, and all of it in a clone ----------------------------------------------------------------------------------
def test_the_fifteen_estimators_of_make_run_are_registered() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [names] = re.findall(r"^TELLING := (.*)$", text, re.M)

    assert len({*names.split()}) == len(names.split()) == 15
    assert {*names.split()} <= {*registry.registered()}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of this repository as it is here, committed or not."""
    done = subprocess.run(["git", "-C", ROOT, "stash", "create"], capture_output=True, text=True, check=False)
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, folder], check=True)
    if done.stdout.strip():
        subprocess.run(["git", "-C", folder, "checkout", "--quiet", "--detach", done.stdout.strip()], check=True)
    return folder


def do(python: Python, clone: Path, *commands: list[str]) -> str:
    """Run commands one after the other in a clone, by its code; each must end with 0 or 1. Returns what git status says."""
    script = f"""
import benchmark
from benchmark.commands.main import main
assert benchmark.__file__.startswith({str(clone)!r}), benchmark.__file__
for command in {list(commands)!r}:
    assert main(command) in (0, 1), command
"""
    with chdir(clone):
        done = python(script, PYTHONPATH=str(clone), HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    status = ["git", "-C", clone, "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(status, capture_output=True, text=True, check=True).stdout


def test_a_readers_commands_leave_a_clone_as_it_was(python: Python, clone: Path) -> None:
    published = f"results/{TASK}/grad-dot.json"
    status = do(
        python,
        clone,
        RUN,
        ["report"],
        ["verify", published, *FEW],
        ["score", "--task", TASK],
        ["cite", "quick/grad-dot", "--results", "my-results"],
        ["list", "estimators"],
        ["truth", TASK],
    )

    assert status == ""
    assert (clone / "my-results" / "leaderboard.md").is_file()


@pytest.mark.slow
def test_the_readers_other_commands_do_so_too(python: Python, clone: Path, tmp_path: Path) -> None:
    at = tmp_path / "my_estimator.py"
    status = do(
        python,
        clone,
        ["new", "my-estimator", "--folder", str(tmp_path)],
        ["check", str(at)],
        ["run", "--suite", "quick", "--seeds", "1", "--estimator", str(at), "--estimator", "sgd-ie"],
        ["report"],
        ["report", "--check"],
        ["score"],
        ["cite"],
        ["cite", "quick/sgd-ie"],
        ["audit", "--base", "HEAD"],
        ["migrate"],
        ["plot", "--suite", "quick"],
        ["plot", "--suite", "quick", "--results", "my-results"],
        ["doctor"],
        ["reproduce", "hara2019", "--no-run"],
        ["speed", "--task", TASK],
    )

    assert status == ""


def test_a_submission_is_made_of_ones_own_results(tmp_path: Path) -> None:
    from test_submitting import finish

    from benchmark.submissions import bundle, scaffold

    source = synthetic.authored(scaffold.write("my-estimator", tmp_path)[0])
    finish(source, places.MINE)

    assert main(["submit", "my_estimator.py", "--by", "Ada"]) == 0
    assert len(bundle.read(Path("submission/my-estimator")).results) == len(suites.CORE.tasks)


def test_rows_say_who_sent_and_who_verified_them() -> None:
    one = scored("theirs", 0.5, 0.6)
    sent = replace(one, claimed=results.Claim(0.55, "Grace", "2026-11-01", "Linux"))
    checked = results.Verification("verified", 0.55, 0.5, 0.0, ["0"], "n" * 16, "Ada", "2026", "Linux", sent.substance)
    rows: dict[str, Row] = {
        "Grace": board.board([sent], {}).suites[0].overall.rows[0],
        "Grace, verified by Ada": board.board([replace(sent, verified=checked)], {}).suites[0].overall.rows[0],
        "maintainers": board.board([of(one, "Ada")], {}).suites[0].overall.rows[0],
        "Ada": board.board(as_own([of(one, "Ada")], {})[0], {}).suites[0].overall.rows[0],
        "unknown": board.board(as_own([one], {})[0], {}).suites[0].overall.rows[0],
    }

    assert {said: row.by for said, row in rows.items()} == {said: said for said in rows}
