"""Regressions on the losses of runs that were trained again on random subsets."""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmark.estimating import Trajectory, blocks, estimator, retrain

PAPER = "Ilyas et al. 2022, arXiv:2202.00622, section 2"
COVERT = "Covert et al. 2024, arXiv:2401.15866, section 3; on retrained subsets and by ridge regression: ours"
RIDGE = np.geomspace(1e-6, 1e3, 28)  # penalties over the mean sum of squares of a column, as cross-validation tries them
LASSO = np.geomspace(0.95, 0.03, 12)  # over the least that leaves no coefficient: 1 itself would leave nothing to rank
variant = partial(estimator, loss_units=True, all_horizons=True, tuned_on="untuned")


@variant("datamodel", paper=PAPER + ", by ridge regression", runs=200, keep=0.5, by_lasso=False)
@variant("datamodel-90", paper=PAPER + ", by ridge regression", runs=200, keep=0.9, by_lasso=False)
@variant("datamodel-lasso", paper=PAPER, runs=200, keep=0.5, by_lasso=True)
def datamodel(run: Trajectory, *, runs: int, keep: float, by_lasso: bool) -> Tensor:
    """Minus the coefficient of keeping i in the linear regression of query losses on what was kept. (H, N, Q)

    M = `runs` runs are trained from the same start on the same batches, each with a random subset of the samples; a sample is
    kept with probability `keep`, by itself (ours; the paper fixes the number kept, and its targets are margins), and one left
    out has weight 0. In units of loss: the effect averaged over subsets of that size, not at the whole set. The penalty is
    chosen for each query, for ridge regression by leave-one-out, for LASSO by five-fold cross-validation below the penalty
    at which no coefficient is left. It does not look at the reference run. Cost: M training runs (ours: 200; the paper has
    hundreds of thousands) and, for LASSO, about 40 ms for each query and horizon at N = 100.
    """
    masks, losses, order = retrained(run, runs, keep)
    fit = lasso if by_lasso else ridge
    found = torch.stack([fit(masks.double().cpu()[:, order], each.double().cpu()) for each in losses])  # rows as drawn
    return -found[:, order.argsort()].to(run.final)


@variant("amortised", paper=COVERT, runs=50, dot=False)
@variant("amortised-dot", paper=COVERT, runs=50, dot=True)
def amortised(run: Trajectory, *, runs: int, dot: bool) -> Tensor:
    """What a regression of noisy effects on features of the samples predicts for them. (H, N, Q)

    The noisy effect of i on q is the mean loss of the runs without i minus that of the runs with it, over M = `runs` runs on
    random halves of the samples: without bias for the effect averaged over such subsets, in units of loss. All that follows is
    ours: the features are the label (one-hot for several classes), training loss and norm of the gradient at the horizon, the
    input, and with `dot` ``<g_i, u_q>``; the regression is ridge, its penalty for each query by leave-one-out.
    Cost: M training runs and, for each horizon, N gradients and a singular value decomposition (N, F); with `dot` Q of each.
    """
    masks, losses, _ = retrained(run, runs, 0.5)
    return torch.stack(
        [amortise(cut, noisy(masks, each), dot=dot) for cut, each in zip(run.at_horizons(), losses, strict=True)]
    )


def retrained(run: Trajectory, runs: int, keep: float) -> tuple[Tensor, Tensor, Tensor]:
    """Random subsets (M, N), the query losses (H, M, Q) of the runs on them, and the order (N,) in which columns were drawn."""
    order = run.problem.train.by_content().cpu()
    drawn = torch.rand(len(order), runs, generator=run.random(), dtype=torch.float64) < keep
    masks = drawn[order.argsort()].T.to(run.problem.train.inputs.device)
    return masks, retrain(run.problem, masks, read=lambda some: some.query_losses()), order


def noisy(masks: Tensor, losses: Tensor) -> Tensor:
    """Mean loss without the sample minus mean loss with it. (M, N), (M, Q) -> (N, Q)"""
    kept = masks.to(losses)
    centred = losses - losses.mean(0)  # as the loss itself is much larger than an effect
    return (1 - kept).T @ centred / (1 - kept).sum(0)[:, None] - kept.T @ centred / kept.sum(0)[:, None]


