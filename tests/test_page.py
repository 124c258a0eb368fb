"""docs/index.html in a real browser: it opens from disk, sorts, filters, opens rows, cites, and says what the board says."""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from benchmark import board, page, report
from benchmark.board import Board, Row, Table
from benchmark.errors import LoobenchError
from benchmark.files import write
from benchmark.results import Limits, Result
from benchmark.suites import TASKS

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
QUICK = {name: TASKS[name] for name in ("quick-breast-cancer-mlp-sgd", "quick-digits-mlp-sgd")}
ADULT = {"hara2019-adult-mlp": TASKS["hara2019-adult-mlp"]}
NASTY = '<img src=x onerror="window.broken=1">\n</script> \'"`'
QUALITIES = {"sgd-ie": (0.9, 0.5), "grad-dot": (0.4, 0.02), "dear": (0.6, 3.0), NASTY: (0.2, 0.01), "if-cg": (0.7, 0.2)}


def cited(table: Table, row: Row) -> str:
    """A citation in several lines, with all that a page shares between rows."""
    note = f"Row digest {row.digest[:12]} ({row.digest}). Made."
    return f"@misc{{{row.name},\n  title = {{{row.name} on {table.name}}},\n  note = {{{note}}},\n}}"


def small() -> tuple[list[Result], dict[str, Limits]]:
    """Two suites with whole rows, one that failed, one that is not supported, and one whose name is hostile."""
    made, known = synthetic.everything(QUICK | ADULT, QUALITIES, 3)
    first, second = QUICK.values()
    made += [synthetic.result(first, "half", 2, 0.5), synthetic.failed(second, "half", "crashed", "boom <b>&")]
    return [*made, synthetic.failed(first, "none", "unsupported")], known


def written(made: Board, folder: Path) -> Path:
    """The page of a board in a folder."""
    for name, content in {
        **page.render(made, cite=cited, sources={"sgd-ie": "estimators/sgd_ie.py"}),
        page.LIBRARY: library(),
    }.items():
        write(folder / name, content)
    return folder / "index.html"


def library() -> bytes:
    pytest.importorskip("vl_convert", reason="needs vl-convert-python")
    return page.library()


@pytest.fixture(scope="module")
def small_board() -> Board:
    return board.board(*small())


