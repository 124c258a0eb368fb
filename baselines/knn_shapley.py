"""Exact Shapley values of the samples for a nearest-neighbour classifier that stands in for the model."""

from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import Trajectory, blocks, estimator

INDEX = 8  # bytes of the place of a sample among those sorted by distance
PAPER = "Jia et al. 2019, arXiv:1908.08619, theorem 1"
variant = partial(estimator, models="classifier", tuned_on="tuning", neighbours=5)


@variant("knn-shapley", paper=PAPER, hidden=True)
@variant("knn-shapley-inputs", paper=PAPER, hidden=False)
def knn_shapley(run: Trajectory, *, neighbours: int, hidden: bool) -> Tensor:
    """Shapley values (K, Q) for ``v_q(S) = 1/k sum_{j <= min(k, |S|)} [y_(j) = y_q]``, (j) the j-th nearest to q in S.

    In rising distance from q, ``s_(j) = s_(j+1) + ([y_(j) = y_q] - [y_(j+1) = y_q]) / max(k, j)``, where the term after the
    last is 0; a column sums to ``v_q(all) - v_q(none)``. For one mean query it is the mean over the query samples. In units
    of the share of neighbours that are right. Distances are Euclidean between inputs of the last layer at theta_T (`hidden`;
    of a linear model these are the inputs themselves), else between raw inputs; k = 5, and that samples equally far stand in
    the order of their content, are ours. Cost: N + Q forward passes, Q sorts of N.
    """
    problem = run.problem
    order = problem.train.by_content()  # the sort is stable, so that it breaks ties
    train = problem.train[order]
    rows, columns = (problem.model.features(run.final, at.inputs) if hidden else at.flat() for at in (train, problem.query))

    def shares(some: Tensor) -> Tensor:
        """Values (K, B) for some of the query samples."""
        # without a matrix product: it would round equal distances apart
        distances = torch.cdist(rows, columns[some], compute_mode="donot_use_mm_for_euclid_dist")
        values = _shapley(distances, train.targets[:, None] == problem.query.targets[some], neighbours)
        values = values.where(distances.isfinite(), torch.nan)  # where the run diverged; sorting would hide it
        return torch.empty_like(values).index_copy(0, order, values)[problem.left_out]

    parts = blocks(torch.arange(len(columns), device=rows.device), len(rows) * INDEX)
    if problem.query_kind == "each":
        return torch.cat([shares(some) for some in parts], dim=1)
    total = rows.new_zeros(len(problem.left_out), 1)
    for some in parts:
        total += shares(some).sum(1, keepdim=True)
    return total / len(columns)


def _shapley(distances: Tensor, right: Tensor, neighbours: int) -> Tensor:
    """Shapley values (N, Q), from distances and from whose label is the query's, (N, Q) each."""
    nearest = distances.argsort(dim=0, stable=True)
    gains = right.gather(0, nearest).to(distances)
    gains[:-1] -= gains[1:].clone()
    ranks = torch.arange(1, len(gains) + 1, device=gains.device).clamp(min=neighbours)
    values = (gains / ranks[:, None]).flip(0).cumsum(0).flip(0)
    return torch.empty_like(values).scatter(0, nearest, values)
