"""The command line itself: help, mistakes, tables that fit, JSON, and what is not imported to list what there is."""

import json
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest
from test_board import scored

from benchmark.base import places
from benchmark.commands import terminal
from benchmark.commands.main import ALL, COMMANDS, GROUPS, asked, main
from benchmark.commands.options import Command
from benchmark.core.registry import registered
from benchmark.publishing import tables
from benchmark.scores import board, store
from benchmark.scores.store import Store
from benchmark.tasks.suites import SUITES, TASKS

Told = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[1]
LISTS = ("tasks", "suites", "estimators", "datasets", "metrics")
TASK = "quick-digits-mlp-sgd"
every_command = pytest.mark.parametrize("name", COMMANDS)


def found(name: str) -> Command:
    return ALL.get_command(click.Context(ALL), name)


def helped(capsys: Told, *arguments: str) -> str:
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


# ---- help ------------------------------------------------------------------------------------------------------------
def test_help_has_every_command_in_its_group(capsys: Told) -> None:
    text = helped(capsys)
    places = [text.index(f"\n{group}:") for group in GROUPS] + [len(text)]

    for (start, end), names in zip(pairwise(places), GROUPS.values(), strict=True):
        assert all(f"\n  {name} " in text[start:end] for name in names)
    assert main([]) == 0
    assert capsys.readouterr().out == text
    assert main(["-h"]) == 0


def test_every_module_of_a_command_is_a_command_s_and_every_command_has_one() -> None:
    files = {path.stem for path in (ROOT / "benchmark" / "commands").glob("*.py")}

    assert files == {*COMMANDS, "__init__", "main", "options", "terminal", "declarations"}
    assert len(COMMANDS) == len({*COMMANDS})


@every_command
def test_the_help_of_a_command_has_an_example_that_is_one_and_every_option_says_what_it_is(name: str, capsys: Told) -> None:
    text = helped(capsys, name)
    examples = text.partition("\nExamples:\n")[2].strip().splitlines()

    assert examples
    for example in examples:
        program, *arguments = shlex.split(example)
        assert (program, arguments[0]) == ("loobench", name)
        asked(arguments)
    assert all(one.help for one in found(name).params if isinstance(one, click.Option))
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


@every_command
def test_options_of_one_name_are_the_same_in_every_command_but_where_they_mean_another_thing(name: str) -> None:
    own = {"--estimator", "--results", "--publish", "--seeds", "--out", "--by", "--suite", "--task", "--json"}
    options = [one for other in COMMANDS for one in found(other).params if isinstance(one, click.Option)]
    shared = {opt: one for one in options for opt in one.opts}

    assert all(shared[opt] is one for one in found(name).params for opt in one.opts if opt in shared and opt not in own)


