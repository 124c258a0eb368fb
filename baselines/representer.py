"""Representer points: the last layer, brought to its optimum with L2 term, as a sum over the training samples."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmark.estimating import LOSS_SLOPES, Problem, Samples, System, Trajectory, blocks, estimator, mlp, solve

SMALL = 1000  # parameters of a last layer whose Hessian is made explicit
PAPER = "Yeh et al. 2018, arXiv:1811.09720, theorem 3.1"


@estimator("representer", paper=PAPER, loss_units=True, tuned_on="library", penalty=0.006, steps=50)
def representer(run: Trajectory, *, penalty: float, steps: int) -> Tensor:
    """``-<l'_q, a_i> <x_i, x_q>``, ``a_i = -l'_i / (penalty N)``: what a sample adds to the outputs, times the query's slope.

    x (F + 1,) are the inputs of the last layer at theta_T and a 1 for the bias, l' (C,) the slopes of losses in the outputs at
    the optimum ``W = sum_i a_i x_i^T`` of ``1/N sum_i loss(W x_i) + penalty/2 |W|^2``, found by at most `steps` of Newton's
    method from 0 (the paper descends from the final weights; the optimum is one). The penalty is twice the 0.003 of the
    released codes, whose term has no half. (K, Q). Cost: of the last layer, N gradients a step and N Hessian products for each
    of its iterations.
    """
    problem = run.problem
    last = of_last_layer(run, penalty)
    optimum = minimum(last, steps)
    model, size = last.problem.model, len(last.problem.train)
    asked, query = last.problem.train[problem.left_out], last.problem.query
    slopes = [LOSS_SLOPES[model.loss](model.outputs(optimum, some.inputs), some.targets) for some in (asked, query)]
    effect = slopes[0] @ slopes[1].T * (asked.inputs @ query.inputs.T + 1) / (penalty * size)
    return effect.mean(1, keepdim=True) if problem.query_kind == "mean" else effect


def of_last_layer(run: Trajectory, penalty: float) -> Trajectory:
    """A run of the last layer alone, at 0, on the features that the final model gives it."""
    problem, model = run.problem, run.problem.model

    def seen(samples: Samples) -> Samples:
        return Samples(model.features(run.final, samples.inputs), samples.targets)

    train, query = seen(problem.train), seen(problem.query)
    layer = mlp((train.inputs.shape[1], model.classes), loss=model.loss)
    start = run.final.new_zeros(layer.parameters)
    alone = replace(
        problem, model=layer, train=train, query=query, weight_decay=penalty, initial=start, batches=problem.batches[:0]
    )
    return Trajectory(alone, start[None, None])


def minimum(run: Trajectory, steps: int) -> Tensor:
    """The parameters (P,) of least mean training loss, by Newton steps that are halved until they do not go up."""
    problem, theta = run.problem, run.final
    for _ in range(steps):
        gradient = mean_gradient(problem, theta)
        if not gradient.abs().max() > 10 * torch.finfo(theta.dtype).eps:
            break
        system = System(Trajectory(problem, theta[None, None]), "hessian", 0.0)
        settings: dict[str, Any] = {"solver": "direct"} if len(theta) <= SMALL else {"solver": "cg", "iterations": 500}
        before, theta = theta, downhill(problem, theta, -solve(system, gradient[None], **settings)[0])
        if torch.equal(before, theta):
            break
    return theta


def mean_gradient(problem: Problem, theta: Tensor) -> Tensor:
    """That of the mean training loss (P,)."""
    parts = blocks(torch.arange(len(problem.train), device=theta.device), theta.nbytes)
    return torch.stack([problem.gradients(theta, problem.train[rows]).sum(0) for rows in parts]).sum(0) / len(problem.train)


def downhill(problem: Problem, theta: Tensor, step: Tensor) -> Tensor:
    """Where the step leads, or the first half, quarter ... of it that does not raise the mean loss; at last theta itself."""
    before = problem.losses(theta, problem.train).mean()
    slack = 4 * torch.finfo(theta.dtype).eps * before.abs()  # near the minimum the loss is flat to rounding
    for halvings in range(30):
        after: Tensor = theta + step / 2**halvings
        if problem.losses(after, problem.train).mean() <= before + slack:
            return after
    return theta
