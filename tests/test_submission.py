"""Bundles: what is written comes back, and what a stranger may have changed is refused with the rule, never a traceback."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import synthetic

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core import registry
from benchmark.core.syntax import source_digest
from benchmark.scores import results, store
from benchmark.scores.results import Claim, Result, Verification
from benchmark.scores.store import Store
from benchmark.submissions import submission
from benchmark.submissions.bundle import MOST_BYTES, MOST_FILES, Bundle, read, value
from benchmark.tasks import suites
from benchmark.tasks.definition import record_digest

SOURCE = """
from benchmark.estimating import estimator

@estimator("halfway", paper="A paper, 2026")
@estimator("halfway-late", paper="A paper, 2026", at=0.9)
def halfway(run, at=0.5):
    return run.problem.gradients(run.params(int(at * run.problem.steps)), run.problem.train) @ run.query_gradients().T
"""
NAMES = ("halfway", "halfway-late")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with halfway.py, its results on all of suite core, and the bundle of both."""
    root = tmp_path_factory.mktemp("made")
    (root / "halfway.py").write_text(SOURCE)
    for estimator in registry.resolve([str(root / "halfway.py")]):
        for task in suites.CORE.tasks:
            Store(root / "results").keep(scored(results.blank(task, "cpu", estimator), task, estimator.name))
    submission.write(NAMES, root / "results", root / "halfway.py", root / "out", "A. Newcomer")
    return root


def scored(blank: Result, task: Any, name: str) -> Result:
    for seed in range(suites.CORE.seeds):
        blank = blank.with_cell(seed, synthetic.cell(task, name, seed, 0.7, 0.1), synthetic.PROVENANCE)
    return blank


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoilt."""
    return Path(copytree(made / "out" / "halfway", tmp_path / "halfway"))


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of the submitter's folder, to be spoilt."""
    return Path(copytree(made, tmp_path / "own"))


def write(own: Path, names: tuple[str, ...] = NAMES, by: str = "A. Newcomer") -> Bundle:
    return submission.write(names, own / "results", own / "halfway.py", own / "out", by)


def files(folder: Path) -> list[Path]:
    return sorted(at for at in folder.rglob("*") if at.is_file())


def reseal(folder: Path) -> None:
    """Give the bundle the manifest that its files would have."""
    names = [at.relative_to(folder).as_posix() for at in files(folder) if at.name != "manifest.json"]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    source = next(name for name in names if name.endswith(".py"))
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "estimator file": source, "files": hashes}))


def first(folder: Path) -> Path:
    return next(at for at in files(folder) if at.suffix == ".json" and at.name != "manifest.json")


def change(folder: Path, how: Callable[[Result], Result]) -> None:
    """Rewrite one result with a right digest of its own, and the manifest with right hashes."""
    at = first(folder)
    at.write_bytes(store.packed(how(store.load(at))))
    reseal(folder)


# ---- round trip ----------------------------------------------------------------------------------------------------
def test_what_is_written_is_read_back_with_claims_and_nothing_else_changed(made: Path) -> None:
    found = read(made / "out" / "halfway")

    assert found.source.read_bytes() == (made / "halfway.py").read_bytes()
    assert found.names == sorted(NAMES)
    assert len(found.results) == 2 * len(suites.CORE.tasks) == 28
    for result in found.results:
        before = store.load(Store(made / "results").at(result))
        assert result.substance == before.substance
        assert result.claimed
        assert result.claimed.by == "A. Newcomer"
        queries = [score for cell in before.cells.values() for score in cell.by_query if score is not None]
        assert result.claimed.value == pytest.approx(np.mean(queries), rel=1e-5)
        assert not result.trusted
    submission.refuse_incomplete(found)


def test_the_manifest_has_plain_sha256_of_all_other_files(made: Path) -> None:
    folder = made / "out" / "halfway"
    manifest = json.loads((folder / "manifest.json").read_text())

    assert manifest["format"] == 1
    assert manifest["estimator file"] == "estimators/halfway.py"
    others = [at for at in files(folder) if at.name != "manifest.json"]
    assert manifest["files"] == {
        at.relative_to(folder).as_posix(): hashlib.sha256(at.read_bytes()).hexdigest() for at in others
    }


def test_writing_again_replaces_the_bundle_and_leaves_nothing_beside_it(own: Path) -> None:
    write(own)
    found = write(own, by="Another")

    assert {result.claimed and result.claimed.by for result in found.results} == {"Another"}
    assert [at.name for at in (own / "out").iterdir()] == ["halfway"]


