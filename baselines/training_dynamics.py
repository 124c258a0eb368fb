"""Scores of how hard a sample is, read along the run; the papers keep the hard ones, so that hard counts as helpful."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import LOSS_SLOPES, LOSSES, Diverged, Trajectory, blocks, estimator

DIET = "Paul et al. 2021, arXiv:2107.07075, definition "
early = partial(estimator, tuned_on="untuned", part=0.1, checkpoints=10)


@early("el2n", paper=DIET + "2.3")
def el2n(run: Trajectory, *, part: float, checkpoints: int) -> Tensor:
    """``mean_c |l'_i(f_i(theta_c))|``, l' the slope of the loss in the outputs: for classes ``|p - y|``. (N, Q)

    With one logit it is ``|p - y|`` of the one probability, which is 1/sqrt(2) of that of two; for a regression ``|f - y|``;
    over tokens the norm over all of them. The same for every query. Up to 10 checkpoints c are spread over the first tenth of
    the steps, after epoch 20 of 200 in the paper; that they are of one run, where the paper has 10 runs at one time, is ours.
    Cost: a forward pass of N at each.
    """
    problem, model = run.problem, run.problem.model
    slope = LOSS_SLOPES[model.loss]
    errors = [
        slope(model.outputs(theta, problem.train.inputs), problem.train.targets) for theta in _early(run, part, checkpoints)
    ]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(errors).flatten(2), dim=2).mean(0)
    return norms[:, None].expand(-1, problem.queries)


@early("grand", paper=DIET + "2.1")
def grand(run: Trajectory, *, part: float, checkpoints: int) -> Tensor:
    """``mean_c |g_i(theta_c)|`` of the gradient without the L2 term (ours), at the checkpoints of `el2n`. (K, Q)

    The same for every query. Cost: K gradients at each of up to 10 checkpoints.
    """
    problem, norms = run.problem, run.final.new_zeros(len(run.problem.left_out))
    states = list(_early(run, part, checkpoints))

    def size(theta: Tensor, rows: Tensor) -> Tensor:
        gradients = problem.gradients(theta, problem.train[rows]) - problem.weight_decay * theta
        found: Tensor = torch.linalg.vector_norm(gradients, dim=1)
        return found

    for theta in states:
        norms += torch.cat([size(theta, rows) for rows in blocks(problem.left_out, theta.nbytes)]) / len(states)
    return norms[:, None].expand(-1, problem.queries)


@estimator("forgetting", paper="Toneva et al. 2019, arXiv:1812.05159, algorithm 1", models="classifier")
def forgetting(run: Trajectory) -> Tensor:
    """``n_i + l_i / (2 + 2 l_i)``: how often i goes from right to wrong, from one of its visits to the next. (N, Q)

    A visit looks before the step, as the paper does. A sample visited but never right is the most forgotten: it has n = T,
    more than any other can; one not visited has n = 0 (ours). l is its mean loss over the visits: the second term, below 1/2,
    orders samples of equal count and no others (ours). The same for every query. Cost: a forward pass at each visit.
    """
    problem = run.problem
    _refuse_diverged(run)
    count, losses, visits = run.final.new_zeros(3, len(problem.train))
    was, ever = torch.zeros(2, len(problem.train), dtype=torch.bool, device=run.final.device)
    for t in range(problem.steps):
        batch = problem.batch(t)
        right, loss = _visit(run, t, batch)
        count[batch] += (was[batch] & ~right).to(count)
        losses[batch] += loss
        visits[batch] += 1
        was[batch], ever[batch] = right, ever[batch] | right
    count[(visits > 0) & ~ever] = problem.steps
    mean = losses / visits.clamp(min=1)
    scores: Tensor = count + mean / (2 + 2 * mean)
    return scores[:, None].expand(-1, problem.queries)


def _visit(run: Trajectory, t: int, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the outputs before step t are right, and the losses, without L2 term, of the batch. (B,), (B,)"""
    samples, model = run.problem.train[batch], run.problem.model
    outputs = model.outputs(run.params(t), samples.inputs)
    guess = outputs.argmax(-1) if model.loss == "cross-entropy" else outputs.squeeze(-1) > 0
    return guess == samples.targets, LOSSES[model.loss](outputs, samples.targets)


def _early(run: Trajectory, part: float, checkpoints: int) -> Iterator[Tensor]:
    """Parameters (P,) at the ends of `checkpoints` even stretches of the first `part` of the steps, of 1 at least."""
    _refuse_diverged(run)
    first = run.until(max(1, round(part * run.problem.steps)))
    return (run.params(stretch.stop) for stretch in first.segments(checkpoints))


def _refuse_diverged(run: Trajectory) -> None:
    if not run.final.isfinite().all():
        raise Diverged("scores along a run need finite final parameters, got NaN or infinity: the run diverged")