@pytest.fixture(scope="module")
def address(small_board: Board, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(small_board, tmp_path_factory.mktemp("docs")).as_uri()


class Browser:
    """Chromium without a window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str, *, scheme: str = "light", width: int = 1300, height: int = 900) -> None:
        """Open an address in a fresh page and wait for its table."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(address)
        self.until("return document.querySelectorAll('#board tbody tr').length > 0")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """What a script returns once that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}; the console says {self.said()}")

    def said(self) -> list[str]:
        """What the console said, warnings of the charting library aside."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def paste(self) -> None:
        """Control and v."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).key_down("\ue009").send_keys("v").key_up("\ue009").perform()

    def names(self) -> list[str]:
        """The estimators of the table, in the order shown."""
        found: list[str] = self.run("return [...document.querySelectorAll('#board tbody tr')].map((row) => row.dataset.name)")
        return found

    def cells(self) -> list[list[str]]:
        """The texts of the table's cells."""
        script = (
            "return [...document.querySelectorAll('#board tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        found: list[list[str]] = self.run(script)
        return found

    def sort(self, title: str) -> None:
        """Press the heading of a column."""
        script = "[...document.querySelectorAll('#board th button')].find((one) => one.textContent === arguments[0]).click()"
        self.run(script, title)

    def filter(self, box: str, value: Any) -> None:
        """Set a text or a box of the controls, and say so as browsers do."""
        field = "value" if isinstance(value, str) else "checked"
        say = "for (const kind of ['input', 'change']) one.dispatchEvent(new Event(kind, {bubbles: true}))"
        self.run(f"const one = document.getElementById(arguments[0]); one.{field} = arguments[1]; {say}", box, value)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options, profile = webdriver.ChromeOptions(), tempfile.mkdtemp()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


OPENED = "return document.getElementById('row').open && document.getElementById('row').dataset.name"


# ---- files -----------------------------------------------------------------------------------------------------------
def test_the_same_board_gives_the_same_bytes_and_each_file_is_below_a_megabyte(small_board: Board) -> None:
    once, again = (
        page.render(made, cite=cited, sources={}) for made in (small_board, board.board(small()[0][::-1], small()[1]))
    )

    assert once == again
    assert all(len(content) < page.LIMIT for content in (*once.values(), library()))


def test_a_changed_result_changes_the_page() -> None:
    made, known = small()
    other = replace(made[0], cells={**made[0].cells, "0": replace(made[0].cells["0"], relative_cost=9.0)})
    pages = [page.render(board.board([one, *made[1:]], known), cite=cited, sources={}) for one in (made[0], other)]

    changed = {name for name in pages[0] if pages[0][name] != pages[1][name]}
    assert changed == {"index.html", f"data/suites/{made[0].task['suite']}.js", f"data/tasks/{made[0].name}.js"}


def test_no_name_ends_a_script(small_board: Board) -> None:
    for name, content in page.render(small_board, cite=cited, sources={}).items():
        scripts = content.decode().lower().count("</script")
        assert scripts == (3 if name == "index.html" else 0), name


def test_without_the_charting_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)

    with pytest.raises(LoobenchError, match="pip install vl-convert-python"):
        page.library()


# ---- in the browser --------------------------------------------------------------------------------------------------
def test_it_opens_from_disk_without_errors_and_loads_nothing_from_elsewhere(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.until("return document.querySelectorAll('#charts svg, #charts canvas').length >= 2")
    sources = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")

    assert browser.said() == []
    assert all(source.startswith(("file:", "data:", "blob:")) for source in sources)


@pytest.mark.parametrize("suite", ["quick", "hara2019"])
def test_its_numbers_are_those_of_the_leaderboard(suite: str, browser: Browser, address: str, small_board: Board) -> None:
    browser.open(f"{address}#{suite}")
    [found] = [one for one in small_board.suites if one.name == suite]
    titles, *shown = browser.cells()
    lines = [report.line(row, found.overall.columns, str) for row in found.overall.rows]

    assert titles[:3] == ["group", "estimator", found.overall.columns[0].title]
    assert len(shown) == len(lines)
    for cells, line in zip(shown, lines, strict=True):
        ours = [cell.replace("best", "").strip() for cell in cells[: len(line) - 3]]
        assert [" ".join(cell.split()) for cell in ours] == [" ".join(cell.split()) for cell in line[:-3]]
        assert cells[-3:-1] == line[-3:-1]  # tasks, seeds
        assert [mark for mark in re.split("Pareto|, ", line[-1]) if mark] == list(found.overall.rows[shown.index(cells)].marks)
        assert ("front" in cells[-4]) == ("Pareto" in line[-1])


def test_a_heading_sorts_by_its_numbers_and_again_the_other_way(browser: Browser, address: str, small_board: Board) -> None:
    browser.open(f"{address}#quick")
    [suite] = [one for one in small_board.suites if one.name == "quick"]
    costs = {row.name: row.means["cost"] for row in suite.overall.rows if not np.isnan(row.means["cost"])}
    browser.sort("cost")

    assert [name for name in browser.names() if name in costs] == sorted(costs, key=lambda name: costs[name])
    assert browser.names()[-1] == "none"  # what has no figure stays last
    assert browser.run("return document.querySelector('#board th[aria-sort]').textContent") == "cost"
    browser.press("\ue007")  # Enter, on the heading that has the focus
    assert [name for name in browser.names() if name in costs] == sorted(costs, key=lambda name: -costs[name])
    assert browser.run("return document.querySelector('#board th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_rows_are_filtered_by_text_by_being_complete_and_by_the_front(
    browser: Browser, address: str, small_board: Board
) -> None:
    browser.open(f"{address}#quick")
    [suite] = [one for one in small_board.suites if one.name == "quick"]
    browser.filter("text", "crashed")
    assert browser.names() == ["half"]
    browser.filter("text", "nothing like it")
    assert "No row passes" in browser.run("return document.querySelector('#board tbody').textContent")
    browser.filter("text", "")
    browser.filter("complete", True)
    assert browser.names() == [row.name for row in suite.overall.rows if row.complete]
    browser.filter("front", True)
    assert browser.names() == [row.name for row in suite.overall.rows if row.front]
    assert (
        browser.run("return document.getElementById('count').textContent")
        == f"{len(browser.names())} of {len(suite.overall.rows)} rows"
    )


def test_a_row_opens_by_click_by_keyboard_and_by_its_address_and_gives_the_focus_back(browser: Browser, address: str) -> None:
    browser.open(f"{address}#quick")
    browser.run("document.querySelector('#board tr[data-name=\"dear\"] a').click()")
    assert browser.until(OPENED) == "dear"
    assert browser.run("return location.hash") == "#quick/dear"
    browser.press("\ue00c")  # Escape
    browser.until("return !document.getElementById('row').open")
    assert browser.until("return document.activeElement.textContent") == "dear"
    browser.press("\ue007")
    assert browser.until(OPENED) == "dear"

    browser.open(f"{address}#hara2019-adult-mlp/sgd-ie")
    assert browser.until(OPENED) == "sgd-ie"
    said = browser.run("return document.getElementById('row').textContent")
    for expected in ("damping", "loobench run", "0" * 40, "results file", "tau"):
        assert expected in said
    links = browser.run("return [...document.querySelectorAll('#row a')].map((one) => one.getAttribute('href'))")
    assert {"../estimators/sgd_ie.py", "../results/hara2019-adult-mlp/sgd-ie.json"} <= {*links}
    assert browser.said() == []


def test_a_failure_says_its_reason(browser: Browser, address: str) -> None:
    browser.open(f"{address}#quick/half")
    browser.until(OPENED)

    assert "boom <b>&" in browser.run("return document.getElementById('row').textContent")


@pytest.mark.parametrize("place", ["quick", "hara2019-adult-mlp"])
def test_a_button_copies_the_citation(place: str, browser: Browser, address: str, small_board: Board) -> None:
    browser.open(f"{address}#{place}/sgd-ie")
    browser.until(OPENED)
    [button] = [one for one in browser.driver.find_elements("css selector", "#row button") if one.text == "Copy BibTeX"]
    button.click()
    browser.until("return document.querySelector('#row .said').textContent === 'Copied.'")
    expected = cited(*small_board.find(f"{place}/sgd-ie"))
    assert browser.run("return document.querySelector('#row pre').textContent") == expected

    browser.press("\ue00c")  # Escape
    browser.driver.find_element("id", "text").click()
    browser.paste()
    assert browser.run("return document.getElementById('text').value") == expected.replace("\n", " ")


@pytest.mark.parametrize(("place", "charts"), [("quick", 2), ("hara2019-adult-mlp", 3)])
def test_charts_are_drawn_and_told_in_words(place: str, charts: int, browser: Browser, address: str) -> None:
    browser.open(f"{address}#{place}")
    browser.until(f"return document.querySelectorAll('#charts .chart svg, #charts .chart canvas').length === {charts}")
    sizes = browser.run(
        "return [...document.querySelectorAll('#charts svg, #charts canvas')].map((one) => one.getBoundingClientRect().height)"
    )
    said = browser.run("return [...document.querySelectorAll('#charts .chart')].map((one) => one.getAttribute('aria-label'))")

    assert min(sizes) > 60
    assert min(map(len, said)) > 60, said
    assert browser.said() == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 1300), ("dark", 390), ("light", 360)])
