"""Intervals that cover, ties that hold, winners that are found."""

from dataclasses import astuple
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import stats

from benchmark.base.errors import LoobenchError
from benchmark.scores import intervals, ties

BOARDS = 1000
NOISES = {"seeds": (1.0, 0.0), "both": (1.0, 1.0), "queries": (0.0, 1.0)}  # standard deviation between and within seeds
GRID = list(product((2, 3, 5, 10), (1, 10), (1, 6), NOISES))  # n, Q, M, noise
USUAL = [
    (2, 1, 1, "seeds"),
    (2, 10, 1, "both"),
    (5, 1, 1, "seeds"),
    (10, 10, 1, "queries"),
    (2, 1, 6, "seeds"),
    (3, 10, 6, "both"),
]
SHAPES = [(6, 2), (18, 5), (1, 10)]  # tasks, seeds
TIES = list(product(SHAPES, (10, 20), (2, 4, 10)))


def scores(values: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    """(M, n, Q) as a row's scores."""
    return [{str(seed): queries for seed, queries in enumerate(task)} for task in values]


def single(*values: float) -> list[dict[str, NDArray[Any]]]:
    """One task, one query, a seed for each value."""
    return scores(np.array(values)[None, :, None])


def covered(draw: RandomState, tasks: int, seeds: int, queries: int, noise: str) -> bool:
    between, within = NOISES[noise]
    found = intervals.interval(scores(between * draw.randn(tasks, seeds, 1) + within * draw.randn(tasks, seeds, queries)))
    return found.low <= 0 <= found.high


def coverage(n: int, queries: int, tasks: int, noise: str, boards: int) -> float:
    draw = RandomState(0)
    return float(np.mean([covered(draw, tasks, n, queries, noise) for _ in range(boards)]))


def groups(draw: RandomState, means: NDArray[Any], tasks: int, seeds: int) -> NDArray[np.int64]:
    """The groups of rows of these true means, in standard errors of a difference of two rows."""
    drawn = means[:, None] * np.sqrt(2 / (tasks * seeds)) + draw.randn(len(means), tasks * seeds)
    order = np.argsort(-drawn.mean(1))
    found = np.empty(len(means), int)
    found[order] = ties._groups(intervals.Cells(drawn[order], np.repeat(np.arange(tasks), seeds)))
    return found


def broken(shape: tuple[int, int], rows: int, equal: int, gap: float, boards: int) -> float:
    """Share of boards that part rows which are equal at the top, others being `gap` below."""
    draw, means = RandomState(0), np.where(np.arange(rows) < equal, 0, -gap)
    return float(np.mean([np.ptp(groups(draw, means, *shape)[:equal]) > 0 for _ in range(boards)]))


def alone(shape: tuple[int, int], rows: int, gap: float, boards: int) -> float:
    """Share of boards on which the first row, `gap` above all others, which are equal, is the only one of group 1."""
    draw, means = RandomState(0), np.where(np.arange(rows) < 1, 0, -gap)
    return float(np.mean([np.flatnonzero(groups(draw, means, *shape) == 1).tolist() == [0] for _ in range(boards)]))


@pytest.mark.parametrize("case", USUAL, ids=str)
def test_the_interval_covers_the_mean_on_95_of_100_boards(case: tuple[int, int, int, str]) -> None:
    assert 0.93 <= coverage(*case, BOARDS) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in GRID if case not in USUAL], ids=str)
def test_the_interval_covers_the_mean_on_95_of_100_boards_of_every_kind(case: tuple[int, int, int, str]) -> None:
    assert 0.93 <= coverage(*case, 2 * BOARDS) <= 0.97


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 3), (6, 2)])
def test_the_interval_of_bounded_skewed_scores_covers_the_mean_on_9_of_10_boards(tasks: int, seeds: int) -> None:
    draw = RandomState(0)
    found = [intervals.interval(scores(draw.beta(8, 2, size=(tasks, seeds, 1)))) for _ in range(BOARDS)]

    assert 0.9 <= np.mean([one.low <= 0.8 <= one.high for one in found]) <= 0.97