def test_failed_cells_are_allowed_but_one_must_be_scored(own: Path) -> None:
    for name in NAMES:
        for at in sorted((own / "results").glob(f"*/{name}.json"))[1:]:
            failing(at, "crashed")
    assert sum(result.claimed is not None and result.claimed.value is None for result in write(own).results) == 26
    for name in NAMES:
        failing(min((own / "results").glob(f"*/{name}.json")), "unsupported")
    with pytest.raises(LoobenchError, match="has no scored cell"):
        write(own)


def failing(at: Path, status: str) -> None:
    found = store.load(at)
    for seed, cell in found.cells.items():
        broken = replace(cell, status=status, message="it broke", scores={}, by_query=[], points=[])
        found = found.with_cell(int(seed), broken, synthetic.PROVENANCE)
    Store(at.parents[1]).keep(found)


def test_results_on_other_suites_come_along_where_they_are_of_this_file_and_loobench(own: Path) -> None:
    (estimator, *_) = registry.resolve([str(own / "halfway.py")])
    more = [suites.TASKS[name] for name in ("hara2019-mnist-logistic", "hara2019-mnist-mlp", "acc2025-mnist-mlp-clean")]
    assert not set(more) & set(suites.CORE.tasks)
    first_of, second, third = (scored(results.blank(task, "cpu", estimator), task, estimator.name) for task in more)
    for result in (first_of, described(second, source="0" * 64), of_protocol(third, "0.9")):
        Store(own / "results").keep(result)
    found = write(own, (estimator.name,))

    assert {result.name for result in found.results} == {more[0].name, *(task.name for task in suites.CORE.tasks)}


def of_protocol(result: Result, protocol: str) -> Result:
    """The result as another protocol would have it."""
    return replace(result, protocol=protocol, task_digest=record_digest(result.task, protocol))


# ---- what cannot be submitted ----------------------------------------------------------------------------------------
def test_a_task_that_is_missing_is_named(own: Path) -> None:
    first(own / "results").unlink()
    with pytest.raises(LoobenchError, match=r"needs all tasks of suite core.*loobench run --suite core"):
        write(own)


def test_a_seed_that_is_missing_is_named(own: Path) -> None:
    found = store.load(first(own / "results"))
    Store(own / "results").keep(replace(found, cells={"0": found.cells["0"]}))
    with pytest.raises(LoobenchError, match="lacks seed 1"):
        write(own)


def test_results_of_another_version_of_the_file_are_refused(own: Path) -> None:
    (own / "halfway.py").write_text(SOURCE + "changed = 1\n")
    with pytest.raises(LoobenchError, match="another version of the file"):
        write(own)


def test_results_of_another_loobench_are_refused(own: Path) -> None:
    Store(own / "results").keep(of_protocol(store.load(first(own / "results")), "0.9"))
    with pytest.raises(LoobenchError, match="another version of loobench"):
        write(own)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Halfway.py", "named as a module"), ("half-way.py", "named as a module"), ("sgd_ie.py", "another estimator's file")],
)
def test_a_file_name_that_is_no_module_or_is_taken_is_refused(own: Path, name: str, message: str) -> None:
    (own / name).write_text(SOURCE)
    with pytest.raises(LoobenchError, match=message):
        submission.write(NAMES, own / "results", own / name, own / "out", "A. Newcomer")


@pytest.mark.parametrize("by", ["", "  ", "two\nlines", "<b>bold</b>", "x" * 101])
def test_a_name_of_the_submitter_that_is_no_line_of_text_is_refused_and_nothing_is_left(own: Path, by: str) -> None:
    (before,) = (own / "out").iterdir()
    with pytest.raises(LoobenchError, match=r"claimed\.by: expected one line"):
        write(own, by=by)
    assert list((own / "out").iterdir()) == [before]


def test_a_folder_that_is_no_bundle_is_not_replaced(own: Path) -> None:
    (own / "out" / "halfway" / "manifest.json").unlink()
    with pytest.raises(LoobenchError, match="is no bundle"):
        write(own)


# ---- what is refused on reading --------------------------------------------------------------------------------------
def verification(result: Result) -> Verification:
    return Verification("verified", 0.7, 0.7, 0.0, ["0"], "n", "me", "2026-01-01T00:00:00+00:00", "x", result.substance)


def better(result: Result) -> Result:
    before = result.cells["0"]
    curve = [*before.scores["kendall"][:-1], 1.0]
    cell = replace(before, by_query=[1.0] * len(before.by_query), scores={**before.scores, "kendall": curve})
    return replace(result, cells={**result.cells, "0": cell})