def test_nothing_scrolls_sideways_but_the_table_in_its_box(scheme: str, width: int, browser: Browser, address: str) -> None:
    browser.open(f"{address}#hara2019-adult-mlp", scheme=scheme, width=width, height=844)
    browser.until("return document.querySelectorAll('#charts svg, #charts canvas').length >= 2")
    wide, paper = browser.run("return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]")
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3

    assert wide <= width
    assert (light > 128) == (scheme == "light")


def test_hostile_names_stay_text(browser: Browser, address: str) -> None:
    browser.open(f"{address}#quick")
    browser.until("return document.querySelectorAll('#charts svg, #charts canvas').length >= 2")

    assert NASTY in browser.names()
    browser.run(
        "[...document.querySelectorAll('#board tr')].find((row) => row.dataset.name === arguments[0])"
        ".querySelector('a').click()",
        NASTY,
    )
    assert browser.until(OPENED) == NASTY
    assert browser.run("return document.querySelectorAll('img').length + (window.broken ?? 0)") == 0


def test_an_unknown_row_is_said_and_no_error(browser: Browser, address: str) -> None:
    browser.open(f"{address}#quick/nobody")

    assert browser.until("return document.body.textContent.includes('There is no row nobody')")
    assert browser.said() == []


def test_fifty_estimators_on_sixty_tasks_open_within_two_seconds(browser: Browser, tmp_path: Path) -> None:
    tasks = {f"quick-{i}": replace(TASKS["quick-digits-mlp-sgd"], name=f"quick-{i}") for i in range(60)}
    qualities = {f"estimator-{i}": (0.9 - i / 100, 0.01 * 1.2**i) for i in range(50)}
    at = written(board.board(*synthetic.everything(tasks, qualities, 1)), tmp_path)
    # what else the machine does takes part of each second, so that the quickest of a few counts
    taken = [opening(browser, at.as_uri()) for _ in range(3)]

    assert at.stat().st_size < page.LIMIT
    assert len(browser.names()) == 50
    assert min(taken) < 2.0


def opening(browser: Browser, address: str) -> float:
    """Seconds from the start of the navigation until the table is there."""
    browser.open(address)
    return float(browser.run("return performance.timing.loadEventEnd - performance.timing.navigationStart")) / 1000


def test_records_are_json_for_other_readers(address: str) -> None:
    from urllib.parse import urlparse

    text = Path(urlparse(address).path).read_text()
    records = json.loads(re.findall(r'<script id="records" type="application/json">(.*?)</script>', text, re.S)[0])

    assert [suite["name"] for suite in records["suites"]] == ["quick", "hara2019"]