def amortise(run: Trajectory, labels: Tensor, *, dot: bool) -> Tensor:
    """Predictions (N, Q) of the regression of labels (N, Q) on features of the samples at the end of the run."""
    sizes, products = along(run, run.query_gradients() if dot else run.final.new_zeros(0, len(run.final)))
    given = features(run, sizes)
    if not dot:
        return predictions(given, labels)
    return torch.cat([predictions(torch.cat([given, products[:, [q]]], 1), labels[:, [q]]) for q in range(len(labels.T))], 1)


def along(run: Trajectory, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Norms (N, 1) of all gradients at the end of the run, and their products (N, Q) with some vectors (Q, P)."""
    problem = run.problem

    def some(rows: Tensor) -> tuple[Tensor, Tensor]:
        gradients = problem.gradients(run.final, problem.train[rows])
        return torch.linalg.vector_norm(gradients, dim=1, keepdim=True), gradients @ vectors.T

    everyone = torch.arange(len(problem.train), device=run.final.device)
    sizes, products = zip(*map(some, blocks(everyone, run.final.nbytes)), strict=True)
    return torch.cat(sizes), torch.cat(products)


def features(run: Trajectory, sizes: Tensor) -> Tensor:
    """Label, loss, norm of the gradient (N, 1) and input of each sample. (N, F)"""
    problem, targets = run.problem, run.problem.train.targets
    label = one_hot(targets).flatten(1) if targets.dtype == torch.int64 else targets[:, None]
    loss = problem.losses(run.final, problem.train)[:, None]
    return torch.cat([label, loss, sizes, problem.train.flat()], dim=1)


def predictions(given: Tensor, labels: Tensor) -> Tensor:
    """What ridge regression on standardised features (N, F) predicts for each column of the labels (N, Q)."""
    from sklearn.preprocessing import StandardScaler

    columns = torch.from_numpy(StandardScaler().fit_transform(given.double().cpu().numpy()))
    wanted = labels.double().cpu()
    return (wanted.mean(0) + columns @ ridge(columns, wanted)).to(labels)


def ridge(columns: Tensor, values: Tensor) -> Tensor:
    """Coefficients (F, Q) of each column of the values (M, Q), with the penalty of least leave-one-out error for it.

    Leaving a row out multiplies its residual by 1/(1 - leverage), the intercept's 1/M included.
    """
    x, y = columns - columns.mean(0), values - values.mean(0)
    rows, sizes, directions = torch.linalg.svd(x, full_matrices=False)  # (M, R), (R,), (R, F)
    seen = rows.T @ y
    kept = [sizes**2 / (sizes**2 + float(penalty) * x.square().sum() / len(x.T)) for penalty in RIDGE]  # of each direction
    residuals = ((y - rows @ (part[:, None] * seen)) / (1 - 1 / len(x) - rows**2 @ part)[:, None] for part in kept)
    best = torch.stack([residual.square().sum(0) for residual in residuals]).argmin(0)  # (Q,)
    found: Tensor = directions.T @ (torch.stack(kept)[best].T / sizes.clamp(min=1e-100)[:, None] * seen)
    return found


def lasso(columns: Tensor, values: Tensor) -> Tensor:
    """Coefficients (F, Q) of each column of the values (M, Q) by LASSO; 0 for values that are all the same."""
    from sklearn.linear_model import LassoCV

    x, y = columns.numpy(), values.numpy()
    most = np.abs((x - x.mean(0)).T @ (y - y.mean(0))).max(0) / len(y)  # the least penalty that leaves nothing
    found = np.zeros((x.shape[1], y.shape[1]))
    for q in np.ptp(y, axis=0).nonzero()[0]:
        found[:, q] = LassoCV(alphas=most[q] * LASSO, cv=5, random_state=0).fit(x, y[:, q]).coef_
    return torch.from_numpy(found)