def described(result: Result, **changes: Any) -> Result:
    estimator = replace(result.estimator, **changes)
    stated = {"name": estimator.name, "settings": estimator.settings, "source": estimator.source}
    return replace(result, estimator=replace(estimator, identity=results.json_digest(stated)))


def claiming(result: Result, **changes: Any) -> Result:
    assert result.claimed
    return replace(result, claimed=replace(result.claimed, **changes))


def of_another_task(result: Result) -> Result:
    record = {**result.task, "train": 7}
    return replace(result, task=record, task_digest=record_digest(record, result.protocol))


CHANGES: dict[str, tuple[Callable[[Result], Result], str]] = {
    "verified by itself": (lambda r: replace(r, verified=verification(r)), "carries a verification"),
    "no claim": (lambda r: replace(r, claimed=None), "claims nothing"),
    "a claim its cells do not give": (lambda r: claiming(r, value=0.99), "its cells give"),
    "better cells under the old claim": (better, "its cells give"),
    "a claim of no time": (lambda r: claiming(r, when="yesterday"), "expected a time"),
    "a claim with HTML": (lambda r: claiming(r, environment="<script>"), "one line"),
    "a claim of nobody": (lambda r: claiming(r, by=" "), "one line"),
    "a paper with HTML": (lambda r: described(r, paper="<img src=x>"), "one line"),
    "another source": (lambda r: described(r, source="0" * 64), "source digest is not"),
    "other settings": (
        lambda r: replace(r, estimator=replace(r.estimator, settings={"at": 0.7})),
        "identity is not the digest",
    ),
    "another name": (lambda r: described(r, name="other"), "it holds the result"),
    "a name that climbs": (lambda r: described(r, name="../../evil"), "no name of an estimator"),
    "a name of two words": (lambda r: described(r, name="a b"), "no name of an estimator"),
    "another task": (of_another_task, "expected digest"),
    "a task that is not there": (lambda r: replace(r, task={**r.task, "name": "nowhere"}), "has no task"),
    "another suite": (lambda r: replace(r, task={**r.task, "suite": "mine"}), "expected digest"),
    "another device": (lambda r: replace(r, device="cuda"), "expected results of the CPU"),
    "another protocol": (
        lambda r: replace(r, protocol="0", task_digest=record_digest(r.task, "0")),
        "expected digest",
    ),
    "a seed beyond all": (lambda r: replace(r, cells={**r.cells, "100": r.cells["0"]}), "seeds are 0 to 99"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_result_that_is_sealed_again_after_a_change_is_refused(bundle: Path, name: str) -> None:
    how, message = CHANGES[name]
    change(bundle, how)
    with pytest.raises(LoobenchError, match=message):
        read(bundle)


def test_cells_and_claim_raised_alike_pass_reading_and_are_left_to_verification(bundle: Path) -> None:
    change(bundle, lambda r: claiming(better(r), value=value(better(r))))
    assert read(bundle)


PLACES = (
    *("notes.txt", "estimators/second.py.txt", "results/loose.json", "results/a/b/deep.json", "estimators/x/y.py"),
    *("estimators/Upper.py", "results/task/x\ny.json", "results/task/<b>.json", "results/task/a\\b.json", ".hidden"),
    *("results/..task/x.json", "estimators/no-module.py", "manifest.json.bak"),
)


@pytest.mark.parametrize("name", PLACES)
def test_a_file_outside_the_layout_is_refused_whether_or_not_the_manifest_has_it(bundle: Path, name: str) -> None:
    (at := bundle / name).parent.mkdir(parents=True, exist_ok=True)
    at.write_text("{}")
    for seal in (lambda: None, lambda: reseal(bundle)):
        seal()
        with pytest.raises(LoobenchError, match="a bundle has") as refused:
            read(bundle)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["../outside.py", "/etc/passwd", "estimators/../../x.py", "results/a/b\x00.json", ""])
def test_a_manifest_that_names_a_place_outside_the_layout_is_refused(bundle: Path, name: str) -> None:
    edit(bundle, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(LoobenchError, match="a bundle has"):
        read(bundle)


def edit(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    how(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda m: m.update({"format": 2}), "expected format 1"),
    "a format that is no number": (lambda m: m.update({"format": True}), "expected format 1"),
    "an added field": (lambda m: m.update({"note": "x"}), "exactly"),
    "a field less": (lambda m: m.pop("files"), "exactly"),
    "files that are no object": (lambda m: m.update({"files": []}), "expected under files"),
    "a hash that is no text": (lambda m: m["files"].update({"estimators/halfway.py": 1}), "expected under files"),
    "a wrong hash": (lambda m: m["files"].update({"estimators/halfway.py": "0" * 64}), "changed after the manifest"),
    "a file that is not there": (lambda m: m["files"].update({"results/a/b.json": "0" * 64}), "but not there"),
    "a file less": (lambda m: m["files"].pop("estimators/halfway.py"), "not in the manifest"),
    "another estimator file": (lambda m: m.update({"estimator file": "estimators/x.py"}), "one source file"),
    "an estimator file that is none": (lambda m: m.update({"estimator file": ["a"]}), "one source file"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_does_not_fit_the_files_is_refused(bundle: Path, name: str) -> None:
    how, message = MANIFESTS[name]
    edit(bundle, how)
    with pytest.raises(LoobenchError, match=message):
        read(bundle)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", "[" * 100_000, '{"format": 1, "format": 1}', "NaN"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoobenchError, match=r"manifest\.json"):
        read(bundle)


def test_a_manifest_that_says_a_thing_twice_is_refused(bundle: Path) -> None:
    text = (at := bundle / "manifest.json").read_text()
    at.write_text(text.replace('"format": 1,', '"format": 1, "format": 1,'))
    with pytest.raises(LoobenchError, match="a key is there twice"):
        read(bundle)


def test_an_empty_folder_outside_the_layout_is_refused(bundle: Path) -> None:
    (bundle / "notes").mkdir()
    with pytest.raises(LoobenchError, match="a bundle has the folders"):
        read(bundle)


def test_a_number_that_no_float_can_hold_is_refused(bundle: Path) -> None:
    content = json.loads((at := first(bundle)).read_text())
    content.pop("digest")
    content["cells"]["0"]["seconds"] = 10**400
    at.write_text(json.dumps({**content, "digest": results.json_digest(content)}))
    reseal(bundle)
    with pytest.raises(LoobenchError, match="is not a valid result"):
        read(bundle)


@pytest.mark.parametrize(
    "inner", ["[" * 900 + "]" * 900, '{"a":' * 400 + "1" + "}" * 400, '["]]]]\\"", ' * 50 + "1" + "]" * 50]
)
def test_a_result_that_is_nested_deep_is_refused(bundle: Path, inner: str) -> None:
    text = (at := first(bundle)).read_text()
    at.write_text(text.replace('"settings": {', f'"settings": {{"deep": {inner}, ', 1))
    assert inner in at.read_text()
    reseal(bundle)
    with pytest.raises(LoobenchError, match=r"nested \d+ deep"):
        read(bundle)


def test_what_a_result_quotes_of_a_stranger_is_one_printable_line(bundle: Path) -> None:
    content = {**json.loads((at := first(bundle)).read_text()), "a\n\x1b[31m": 1}
    content.pop("digest")
    at.write_text(json.dumps({**content, "digest": results.json_digest(content)}))
    reseal(bundle)
    with pytest.raises(LoobenchError, match="unknown a") as refused:
        read(bundle)
    assert str(refused.value).isprintable()


def test_links_pipes_and_second_sources_are_refused(bundle: Path) -> None:
    at = first(bundle)
    content = at.read_bytes()
    at.unlink()
    at.symlink_to(bundle / "manifest.json")
    with pytest.raises(LoobenchError, match="no links"):
        read(bundle)
    at.unlink()
    os.mkfifo(at)
    with pytest.raises(LoobenchError, match="no links"):
        read(bundle)
    at.unlink()
    at.write_bytes(content)
    (bundle / "estimators" / "second.py").write_text(SOURCE)
    reseal(bundle)
    with pytest.raises(LoobenchError, match="one source file"):
        read(bundle)


def test_a_linked_folder_and_a_folder_that_is_none_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    for folder in (tmp_path / "link", tmp_path / "nowhere", bundle / "manifest.json"):
        with pytest.raises(LoobenchError, match="is no folder"):
            read(folder)
    (bundle / "results" / "linked").symlink_to(tmp_path)
    with pytest.raises(LoobenchError, match="no links"):
        read(bundle)


def test_large_files_and_many_files_are_refused(bundle: Path) -> None:
    source = bundle / "estimators" / "halfway.py"
    source.write_text(SOURCE + "#" * MOST_BYTES)
    reseal(bundle)
    with pytest.raises(LoobenchError, match="at most 1000000"):
        read(bundle)
    source.write_text(SOURCE)
    (bundle / "results" / "many").mkdir()
    for number in range(MOST_FILES):
        (bundle / "results" / "many" / f"{number}.json").touch()
    with pytest.raises(LoobenchError, match="more than 2000 files"):
        read(bundle)


def test_a_bundle_without_results_or_without_manifest_is_refused(bundle: Path) -> None:
    for at in files(bundle / "results"):
        at.unlink()
    reseal(bundle)
    with pytest.raises(LoobenchError, match="has no results"):
        read(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(LoobenchError, match=r"has no manifest\.json"):
        read(bundle)


def test_a_bundle_that_leaves_a_task_of_the_suite_out_is_read_but_not_complete(bundle: Path) -> None:
    first(bundle).unlink()
    reseal(bundle)
    found = read(bundle)
    with pytest.raises(LoobenchError, match="lacks 2 of 28 cells"):
        submission.refuse_incomplete(found)


# ---- corruption at random --------------------------------------------------------------------------------------------
def flipped(at: Path, random: np.random.RandomState) -> None:
    content = bytearray(at.read_bytes())
    content[random.randint(len(content))] ^= 1 << random.randint(8)
    at.write_bytes(bytes(content))


def cut(at: Path, random: np.random.RandomState) -> None:
    at.write_bytes(at.read_bytes()[: random.randint(at.stat().st_size)])


def renamed(at: Path, random: np.random.RandomState) -> None:
    letters = [chr(value) for value in random.randint(1, 128, 6) if chr(value) != "/"]
    at.rename(at.with_name("".join(letters)[:5] + at.suffix))


def added(at: Path, random: np.random.RandomState) -> None:
    at.with_name(f"{random.randint(10**6)}{at.suffix}").write_bytes(random.bytes(random.randint(1, 100)))


def spoilt_manifest(at: Path, random: np.random.RandomState) -> None:
    """A field of the manifest is dropped, set to another kind of value, or added."""
    manifest = json.loads((folder := top(at)).joinpath("manifest.json").read_text())
    where = manifest["files"] if random.randint(2) else manifest
    key = sorted(where)[random.randint(len(where))]
    value = [None, 1, "x", [], {}, True, 1e300][random.randint(7)]
    [lambda: where.pop(key), lambda: where.update({key: value}), lambda: where.update({str(value): value})][random.randint(3)]()
    folder.joinpath("manifest.json").write_text(json.dumps(manifest))


def top(at: Path) -> Path:
    return next(folder for folder in at.parents if (folder / "manifest.json").exists())


def sealed_field(at: Path, random: np.random.RandomState) -> None:
    """A field of a result is dropped, set or added at any depth, and result and manifest are sealed again."""
    if at.suffix != ".json" or at.name == "manifest.json":
        at = first(top(at))
    content = json.loads(at.read_text())
    content.pop("digest")
    where: Any = content
    while isinstance(inner := where[sorted(where)[random.randint(len(where))]], dict) and inner and random.randint(4):
        where = inner
    key = sorted(where)[random.randint(len(where))]
    value = [None, 1, "x", [], {}, True, 10**400, "<b>", -1.5][random.randint(9)]
    [lambda: where.pop(key), lambda: where.update({key: value}), lambda: where.update({"more": value})][random.randint(3)]()
    at.write_text(json.dumps({**content, "digest": results.json_digest(content)}))
    reseal(top(at))


CORRUPTIONS = (flipped, cut, Path.unlink, renamed, added, spoilt_manifest, sealed_field)


def test_two_hundred_random_corruptions_are_each_detected_or_harmless(made: Path, tmp_path: Path) -> None:
    """Harmless is what leaves all that a bundle says as it was, or, where all was sealed again, what a claim may say."""
    expected = read(made / "out" / "halfway")
    messages = []
    for number in range(200):
        random, how = stream("corruption", number), CORRUPTIONS[number % len(CORRUPTIONS)]
        folder = Path(copytree(made / "out" / "halfway", tmp_path / f"{number}"))
        chosen = files(folder)
        arguments = () if how is Path.unlink else (random,)
        how(chosen[random.randint(len(chosen))], *arguments)  # type: ignore[operator]
        try:
            found = read(folder)
        except LoobenchError as error:
            messages.append(str(error))
            continue
        assert how in (flipped, spoilt_manifest, sealed_field)
        assert found.source.read_bytes() == expected.source.read_bytes()
        if how is not sealed_field:
            assert found.results == expected.results
    assert all(map(str.isprintable, messages))
    assert len(messages) >= 180


def test_the_estimator_file_is_named_by_the_digest_that_results_have(made: Path) -> None:
    found = read(made / "out" / "halfway")
    assert {result.estimator.source for result in found.results} == {source_digest(found.source.read_bytes())}
    assert isinstance(found.results[0].claimed, Claim)
