"""Outlier gradient analysis: samples whose gradients lie apart count as harmful."""

from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import Diverged, Samples, Trajectory, blocks, estimator

PAPER = "Chhabra et al. 2024, arXiv:2405.03869"
variant = partial(estimator, paper=PAPER, interpretation=True)


@variant("outlier-gradient", tuned_on="library", trees=100)
def outlier_gradient(run: Trajectory, *, trees: int) -> Tensor:
    """``-2^(-E h(g_i) / c)``: minus the anomaly score of each last-layer gradient at theta_T in an isolation forest. (N, Q)

    h is the depth at which a random tree isolates g_i, c its mean over trees of that size; the more outlying, the lower. The
    same for every query: no query is looked at. Number of trees, and up to 256 samples for each, are scikit-learn's defaults;
    rows enter in the order of their content, and the seed comes from the run (both ours). Cost: N gradients and the forest.
    """
    from sklearn.ensemble import IsolationForest

    order = run.problem.train.by_content()
    gradients = _last_layer(run, run.problem.train[order])
    if not gradients.isfinite().all():  # the forest would take NaN for a missing value
        raise Diverged("an isolation forest needs finite gradients, got NaN or infinity: the run diverged")
    seed = int(torch.randint(2**31, (), generator=run.random()))
    rows = gradients.cpu().numpy()
    scores = torch.from_numpy(IsolationForest(n_estimators=trees, random_state=seed).fit(rows).score_samples(rows))
    effect = run.final.new_empty(len(order)).index_copy(0, order, scores.to(run.final))
    return effect[:, None].expand(-1, run.problem.queries)


@variant("outlier-gradient-l1", order=1)
@variant("outlier-gradient-l2", order=2)
def outlier_norm(run: Trajectory, *, order: int) -> Tensor:
    """``-|g_i|_order`` of each last-layer gradient at theta_T, the same for every query. (N, Q). Cost: N gradients."""
    norms: Tensor = torch.linalg.vector_norm(_last_layer(run, run.problem.train), ord=order, dim=1, keepdim=True)
    return -norms.expand(-1, run.problem.queries)


def _last_layer(run: Trajectory, samples: Samples) -> Tensor:
    """Gradients of the losses in weight and bias of the last layer, without the L2 term (ours). (N, P of that layer)"""
    problem = run.problem
    size = sum(part.numel() for part in problem.model.parts(run.final)[-1])
    parts = blocks(torch.arange(len(samples), device=run.final.device), run.final.nbytes)
    found = torch.cat([problem.gradients(run.final, samples[rows])[:, -size:].clone() for rows in parts])
    return found - problem.weight_decay * run.final[-size:]
