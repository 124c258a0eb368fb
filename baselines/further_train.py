"""The trained model trained a little further, with and without each sample."""

from dataclasses import replace
from functools import partial
from math import ceil

import torch
from torch import Tensor

from benchmark.estimating import Adam, Optimizer, Problem, Sgd, Trajectory, estimator, leave_one_out, train

PAPER = "Wei et al. 2025, arXiv:2412.03906, eq. 17"
variant = partial(estimator, paper=PAPER, loss_units=True, tuned_on="untuned", share=0.1, length=0.2, orders=4)


@variant("further-train", adam=False)
@variant("further-train-adam", optimizers=("adam", "adamw"), adam=True)
def further_train(run: Trajectory, *, adam: bool, share: float, length: float, orders: int) -> Tensor:
    """``mean_o L_q(theta_T + d_o(D without i)) - L_q(theta_T + d_o(D))``, d_o the move of further training. (K, Q)

    Both start from theta_T, take the same batches in order o, drawn at random, and have weight 0 for the sample left out and
    1/|B| for the others. By SGD, or with `adam` by the task's own Adam with moments 0, at the constant rate `share` times that
    of the last step; for `length` of the epochs of the run, rounded up; over so many `orders`. It says what the end of training
    depends on, in units of loss, not what the whole run made of the sample: a short stay near theta_T makes it small.
    The share is the paper's for SGD. Ours: `length`, `orders` (paper: 100), that further SGD has no momentum, whatever the run
    had, and that a batch keeps its 1/|B|; the released code draws batches anew from what is left.
    Cost: K + 1 runs of `orders` times `length` of the run's length.
    """
    problem, random = run.problem, run.random()
    own, rate = problem.optimizer, share * problem.optimizer.rate(problem.steps - 1)
    optimizer = replace(own, lr=rate, schedule="constant") if adam and isinstance(own, Adam) else Sgd(rate)
    epochs = ceil(length * ceil(problem.steps / _steps(problem)) - 1e-9)  # 0.2 of 35 epochs is 7, whatever the last bit
    further = (_from(run, optimizer, epochs, random) for _ in range(orders))
    return torch.stack([leave_one_out(train(problem))[0] for problem in further]).mean(0)


def _steps(problem: Problem) -> int:
    """Steps of one epoch."""
    return ceil(len(problem.train) / problem.batches.shape[1])


def _from(run: Trajectory, optimizer: Optimizer, epochs: int, random: torch.Generator) -> Problem:
    """Training on from the final parameters, on permutations of all samples drawn in the order of their content."""
    samples, size, steps = len(run.problem.train), run.problem.batches.shape[1], _steps(run.problem)
    order = run.problem.train.by_content().cpu()
    rows = torch.full((epochs, steps * size), -1)  # of which the last batch may be short
    for row in rows:
        row[:samples] = order[torch.randperm(samples, generator=random)]
    batches = rows.view(-1, size).to(run.problem.batches.device)
    return replace(run.problem, optimizer=optimizer, initial=run.final, batches=batches, horizons=(len(batches),))
