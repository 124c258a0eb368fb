"""Influence functions of compressed gradients: some coordinates, or a random projection, and the Fisher matrix of these."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import Samples, Trajectory, blocks, estimator, projection

MASKED = "Zhang and Amiri 2025, arXiv:2509.15651 (gradient dropout, formula second-hand)"
variant = partial(estimator, tuned_on="tuning", dimension=256, damping=0.01)


@variant("if-dropout", paper=MASKED, interpretation=True, dropped=True)
@variant("if-projected", paper="Schioppa et al. 2022, arXiv:2112.03052, section 4 (random projection)", dropped=False)
def compressed(run: Trajectory, *, dimension: int, damping: float, dropped: bool) -> Tensor:
    """``<(F + (weight_decay + damping) I)^-1 h_q, h_i>`` of compressed gradients h, ``F = 1/N sum_i h_i h_i^T``. (N, Q)

    h are `dimension` k of the P coordinates, drawn at random (`dropped` are the others), or a Gaussian projection to k numbers;
    all coordinates where P is not above k; of gradients without the L2 term, which shifts a column by a constant. The Fisher
    matrix, and damping by a constant, are ours for the first. An order, no loss. Cost: N + Q gradients and N k^2.
    """
    problem = run.problem
    seen = compressor(run, min(dimension, len(run.final)), dropped=dropped)
    train, query = compressed_gradients(run, problem.train, seen), seen(run.query_gradients())
    fisher = train.T @ train / len(train)
    fisher.diagonal().add_(problem.weight_decay + damping)
    solved: Tensor = torch.linalg.solve(fisher, query.T)
    return train @ solved


def compressor(run: Trajectory, size: int, *, dropped: bool) -> Callable[[Tensor], Tensor]:
    """What makes `size` numbers of each of some gradients. (B, P) -> (B, k)"""
    if dropped:
        kept = torch.randperm(len(run.final), generator=run.random())[:size].to(run.final.device)
        return lambda gradients: gradients[:, kept]
    matrix = projection(run, size)
    return lambda gradients: gradients @ matrix


def compressed_gradients(run: Trajectory, samples: Samples, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradients without L2 term of some samples, compressed. (B, k)"""
    problem = run.problem

    def some(rows: Tensor) -> Tensor:
        return seen(problem.gradients(run.final, samples[rows]) - problem.weight_decay * run.final)

    parts = blocks(torch.arange(len(samples), device=run.final.device), run.final.nbytes)
    return torch.cat([some(rows) for rows in parts])