# ---- mistakes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "unknown command 'rnu': did you mean run"),
        (["run", "--sweet", "quick"], "No such option '--sweet'. Did you mean"),
        (["--versoin"], "No such option '--versoin'. Did you mean '--version'?; see `loobench --help`"),
        (["run", "--suite"], "requires an argument"),
        (["truth"], "Missing argument 'TASK|FILE.py[:NAME]'; see `loobench truth --help`"),
        (["truth", TASK, "--seed", "one"], "'one' is not a valid"),
        (["audit"], "Missing option '--base'"),
        (["list", "taks"], "'taks' is not one of 'tasks', 'suites'"),
        (["show", "sgd-i"], "unknown task or estimator 'sgd-i': did you mean sgd-ie"),
        (["tune", "if-cg", "damping", "1", "--sedes", "2"], "No such option '--sedes'. Did you mean '--seeds'?"),
        (["list", "tasks", "--suite", "quik"], "unknown suite 'quik': did you mean quick"),
        (["run", "--sandbox", "--no-sandbox"], "--sandbox and --no-sandbox say opposite things"),
        (["report", "--json", "--check"], "--json only prints"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_said_in_one_line_with_what_was_meant(arguments: list[str], said: str, capsys: Told) -> None:
    assert main(arguments) == 2

    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out


def test_values_of_many_words_and_numbers_below_0_are_read_as_people_write_them() -> None:
    def read(text: str) -> dict[str, object]:
        return vars(asked(shlex.split(text)).options)

    assert read("run --wandb-tags a b --wandb-tags c --suite quick")["wandb_tags"] == ("a", "b", "c")
    assert read("speed --estimators sgd-ie if-cg --short")["estimators"] == ("sgd-ie", "if-cg")
    assert read("speed --estimators")["estimators"] == ("",)
    assert read("speed")["estimators"] == ()
    assert read("tune if-cg damping -1 .5 -1e-3 --seeds 2")["values"] == ("-1", ".5", "-1e-3")


@pytest.mark.parametrize("asked_for", ["--help", "list estimators"])
def test_a_reader_that_has_seen_enough_is_no_error(asked_for: str) -> None:
    command = f"{sys.executable} -P -m benchmark {asked_for} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


# ---- tables ----------------------------------------------------------------------------------------------------------
def widest(capsys: Told) -> int:
    return max(map(len, capsys.readouterr().out.splitlines()))


@pytest.mark.parametrize("what", LISTS)
def test_lists_fit_80_columns_with_whole_names_each_row_a_line_or_wrapped(what: str, capsys: Told) -> None:
    assert main(["list", what]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    names = {"tasks": TASKS, "suites": SUITES, "estimators": registered()}.get(what, {})
    assert {*names} <= {line.split(" ")[0] for line in lines}
    assert len(lines) == len(names) + 2 or what not in ("tasks", "estimators")


@pytest.mark.parametrize("name", [max(TASKS, key=len), max(registered(), key=len), "acc-sgd-ie"])
def test_what_is_shown_of_one_fits_80_columns(name: str, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["show", name]) == 0
    assert widest(capsys) <= 80


def test_the_summary_of_all_that_is_published_fits_80_columns() -> None:
    folder = ROOT / "results"
    known = [store.load(at) for task in SUITES["quick"].tasks for at in (folder / task.name).glob("*.json")]
    assert len(known) > 100
    for suite in board.board(known, store.all_limits(folder)).suites:
        for headers, rows in tables.brief(suite.overall):
            assert max(map(len, terminal.table_text(headers, rows).splitlines())) <= 80


def test_names_stay_whole_where_there_is_room_and_nothing_is_lost_where_there_is_none() -> None:
    name, words = "a-name-of-forty-columns" + 17 * "x", "some words that are wrapped " * 3

    assert terminal.table_text(["task", "about", "n"], [[name, words, "2"]]).splitlines()[2].startswith(name)
    narrow = terminal.table_text([f"header-{at}" for at in range(8)], [[name] * 8]).splitlines()
    assert max(map(len, narrow)) <= 80
    assert "".join(narrow).count("x") == 8 * 17


def test_a_table_whose_words_would_be_broken_is_a_list_for_each_row() -> None:
    headers, cells = ["task", "estimator", "largest difference"], ["a" * 40, "b" * 30, ""]

    assert terminal.table_text(headers, [cells, [*cells[:2], "1.2e-10"]]).splitlines() == [
        f"task                {'a' * 40}",
        f"estimator           {'b' * 30}",
        "",
        f"task                {'a' * 40}",
        f"estimator           {'b' * 30}",
        "largest difference  1.2e-10",
    ]
    assert terminal.table_text(headers, [["a" * 30, "b" * 30, ""]]).splitlines()[2].split() == ["a" * 30, "b" * 30]


def test_a_cell_is_shown_as_it_is_with_no_markup_and_no_control_character() -> None:
    text = terminal.table_text(["name", "found"], [["[red]a[/red]", "b\x1b[31m\nc :smile: [link=x]d[/link]"]])

    assert text.splitlines()[2].split("  ") == ["[red]a[/red]", "b?[31m c :smile: [link=x]d[/link]"]


def test_a_terminal_may_be_wider_than_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ["name", "about"], [["a", "word " * 30]]
    narrow = terminal.table_text(*table)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    assert max(map(len, narrow.splitlines())) <= 80 < max(map(len, terminal.table_text(*table).splitlines()))


# ---- filters, JSON ---------------------------------------------------------------------------------------------------
def listed(capsys: Told, *arguments: str) -> list[dict[str, object]]:
    assert main(["list", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_lists_are_of_a_suite_and_of_what_matches(capsys: Told) -> None:
    assert [one["name"] for one in listed(capsys, "tasks", "--suite", "quick")] == [task.name for task in SUITES["quick"].tasks]
    assert {one["name"] for one in listed(capsys, "datasets", "--suite", "quick")} == {"digits", "breast_cancer"}
    assert [one["name"] for one in listed(capsys, "suites", "--suite", "core")] == ["core"]
    assert {one["name"] for one in listed(capsys, "tasks", "--match", "ADAM", "--match", "digits")} == {
        name for name in TASKS if "adam" in name and "digits" in name
    }
    for_adam = {str(one["name"]) for one in listed(capsys, "estimators", "--suite", "adaptive")}
    assert for_adam == {name for name, one in registered().items() if {"adam", "adamw", "momentum"} <= {*one.optimizers}}
    assert "sgd-ie" not in for_adam


@pytest.mark.parametrize("what", LISTS)
def test_lists_are_there_as_json(what: str, capsys: Told) -> None:
    assert all(one["name"] for one in listed(capsys, what))


def test_a_task_and_an_estimator_are_shown_with_record_settings_source_and_published_results(
    capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    known = json.loads((ROOT / "results" / places.MANIFEST).read_text())["results"][f"{TASK}/sgd-ie.json"]["scores"]
    score = {"score": pytest.approx(sum(known.values()) / len(known)), "seeds": len(known)}

    assert main(["show", TASK, "--json"]) == 0
    task = json.loads(capsys.readouterr().out)[TASK]
    assert (task["digest"], task["model"], task["results"]["sgd-ie"]) == (TASKS[TASK].digest(), "mlp-8", score)
    assert main(["show", "sgd-ie", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)["sgd-ie"]
    assert (one["settings"], one["source"], one["results"][TASK]) == ({"curvature": True}, "estimators/sgd_ie.py", score)
    assert one["paper"] == registered()["sgd-ie"].paper
    assert "1/|B|" in one["about"]


def test_a_stranger_s_file_is_shown_as_it_declares_itself(tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "mine.py").write_text(
        "from benchmark.estimating import estimator\n\n"
        '@estimator("mine", paper="nobody\'s")\ndef mine(run):\n    return run.final.new_zeros(1, 1)\n'
    )
    assert main(["show", str(tmp_path / "mine.py"), "--no-sandbox"]) == 0
    assert "estimator mine" in capsys.readouterr().out


def test_the_board_is_there_as_json(tmp_path: Path, capsys: Told) -> None:
    Store(tmp_path / "my-results").keep(scored("loss", 0.1, 0.2))
    assert main(["report", "--json"]) == 0

    (suite,) = json.loads(capsys.readouterr().out).values()
    assert [row["name"] for row in suite["rows"] if "loss" in row["name"]]
    assert not (tmp_path / "my-results" / "leaderboard.md").exists()


# ---- speed -----------------------------------------------------------------------------------------------------------
LISTED = """
import sys
from benchmark.commands.main import main
for what in {lists}:
    main(["list", what])
main(["show", "sgd-ie"])
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "scipy", "sklearn", "baselines")]
from benchmark.core.registry import registered
import torch
assert registered()["sgd-ie"].function.__module__ == "estimators.sgd_ie"
assert torch.zeros(2).sum() == 0
"""


def test_lists_need_no_torch_say_the_same_without_it_and_leave_nothing_behind(capsys: Told, tmp_path: Path) -> None:
    for what in LISTS:
        main(["list", what])
    main(["show", "sgd-ie"])
    done = subprocess.run(
        [sys.executable, "-c", LISTED.format(lists=LISTS)], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "most"), [(["--help"], 0.3), (["list", "tasks"], 1.0), (["list", "estimators"], 1.0)])
def test_help_and_lists_are_there_at_once(arguments: list[str], most: float) -> None:
    """In seconds of the processor, so that it holds on a busy machine; one of three goes."""
    code = f"from benchmark.commands.main import main; main({arguments}); import sys, time; "
    code += "print(time.process_time(), file=sys.stderr)"
    command = [sys.executable, "-c", code]
    taken = (float(subprocess.run(command, capture_output=True, text=True, check=True).stderr) for _ in range(3))

    assert any(seconds < most for seconds in taken)