BETWEEN = (-1.0, 1.0)


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 2), (1, 3), (1, 5), (6, 2)])
@pytest.mark.parametrize(("a", "b"), [(40, 2), (8, 2), (2, 8), (2, 2)])
def test_the_interval_within_a_range_covers_the_mean_at_least_as_often_and_ends_in_it(
    tasks: int, seeds: int, a: int, b: int
) -> None:
    draw, true = RandomState(0), 2 * a / (a + b) - 1
    plain = [intervals.interval(scores(2 * draw.beta(a, b, size=(tasks, seeds, 1)) - 1)) for _ in range(BOARDS // 2)]
    kept = [intervals.kept_between(one, BETWEEN) for one in plain]
    covered = [np.mean([one.low <= true <= one.high for one in some]) for some in (plain, kept)]

    assert covered[1] >= covered[0]
    assert 0.9 <= covered[1] <= 0.98
    assert all(-1 <= one.low <= one.mean <= one.high <= 1 for one in kept)
    assert any(one.high > 1 or one.low < -1 for one in plain)


def test_the_interval_within_a_range_is_the_usual_one_to_first_order() -> None:
    for mean in (-0.6, 0.0, 0.3):
        rows = [single(*(mean + width * np.array([-1, -0.2, 0.1, 0.4, 0.7]))) for width in (0.1, 0.05, 0.025)]
        apart = [np.subtract(astuple(intervals.interval(row, BETWEEN)), astuple(intervals.interval(row)))[1:3] for row in rows]

        assert np.abs(apart[0]).max() < 0.02
        assert np.abs(apart[1]).max() < 0.3 * np.abs(apart[0]).max() + 1e-12  # of second order: a quarter at half the width
        assert np.abs(apart[2]).max() < 0.3 * np.abs(apart[1]).max() + 1e-12


def test_the_interval_within_a_range_is_by_the_angle_whose_sine_the_score_is() -> None:
    row = single(0.5, 0.9, 0.8, 0.9)
    plain, kept = intervals.interval(row), intervals.interval(row, BETWEEN)
    slope = (np.arcsin(plain.mean + 1e-6) - np.arcsin(plain.mean - 1e-6)) / 2e-6

    assert plain.high > 1
    assert kept.mean == plain.mean
    for end, of in ((kept.low, plain.low), (kept.high, plain.high)):
        assert end == pytest.approx(np.sin(np.arcsin(plain.mean) + slope * (of - plain.mean)), abs=1e-9)
    assert kept.low < plain.low
    assert kept.high < 1
    assert intervals.interval(single(0.2, 0.99), BETWEEN).high == 1  # where the angle would be beyond pi/2


def test_the_interval_within_a_range_moves_with_scale_and_sign() -> None:
    values = np.array([0.55, 0.9, 0.7, 0.99])
    plain, found = intervals.interval(single(*values)), intervals.interval(single(*values), BETWEEN)
    scaled = intervals.interval(single(*(3 + 2 * values)), (1.0, 5.0))
    mirrored = intervals.kept_between(intervals.Interval(-plain.mean, -plain.high, -plain.low, 4), BETWEEN)

    assert [scaled.low, scaled.high] == pytest.approx([3 + 2 * found.low, 3 + 2 * found.high])
    assert [mirrored.low, mirrored.high] == pytest.approx([-found.high, -found.low])


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_the_interval_at_the_very_end_of_a_range_is_that_end_and_one_seed_has_none(end: float) -> None:
    found = intervals.interval(single(end, end, end), BETWEEN)

    assert (found.mean, found.low, found.high) == (end, end, end)
    assert np.isnan([intervals.interval(single(end), BETWEEN).low, intervals.interval(single(end), BETWEEN).high]).all()
    assert np.isnan(intervals.interval([{"0": np.array([end])}, *single(0.1, 0.2)], BETWEEN).low)
    near = intervals.interval(single(end * (1 - 1e-9), end * (1 - 3e-9)), BETWEEN)
    assert max(abs(near.low), abs(near.high)) <= 1
    assert near.high - near.low < 1e-6


def test_a_difference_is_between_the_differences_that_scores_can_have() -> None:
    best, worst = single(1, 0.9, 1), single(-1, -0.8, -1)
    plain, kept = intervals.difference(best, worst), intervals.difference(best, worst, BETWEEN)

    assert plain.high > 2 >= kept.high
    assert ties.compare({"best": best[0:1], "worst": worst}, BETWEEN)["worst"].difference == kept
    assert astuple(kept) == pytest.approx(astuple(intervals.interval(single(2, 1.7, 2), (-2.0, 2.0))))


def test_the_interval_covers_where_tasks_differ_in_variance_and_seeds() -> None:
    draw, hits = RandomState(0), []
    for _ in range(BOARDS):
        row = [{str(seed): scale * draw.randn(1) for seed in range(n)} for scale, n in ((0.5, 10), (1, 3), (2, 3), (1, 5))]
        hits.append((found := intervals.interval(row)).low <= 0 <= found.high)

    assert 0.92 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize(("n", "queries", "tasks"), [(2, 1, 1), (3, 1, 1), (10, 1, 1), (10, 10, 1), (2, 1, 6), (10, 10, 6)])
def test_the_interval_is_as_wide_as_that_of_student_over_seed_means(n: int, queries: int, tasks: int) -> None:
    means = np.tile([*[-1.0] * (n // 2), *[0.0] * (n % 2), *[1.0] * (n // 2)], (tasks, 1))  # the same variance in each task
    noise = RandomState(1).randn(tasks, n, queries)
    found = intervals.interval(scores(means[:, :, None] + noise - noise.mean(2, keepdims=True)))

    error = means[0].std(ddof=1) / np.sqrt(n * tasks)
    freedom = min(tasks * n - 1, tasks * (n - 1))  # tasks of one variance
    assert found.mean == pytest.approx(0)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=0.05)


def test_the_interval_is_longer_on_the_side_of_the_tail() -> None:
    found = intervals.interval(single(0, 0, 0, 0, 0, 0, 0, 0, 0.1, 1))

    assert found.high - found.mean > 1.2 * (found.mean - found.low)


def test_tasks_are_drawn_independently_so_that_many_of_one_shape_lose_its_skewness() -> None:
    found = intervals.interval(16 * single(0, 0, 0, 0, 0, 0, 0, 0, 0.1, 1))

    assert found.high - found.mean < 1.15 * (found.mean - found.low)


def test_the_spread_of_queries_shapes_the_interval_but_does_not_widen_it() -> None:
    means = RandomState(0).randn(6, 5, 1)
    noise = RandomState(1).randn(6, 5, 20)
    plain, with_queries = (intervals.interval(scores(means + by * (noise - noise.mean(2, keepdims=True)))) for by in (0, 30))

    assert with_queries.mean == pytest.approx(plain.mean)
    assert with_queries.high - with_queries.low == pytest.approx(plain.high - plain.low, rel=0.05)
    assert with_queries.high != plain.high


@pytest.mark.parametrize("tasks", [[1], [1, 1], [5, 1, 5]])
def test_one_seed_in_some_task_has_a_mean_but_no_interval(tasks: list[int]) -> None:
    found = intervals.interval([{str(seed): np.array([seed + 1.0]) for seed in range(n)} for n in tasks])

    assert found.mean == np.mean([(n + 1) / 2 for n in tasks])
    assert np.isnan([found.low, found.high]).all()
    assert found.seeds == 1


def test_the_mean_is_over_tasks_of_means_over_seeds_of_means_over_queries() -> None:
    row = [
        {"0": np.array([0.0, 1.0]), "1": np.array([1.0])},
        {"0": np.array([4.0]), "1": np.array([4.0]), "2": np.array([4.0])},
    ]

    assert intervals.interval(row).mean == np.mean([np.mean([0.5, 1]), 4])


def test_scores_that_do_not_vary_have_an_interval_of_no_width() -> None:
    found = intervals.interval(single(0.1, 0.1, 0.1))

    assert [found.mean, found.low, found.high] == pytest.approx([0.1, 0.1, 0.1], abs=1e-15)


def test_the_same_scores_give_the_same_interval_bit_for_bit() -> None:
    row = scores(RandomState(0).randn(3, 4, 5))
    first = intervals.interval(row)
    intervals._weights.cache_clear()
    intervals._shuffle.cache_clear()

    assert intervals.interval(row) == first


def test_the_order_of_rows_tasks_and_seeds_changes_nothing() -> None:
    draw = RandomState(0)
    rows = {name: scores(draw.randn(6, 3, 2) - 3 * int(name)) for name in "0123"}
    other = {name: [dict(reversed(task.items())) for task in rows[name][::-1]] for name in "3120"}

    assert list(ties.compare(rows).items()) == list(ties.compare(other).items())
    assert [intervals.interval(rows[name]) for name in rows] == [intervals.interval(other[name]) for name in rows]
    assert (ties.ranks(rows), ties.cliques(rows)) == (ties.ranks(other), ties.cliques(other))


def test_paired_differences_are_narrower_where_rows_share_seeds() -> None:
    draw = RandomState(0)
    common = draw.randn(4, 5, 1)
    row, other = (common + 0.1 * draw.randn(4, 5, 3) for _ in range(2))
    paired = intervals.difference(scores(row), scores(other))
    unpaired = [dict(zip("abcde", task.values(), strict=True)) for task in scores(other)]

    assert paired.mean == pytest.approx(row.mean() - other.mean())
    assert paired.high - paired.low < 0.2 * (intervals.interval(scores(row)).high - intervals.interval(scores(row)).low)
    assert intervals.difference(scores(row), unpaired).seeds == 0


def test_differences_are_query_by_query() -> None:
    row, other = RandomState(0).randn(2, 2, 3, 5)

    assert intervals.difference(scores(row), scores(other)) == intervals.interval(scores(row - other))


def test_a_row_with_other_seeds_is_compared_on_the_common_ones() -> None:
    row = single(1, 2, 4)
    other = [{"1": np.array([0.0]), "2": np.array([1.0]), "9": np.array([100.0])}]

    assert intervals.difference(row, other) == intervals.interval([{"1": np.array([2.0]), "2": np.array([3.0])}])


def test_cells_with_other_numbers_of_queries_are_compared_by_their_means() -> None:
    row = scores(np.arange(6.0).reshape(1, 2, 3))

    assert intervals.difference(row, single(0, 0)) == intervals.interval(single(1, 4))


def test_rows_without_common_seeds_are_not_compared_and_stay_tied() -> None:
    rows = {"a": scores(RandomState(0).randn(6, 5, 1) + 100), "b": [{"x": np.zeros(1), "y": np.zeros(1)} for _ in range(6)]}
    found = ties.compare(rows)["b"]

    assert np.isnan([found.difference.mean, found.difference.low, found.difference.high]).all()
    assert (found.difference.seeds, found.p, found.group) == (0, 1.0, 1)
    assert np.isnan(list(ties.ranks(rows).values())).all()
    assert ties.cliques(rows) == []


def test_holm_is_as_worked_by_hand() -> None:
    assert ties.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ties.holm([0.6, 0.7, 0.02]) == pytest.approx([1, 1, 0.06])
    assert ties.holm([]).shape == (0,)


@pytest.mark.parametrize("cells", [1, 5, 6, 12, 50, 90])
def test_the_signed_rank_test_is_that_of_scipy(cells: int) -> None:
    rows = np.vstack([RandomState(1).randn(cells) + 0.3, np.zeros(cells)])
    table = intervals.Cells(rows, np.zeros(cells, int))
    expected = stats.wilcoxon(rows[0], correction=True, method="exact" if cells <= ties.EXACT else "asymptotic").pvalue

    assert ties._signed_ranks(table, 0) == pytest.approx([expected])


def test_the_signed_rank_test_counts_all_signs_where_ranks_tie() -> None:
    differences = np.array([1, 1, 1, -1, 2, 2, -3, 0, 0])
    ranked = stats.rankdata(np.abs(differences[:7]))
    sums = [ranked @ signs for signs in product((0, 1), repeat=7)]
    table = intervals.Cells(np.vstack([differences, 0 * differences]), np.zeros(9, int))

    assert ties._signed_ranks(table, 0) == pytest.approx([2 * np.mean(np.array(sums) <= ranked[3] + ranked[6])])


@pytest.mark.parametrize(("shape", "rows", "equal"), [((6, 2), 10, 2), ((18, 5), 10, 10), ((1, 10), 10, 4)], ids=str)
def test_rows_that_are_equal_stay_in_one_group(shape: tuple[int, int], rows: int, equal: int) -> None:
    assert broken(shape, rows, equal, gap=20, boards=500) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("gap", [2.5, 20])
@pytest.mark.parametrize(("shape", "rows", "equal"), TIES, ids=str)
def test_rows_that_are_equal_stay_in_one_group_on_boards_of_every_kind(
    shape: tuple[int, int], rows: int, equal: int, gap: float
) -> None:
    assert broken(shape, rows, equal, gap, BOARDS) <= 0.05


@pytest.mark.parametrize(("shape", "rows", "gap"), [((18, 5), 10, 6), ((6, 2), 10, 10), ((1, 10), 10, 12)], ids=str)
def test_a_clear_winner_is_alone_in_its_group(shape: tuple[int, int], rows: int, gap: float) -> None:
    assert alone(shape, rows, gap, boards=200) > 0.95


def test_rows_are_told_by_the_two_sided_student_test_over_all_pairs() -> None:
    told = []
    for outlier in np.linspace(1, 12, 45):  # leads all of one sign, so that the signed-rank test tells them in any case
        leads = np.append(np.linspace(0.5, 1.5, 9), outlier)
        p = stats.ttest_1samp(leads, 0).pvalue
        found = ties.compare({"best": single(*leads), "other": single(*np.zeros(10))})
        assert found["other"].group == (2 if p < 0.05 else 1)
        told.append(p)

    assert any(0.05 < p < 0.1 for p in told)
    assert min(told) < 0.05


def test_five_cells_tell_nothing_and_six_do() -> None:
    five, six = ({"a": scores(RandomState(0).randn(1, n, 1) + 50), "b": scores(np.zeros((1, n, 1)))} for n in (5, 6))

    assert [found.group for found in ties.compare(five).values()] == [1, 1]
    assert [found.group for found in ties.compare(six).values()] == [1, 2]
    assert ties.compare(six)["b"].p == 2 / 2**6


def test_a_row_below_one_that_is_told_is_in_a_later_group_too() -> None:
    draw = RandomState(0)
    rows = {"best": draw.randn(1, 10, 1), "told": draw.randn(1, 10, 1) - 9, "unsure": 60 * draw.randn(1, 10, 1)}
    rows["unsure"] -= rows["unsure"].mean() + 10
    found = ties.compare({name: scores(values) for name, values in rows.items()})

    assert found["unsure"].p > 0.05
    assert {name: one.group for name, one in found.items()} == {"best": 1, "told": 2, "unsure": 2}


@pytest.mark.parametrize("slope", [0.01, 0.02])  # 0.01: by the same on each seed
def test_a_lower_row_that_is_ahead_on_the_common_seeds_is_not_told(slope: float) -> None:
    shared = [str(seed) for seed in range(8)]
    best = [{**{seed: np.array([0.01 * int(seed)]) for seed in shared}, "alone": np.array([900.0])}]
    other = [{seed: np.array([5 + slope * int(seed)]) for seed in shared}]

    assert ties.compare({"best": best, "other": other})["other"].p < 0.05
    assert ties.compare({"best": best, "other": other})["other"].group == 1


def test_compare_shows_the_lead_of_the_best_over_each_row() -> None:
    draw = RandomState(0)
    rows = {name: scores(draw.randn(6, 3, 1) + shift) for name, shift in (("low", 0), ("high", 8), ("middle", 4))}
    found = ties.compare(rows)

    assert list(found) == ["high", "middle", "low"]
    assert [one.group for one in found.values()] == [1, 2, 3]
    assert found["low"].difference == intervals.difference(rows["high"], rows["low"])
    assert (found["high"].difference.mean, found["high"].p) == (0, 1)
    assert found["low"].p == pytest.approx(2 * 2 / 2**18)


def test_the_front_is_that_of_the_definition() -> None:
    draw = RandomState(0)
    gain, cost = draw.randint(6, size=(2, 60)).astype(float)
    gain[:3], cost[2:5] = np.nan, np.nan

    def dominated(i: int) -> bool:
        others = [j for j in range(60) if gain[j] >= gain[i] and cost[j] <= cost[i]]
        return any(gain[j] > gain[i] or cost[j] < cost[i] for j in others)

    assert ties.pareto(gain, cost) == [not np.isnan([gain[i], cost[i]]).any() and not dominated(i) for i in range(60)]
    assert ties.pareto([1, 1, 0], [2, 2, 3]) == [True, True, False]
    assert ties.pareto([np.nan, 0.5], [0, 1]) == [False, True]


def test_ranks_are_averages_over_common_cells_with_ties_shared() -> None:
    rows = {"a": single(3, 1, 9), "b": single(2, 1), "c": single(1, 0)}

    assert ties.ranks(rows) == {"a": (1 + 1.5) / 2, "b": (2 + 1.5) / 2, "c": 3}


def test_the_friedman_test_is_that_of_scipy() -> None:
    values = RandomState(0).randint(4, size=(5, 12)).astype(float)
    ranked = ties._ranked(intervals.Cells(values, np.zeros(12, int)))

    assert ties._friedman(ranked) == pytest.approx(stats.friedmanchisquare(*values).pvalue)
    assert ties._friedman(ties._ranked(intervals.Cells(np.ones((3, 4)), np.zeros(4, int)))) == 1


def test_cliques_join_the_rows_that_are_not_told_apart() -> None:
    draw = RandomState(0)
    means = {"a": 0.0, "b": 0.1, "c": -9, "d": -9.1, "e": -30}
    rows = {name: scores(draw.randn(1, 20, 1) + mean) for name, mean in means.items()}

    assert [set(clique) for clique in ties.cliques(rows)] == [{"a", "b"}, {"c", "d"}]
    assert ties.cliques({name: rows[name] for name in "ae"}) == []
    assert [len(clique) for clique in ties.cliques({name: scores(draw.randn(1, 20, 1)) for name in "abcd"})] == [4]


def test_cliques_overlap_where_only_the_ends_of_a_run_are_told_apart() -> None:
    draw = RandomState(3)
    rows = {name: scores(draw.randn(1, 12, 1) - shift) for name, shift in (("a", 0), ("b", 0.65), ("c", 1.3))}

    assert ties.cliques(rows) == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize(
    "row", [[], [{}], single(1, np.nan), single(1, np.inf), [{"0": np.zeros(0)}], [{"0": np.zeros((1, 1))}]]
)
def test_scores_that_are_missing_or_not_finite_are_refused(row: Any) -> None:
    for reject in (lambda: intervals.interval(row), lambda: ties.compare({"row": row}), lambda: ties.ranks({"row": row})):
        with pytest.raises(LoobenchError, match=r"row|scores"):
            reject()


def test_rows_of_different_tasks_and_boards_without_rows_are_refused() -> None:
    for rows in ({}, {"a": single(1), "b": 2 * single(1)}):
        with pytest.raises(LoobenchError, match="same tasks"):
            ties.compare(rows)
    with pytest.raises(LoobenchError, match="shapes"):
        ties.pareto([1, 2], [1])


def test_cliques_part_nothing_where_the_friedman_test_does_not() -> None:
    rows = {"a": single(*range(1, 8)), "b": single(*[100, -100] * 3, 100), "c": single(*[0] * 7)}
    apart = ties.holm([2 / 2**7, 1, 1])[0]

    assert apart < 0.05
    assert [set(clique) for clique in ties.cliques(rows)] == [{"a", "b", "c"}]
