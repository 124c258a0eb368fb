"""Published figures beside ours: the rule of the verdict, and two defects computed rather than asserted."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import MODELS, problem
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.core.optimizers import Adam, Sgd
from benchmark.core.problem import Problem
from benchmark.core.registry import registered
from benchmark.core.solvers import System
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import estimate
from benchmark.scores import store
from benchmark.studies import comparison, extras, judging, reproduce
from benchmark.studies.judging import half_width, judge, ours, shape
from benchmark.studies.published import DECAYS, KOH_LIANG, METHODS, PUBLISHED, Published
from benchmark.studies.reproduce import Study
from benchmark.tasks import suites
from benchmark.tasks.definition import Task, build
from benchmark.truths import truth
from benchmark.truths.effects import GroundTruth

QUICK = suites.TASKS["quick-breast-cancer-logistic-sgd"]
DECAYING = Sgd(0.3, schedule="inverse-sqrt")
FIVE = [0.80, 0.85, 0.75, 0.825, 0.775]  # mean .8


def figure(value: float | None, **changes: object) -> Published:
    return replace(Published("hara2019", "table", "row", ("a", "b"), "mine", "kendall", value), **changes)  # type: ignore[arg-type]


def verdict(published: Published, values: list[float]) -> str:
    return judge(published, values).verdict


def scores(**rows: list[list[float | None]]) -> dict[tuple[str, str], dict[int, judging.Figures]]:
    """Scores by task_estimator: for each seed the values at the horizons."""
    return {
        (name.split("_")[0], name.split("_")[1]): {seed: {"kendall": values} for seed, values in enumerate(seeds)}
        for name, seeds in rows.items()
    }


# ---- the rule --------------------------------------------------------------------------------------------------------
def test_a_figure_in_our_interval_as_measured_is_reproduced_and_in_the_widened_one_alone_it_is_not_refuted() -> None:
    half, error = half_width(FIVE), 0.1 / 30**0.5
    assert half == pytest.approx(2.7764451 * (0.00625 / 4 / 5) ** 0.5)
    assert half < 0.1

    for sign in (1, -1):
        assert verdict(figure(0.8 + sign * (half - 1e-9)), FIVE) == "reproduced"
        assert verdict(figure(0.8 + sign * (half + 1e-9)), FIVE) == "not reproduced"  # without a published deviation
        assert verdict(figure(0.8 + sign * (half - 1e-9), deviation=0.1), FIVE) == "reproduced"
        assert verdict(figure(0.8 + sign * (half + 1e-9), deviation=0.1), FIVE) == "not refuted"
        assert verdict(figure(0.8 + sign * (half + 2 * error - 1e-9), deviation=0.1), FIVE) == "not refuted"
        assert verdict(figure(0.8 + sign * (half + 2 * error + 1e-9), deviation=0.1), FIVE) == "not reproduced"
        assert verdict(figure(0.8 + sign * 0.0999, deviation=9.0), FIVE) == "not refuted"
        assert verdict(figure(0.8 + sign * 0.1001, deviation=9.0), FIVE) == "not reproduced"


def test_a_figure_up_to_three_hundredths_away_is_not_refuted_however_narrow_our_interval() -> None:
    assert verdict(figure(0.5), [0.5] * 5) == "reproduced"
    assert verdict(figure(0.5), [0.5299] * 5) == verdict(figure(0.5), [0.4701] * 5) == "not refuted"
    assert verdict(figure(0.5), [0.5301] * 5) == "not reproduced"


def test_an_interval_that_holds_everything_reproduces_nothing() -> None:
    wide = [0.5, 1.1, 0.8, 0.6, 1.0]
    half = half_width(wide)
    assert half > 0.2

    assert judge(figure(0.8), wide).verdict == "not refuted"
    assert judge(figure(0.8), wide).reason == f"our interval is too wide to tell: it reaches {half:.3f}"
    assert verdict(figure(0.8 - half + 1e-9), wide) == "not refuted"
    assert verdict(figure(0.8 - half - 1e-9), wide) == "not reproduced"


def test_fewer_than_five_seeds_can_reproduce_a_figure_and_say_nothing_else() -> None:
    assert verdict(figure(0.5), [0.499, 0.501, 0.5]) == "reproduced"
    for values in ([0.5299] * 4, [0.5301] * 4, [0.1, 0.9, 0.5]):
        assert verdict(figure(0.5), values) == "too few seeds"
    words = "off by 0.030, our interval reaches 0.000, the widened one 0.030: `loobench reproduce hara2019 --seeds 5`"
    assert judge(figure(0.5), [0.5301] * 4).reason == words


def test_a_gain_whose_interval_holds_zero_too_is_not_reproduced_and_not_refuted() -> None:
    gain = figure(0.10, kind="gain", against="other")
    clear, unclear = [0.02, 0.10, 0.03, 0.12, 0.05], [-0.06, 0.12, 0.0, 0.09, 0.05]

    assert half_width(unclear) < 0.1
    assert verdict(gain, clear) == "reproduced"
    assert (judge(gain, unclear).verdict, judge(gain, unclear).reason) == ("not refuted", "our interval holds 0 too")
    assert verdict(replace(gain, value=0.3), unclear) == "not reproduced"


def test_a_bound_is_reproduced_where_our_whole_interval_is_on_its_side() -> None:
    for kind, side in (("at least", 1), ("at most", -1)):
        bound, wide = figure(0.5, kind=kind), [-0.2, 0.2, -0.15, 0.15, 0.0]
        assert verdict(bound, [0.5 + side * 0.3] * 2) == "reproduced"
        assert verdict(bound, [0.5 + side * (0.3 + value) for value in wide]) == "reproduced"
        assert verdict(bound, [0.5 + side * (0.1 + value) for value in wide]) == "not refuted"
        assert verdict(bound, [0.5 - side * 0.02] * 5) == "not refuted"
        assert verdict(bound, [0.5 - side * 0.04] * 5) == "not reproduced"


def test_a_direction_takes_its_sign_and_an_interval_without_zero() -> None:
    for claim in (figure(-0.001, kind="direction"), figure(None, kind="control")):
        assert verdict(claim, [-0.01, -0.011]) == "reproduced"
        assert verdict(claim, [-0.01, -0.001]) == "too few seeds"
        assert verdict(claim, [-0.05, 0.01, 0.01, 0.01, -0.001]) == "not refuted"
        assert verdict(claim, [0.05, -0.01, -0.01, -0.01, 0.001]) == "not refuted"
        assert verdict(claim, [0.01, 0.011, 0.01, 0.011, 0.01]) == "not reproduced"
    assert verdict(figure(0.001, kind="direction"), [0.01, 0.011]) == "reproduced"


def test_missing_results_are_not_run_with_the_command_and_a_reason_makes_a_figure_not_comparable() -> None:
    assert judge(figure(0.5), []).reason == "`loobench reproduce hara2019`"
    assert judge(figure(0.5), [0.5]).verdict == "too few seeds"
    assert judge(figure(0.5), [0.5]).reason == "one seed has no interval: `loobench reproduce hara2019 --seeds 5`"
    assert judge(figure(0.5, comparable="other data"), FIVE).verdict == "not comparable"


# ---- ours ------------------------------------------------------------------------------------------------------------
def test_ours_is_the_mean_over_tasks_of_each_seed_that_has_all() -> None:
    found = scores(a_mine=[[0.1, 0.2], [0.3, 0.4], [0.5, None]], b_mine=[[0.5, 0.6], [0.7, 0.2], [0.1, 0.1], [0.1, 0.1]])

    assert ours(figure(0.0), found) == pytest.approx([0.4, 0.3])
    assert ours(figure(0.0, horizon="first"), found) == pytest.approx([0.3, 0.5])
    assert ours(figure(0.0, horizon="mean"), found) == pytest.approx([0.35, 0.4])
    assert ours(figure(0.0), scores(a_mine=[[0.1]])) == []


def test_a_gain_is_the_paired_relative_change_of_the_averages() -> None:
    mine: dict[str, list[list[float | None]]] = {"a_mine": [[0.6], [0.2]], "b_mine": [[0.3], [0.4]]}
    other: dict[str, list[list[float | None]]] = {"a_other": [[0.5], [-0.9], [1.0]], "b_other": [[0.1], [0.1], [1.0]]}
    gain = figure(0.0, kind="gain", against="other")

    assert ours(gain, scores(**mine, **other)) == pytest.approx([0.9 / 0.6 - 1, (0.6 + 0.8) / 0.8])


def test_the_shape_is_reproduced_where_the_gradient_product_falls_and_a_second_order_method_falls_less() -> None:
    def found(dot: list[float], cg: list[float]) -> judging.Scores:
        cells: Mapping[str, list[float]] = {"grad-dot": dot, "if-cg": cg}
        return {("t", name): {seed: {"cosine": [*values]} for seed in (0, 1)} for name, values in cells.items()}

    assert shape(found([0.9, 0.5], [0.4, 0.7]), "t") == ("reproduced", "grad-dot -0.400; if-cg ends at 0.700 against its 0.500")
    assert shape(found([0.9, 0.5], [0.4, 0.3]), "t")[0] == "reproduced"
    assert shape(found([0.9, 0.5], [0.6, 0.1]), "t")[0] == "not reproduced"
    assert shape(found([0.5, 0.9], [0.4, 0.95]), "t") == ("not reproduced", "grad-dot does not fall")
    assert shape({}, "t") == ("not run", "`loobench reproduce wei2025`")


def test_every_published_figure_is_of_tasks_estimators_and_metrics_that_are_there() -> None:
    for one in PUBLISHED:
        assert all(name in suites.TASKS for name in one.tasks), one
        assert {one.estimator, one.against or "sgd-ie"} - {KOH_LIANG} <= registered().keys(), one
    assert {one.estimator for one in DECAYS} == {*METHODS}
    drops = {k for task in suites.suite("cleansing").tasks if task.uses for k in task.uses.drop}
    judged = [one.metric for one in PUBLISHED if "_error_" in one.metric]
    assert {int(name.rsplit("_", 1)[1]) for name in judged} <= drops
    assert [extra.name for extra in extras.EXTRAS if not extra.tasks()] == []


# ---- the page and the command ----------------------------------------------------------------------------------------
def test_the_page_is_a_pure_function_of_the_scores_and_says_what_is_not_run() -> None:
    name = "hara2019-adult-logistic"
    found: dict[tuple[str, str], dict[int, judging.Figures]] = {
        (name, "sgd-ie"): {seed: {"kendall": [0.1, 0.93 + 1e-5 * (seed - 2)]} for seed in range(5)}
    }
    page = comparison.page(found)

    assert page == comparison.page({key: dict(reversed([*value.items()])) for key, value in found.items()})
    row = next(line for line in page.splitlines() if "adult logistic" in line and "sgd-ie" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:] == ["tau", "0.930 (sd 0.02)", "0.930 ± 0.000", "5", "reproduced", "within our interval"]
    assert "`loobench reproduce acc2025`" in page
    assert page.count("| not run") > 40
    assert judging.RULE in page


def test_an_unknown_paper_is_bad_input_that_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "hara2018"]) == 2
    assert capsys.readouterr().err == "error: unknown paper 'hara2018': known: hara2019, acc2025, wei2025\n"


def test_without_running_nothing_is_trained_and_the_page_is_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = {reproduce: ("execute", "superseded", "_compute"), extras: ("estimate", "build")}
    for module, name in ((module, name) for module, names in acts.items() for name in names):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(truth, "answer", lambda *_: pytest.fail("it trained"))

    assert main(["reproduce", "--no-run", "--out", "one.md"]) == 0
    assert main(["reproduce", "wei2025", "--no-run", "--out", "two.md"]) == 0
    assert Path("one.md").read_bytes() == Path("two.md").read_bytes()
    assert not Path("my-results").exists()


def study(tmp_path: Path, *papers: str, seeds: tuple[int, ...] | None = (0, 1)) -> Study:
    return Study(papers, seeds, tmp_path / "cache", tmp_path / "results", tmp_path / "figures")


def test_the_plans_hold_every_needed_pair_once(tmp_path: Path) -> None:
    found = reproduce.plans(study(tmp_path, "hara2019", "acc2025", "wei2025", seeds=None))
    pairs = [(task, e.name) for plan in found for task in plan.tasks for e in plan.estimators]

    assert sorted((task.name, name) for task, name in pairs) == sorted(
        (task.name, name) for task, name in reproduce.needed(("hara2019", "acc2025", "wei2025"))
    )
    assert len(pairs) == len({*pairs})
    assert {len(s) for plan in found for task, s in zip(plan.tasks, plan.seeds, strict=True) if task.suite == "acc2025"} == {20}


def test_the_committed_page_is_what_results_and_figures_give() -> None:
    root = Path(__file__).resolve().parents[1]
    committed = Study((), None, Path("cache"), root / "results", root / "docs" / "reproduction")

    assert (root / "docs" / "reproduction.md").read_text() == comparison.page(reproduce.gather(committed))


class Silent:
    """A progress bar that shows nothing."""

    def update(self, n: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def silent(_total: int, _text: str, _unit: str) -> Silent:
    return Silent()


def test_a_figure_is_run_once_kept_and_read_from_results_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tuple(figure(0.9, tasks=(QUICK.name,), estimator=e) for e in ("sgd-ie", KOH_LIANG))
    for module in (reproduce, judging):
        monkeypatch.setattr(module, "PUBLISHED", published)
    extra = replace(extras.EXTRAS[0], tasks=lambda: [QUICK])
    monkeypatch.setattr(reproduce, "EXTRAS", (extra,))
    mine = study(tmp_path, "hara2019")

    assert list(reproduce.fill(mine, silent)) == []
    found = reproduce.gather(mine)
    at = store.load(tmp_path / "results" / QUICK.name / "sgd-ie.json")
    assert found[QUICK.name, "sgd-ie"] == {int(seed): cell.scores for seed, cell in at.cells.items()}
    assert [*found[QUICK.name, KOH_LIANG]] == [0, 1]
    assert all(cell["kendall"][0] or 0 > 0.3 for cell in found[QUICK.name, KOH_LIANG].values())
    assert "verdict" in comparison.page(found)

    monkeypatch.setattr(truth, "answer", lambda *_: pytest.fail("it trained"))
    assert list(reproduce._fill_extra(mine, extra, silent)) == []


def test_kept_figures_of_another_version_and_broken_ones_do_not_count(tmp_path: Path) -> None:
    extra = extras.EXTRAS[0]
    extras.keep(extra, QUICK, tmp_path, {0: {KOH_LIANG: {"kendall": [0.5]}}})

    assert extras.kept(extra, QUICK, tmp_path) == {0: {KOH_LIANG: {"kendall": [0.5]}}}
    assert extras.kept(replace(extra, version=2), QUICK, tmp_path) == {}
    assert extras.kept(replace(extra, version=2), QUICK, tmp_path, current=False)  # what the page shows until it is run again
    assert extras.kept(extra, replace(QUICK, batch=5), tmp_path, current=False) == {}
    extras._place(extra, QUICK, tmp_path).write_text("{")
    assert extras.kept(extra, QUICK, tmp_path) == {}


# ---- figures of ours that are in no result file ----------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "damping"), [("logistic", 0.0), ("mlp", 1.0)])
def test_the_published_baseline_is_the_solution_of_its_dense_system(kind: str, damping: float) -> None:
    run = train(problem(MODELS[kind], query_kind="mean"))
    task = replace(QUICK, model="logistic" if kind == "logistic" else "mlp-8")
    found = estimate(extras.koh_liang(task), run).effect[-1]

    matrix = run.problem.hessian(run.final) + damping * torch.eye(len(run.final))
    wanted = run.problem.gradients(run.final, run.problem.train) @ torch.linalg.solve(matrix, run.query_gradients().T) / 12
    assert System(run, "hessian", damping).shift == 0.01 + damping
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-12)


def noisy_task(rate: float) -> Task:
    return replace(
        QUICK, noise="gaussian", noise_rate=rate, epochs=3, horizons=(1, 3), train=30, query=20, test=10, weight_decay=None
    )


def truth_of(run: Trajectory) -> GroundTruth:
    return GroundTruth(leave_one_out(run), 1.0, 1, "")


def test_unseeded_noise_of_rate_zero_gives_exactly_the_undamaged_figures(tmp_path: Path) -> None:
    task = noisy_task(0.0)
    run = train(build(task, 0, tmp_path))
    found = extras.noise_again(task, 0, run, truth_of(run), tmp_path)

    for name in ("sgd-ie", "acc-sgd-ie"):
        assert found[f"{name}, same noise"] == found[f"{name}, noise again"]


def test_unseeded_noise_shows_other_features_on_the_true_run_and_lowers_tau(tmp_path: Path) -> None:
    task = noisy_task(0.5)
    run = train(replace(build(task, 0, tmp_path), weight_decay=0.0123))
    seen = extras.misled(task, 0, run, tmp_path)

    assert seen.states is run.states
    assert seen.problem.weight_decay == run.problem.weight_decay
    assert torch.equal(seen.problem.batches, run.problem.batches)
    assert torch.equal(seen.problem.train.targets, run.problem.train.targets)
    assert not torch.equal(seen.problem.train.inputs, run.problem.train.inputs)
    found = extras.noise_again(task, 0, run, truth_of(run), tmp_path)
    assert found["sgd-ie, same noise"]["kendall"] == estimated("sgd-ie", run)
    for name in ("sgd-ie", "acc-sgd-ie"):
        same, again = (found[f"{name}, {view}"]["kendall"][0] for view in ("same noise", "noise again"))
        assert same is not None
        assert again is not None
        assert same > again + 0.1


def estimated(name: str, run: Trajectory) -> list[float | None]:
    effect = estimate(registered()[name], run).effect[-1:]
    return extras._scored(effect, truth_of(run))["kendall"]


def logistic(alpha: float, optimizer: Sgd | Adam = DECAYING) -> Problem:
    return problem(MODELS["logistic"], optimizer, weight_decay=alpha)


def test_l2_counted_twice_without_l2_is_exactly_acc() -> None:
    run = train(logistic(0.0))

    assert torch.equal(extras.twice_decayed(run), estimate(registered()["acc-sgd-ie"], run).effect[-1:])


def dense(run: Trajectory) -> Tensor:
    """The released code's recursion, one sample at a time, with dense Hessians of the losses without L2 term. (K, Q)"""
    problem, alpha = run.problem, run.problem.weight_decay
    plain, identity = replace(problem, weight_decay=0.0), torch.eye(problem.model.parameters, dtype=torch.float64)

    def hessian(theta: Tensor, i: int) -> Tensor:
        return plain.hessian_products(theta, plain.train[[i]], identity)

    effects = []
    for j in range(len(problem.train)):
        shift = torch.zeros_like(problem.initial)
        for t in range(problem.steps):
            theta, rows = run.params(t), problem.batch(t).tolist()
            others = [i for i in rows if i != j]
            curvature = sum((hessian(theta, i) for i in others), 0 * identity) / len(rows)
            curvature = curvature + (2 * alpha if j in rows else alpha) * identity
            own = problem.gradients(theta, problem.train[[j]])[0] / len(rows) if j in rows else 0 * shift
            shift = shift - problem.optimizer.rate(t) * (curvature @ shift - own)
        effects.append(run.query_gradients() @ shift)
    return torch.stack(effects)


def test_l2_counted_twice_is_the_dense_recursion_with_two_alpha() -> None:
    run = train(logistic(0.2))
    found = extras.twice_decayed(run)[0]

    torch.testing.assert_close(found, dense(run), rtol=1e-10, atol=1e-14)
    assert (found - estimate(registered()["acc-sgd-ie"], run).effect[-1]).abs().max() > 1e-3 * found.abs().max()


def test_l2_figures_differ_only_where_there_is_an_l2_term() -> None:
    for alpha in (0.0, 0.2):
        run = train(logistic(alpha))
        found = extras.l2_twice(QUICK, 0, run, truth_of(run), Path())
        assert (found["acc-sgd-ie, L2 once"] == found["acc-sgd-ie, L2 twice"]) == (not alpha)
    json.dumps(found)


def test_the_l2_defect_is_refused_for_other_optimisers() -> None:
    with pytest.raises(LoobenchError, match="plain SGD, the task trains with adam"):
        extras.twice_decayed(train(logistic(0.1, Adam(0.1))))
