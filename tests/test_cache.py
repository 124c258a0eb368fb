"""Where the cache is, and what becomes of a command where there is no place for one."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_board import scored
from test_run import TASK

from benchmark import __version__
from benchmark.commands.main import asked, main
from benchmark.scores import store
from benchmark.scores.store import Store
from benchmark.tasks import data

RUN = ["run", "--task", TASK, "--seeds", "1", "--estimator", "loss"]
Told = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable names a folder, and the system knows no user of this number."""
    for name in ("LOOBENCH_CACHE", "XDG_CACHE_HOME", "HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.fixture
def _no_hub_of_our_own() -> Iterator[None]:
    yield
    os.environ.pop("HF_HOME", None)


def cache() -> Path:
    """The cache of a command without --cache."""
    found: Path = asked(RUN).options.cache
    return found


def test_without_a_home_all_commands_work_that_need_no_cache(capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, home in enumerate((None, "", "relative", "/dev/null")):
        if home is not None:
            monkeypatch.setenv("HOME", home)
        Store(Path("results")).keep(scored("loss", 0.1, 0.2))
        for command in (
            ["--version"],
            ["--help"],
            [],
            ["list", "tasks"],
            ["list", "estimators"],
            ["cite"],
            ["new", f"named-{number}"],
        ):
            assert main(command) == 0, command
    assert __version__ in capsys.readouterr().out
    assert not Path("~").exists()


@pytest.mark.parametrize("home", [None, "", "relative", "/dev/null", "/proc/nowhere"])
@pytest.mark.parametrize("command", [RUN, ["score"], ["truth", TASK], ["prepare", "wine"], ["list", "datasets"]], ids=" ".join)
def test_without_a_home_a_command_that_needs_a_cache_says_in_a_line_how_to_name_one(
    command: list[str], home: str | None, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(Path("my-results")).keep(scored("loss", 0.1, 0.2))
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert main(command) == 2

    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "commit" not in line] == [line for line in told if "--cache or LOOBENCH_CACHE" in line]
    assert told[-1].startswith("error: ")
    assert not Path("~").exists()


def test_without_a_home_a_command_with_a_cache_works(capsys: Told) -> None:
    assert main([*RUN, "--cache", "here"]) == 0
    assert main(["score", "--cache", "here"]) == 0
    assert main(["list", "datasets", "--cache", "here"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_the_cache_is_where_the_system_has_caches_or_where_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert cache() == tmp_path / "home" / ".cache" / "loobench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert cache() == tmp_path / "home" / ".cache" / "loobench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache() == tmp_path / "xdg" / "loobench"
    monkeypatch.setenv("LOOBENCH_CACHE", "mine")
    assert cache() == tmp_path / "mine"
    monkeypatch.setenv("LOOBENCH_CACHE", "~/mine")
    assert cache() == tmp_path / "home" / "mine"
    monkeypatch.setenv("LOOBENCH_CACHE", "")
    assert cache() == tmp_path / "xdg" / "loobench"


@pytest.mark.parametrize("name", ["a file", "below a file", "~nobody-here/cache"])
def test_a_cache_that_cannot_be_is_an_error_of_one_line(name: str, capsys: Told) -> None:
    Path("file").touch()
    at = {"a file": "file", "below a file": "file/cache"}.get(name, name)
    for command in (RUN, ["truth", TASK], ["prepare", "wine"]):
        assert main([*command, "--cache", at]) == 2
        told = [line for line in capsys.readouterr().err.splitlines() if "commit" not in line]
        assert len(told) == 1
        assert told[0].startswith("error: ")
        assert at in told[0]
    assert not Path("results").exists()


def test_what_the_system_refuses_wherever_it_is_met_is_an_error_of_one_line(
    capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied", "/root/x")

    monkeypatch.setattr(store, "load_all", refused)
    assert main(["cite", "suite/row"]) == 2
    assert capsys.readouterr().err == "error: /root/x: Permission denied; mend that, or choose another place\n"


@pytest.mark.usefixtures("_no_hub_of_our_own")
def test_the_client_of_the_hub_gets_a_place_where_it_would_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data._settle_hub(tmp_path / "hub")
    assert os.environ.pop("HF_HOME") == str(tmp_path / "hub")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    data._settle_hub(tmp_path / "hub")
    assert os.environ.pop("HF_HOME") == str(tmp_path / "hub")
    monkeypatch.setenv("HOME", str(tmp_path))
    data._settle_hub(tmp_path / "hub")
    assert "HF_HOME" not in os.environ
    monkeypatch.setenv("HF_HOME", "/read/only")
    data._settle_hub(tmp_path / "hub")
    assert os.environ["HF_HOME"] == "/read/only"
