"""The influence functions of pyDVL (pydvl.influence.torch, 0.10.0), called on our model and data."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.estimating import LOSSES, Problem, Trajectory, blocks, estimator, module

BATCH = 1000  # samples of one batch: all of them on small tasks
Batch = tuple[Tensor, Tensor]


class TwoLogits(nn.Module):
    """One logit f (B, 1) as two, 0 and f (B, 2), whose softmax is the sigmoid of f: for what knows cross-entropy alone."""

    def forward(self, outputs: Tensor) -> Tensor:
        """(B, 1) -> (B, 2)"""
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


@estimator(
    "pydvl/direct",
    paper="Koh and Liang 2017, arXiv:1703.04730, as pyDVL 0.10.0 has it",
    loss_units=True,
    max_parameters=2000,
    tuned_on="tuning",
    library="pydvl",
    damping=0.1,
)
def direct(run: Trajectory, *, damping: float) -> Tensor:
    """``<g_i, (H + damping I)^-1 u_q> / N`` (K, Q), H the Hessian of the mean loss, inverted by `DirectInfluence`.

    pyDVL's sign is ours, its scale is N times ours. H lacks the L2 term, whose weight_decay is added to the damping. pyDVL
    gives ``(H + damping I)^-1 u_q``; the products with our g_i, L2 term included, are taken here. Ours: the damping, for
    pyDVL has no default. Cost: P Hessian products over all N samples and P^3, K + Q gradients.
    """
    return _effect(run, partial(_library().DirectInfluence, regularization=damping + run.problem.weight_decay))


@estimator(
    "pydvl/cg",
    paper="Koh and Liang 2017, arXiv:1703.04730, section 3, as pyDVL 0.10.0 has it",
    loss_units=True,
    max_parameters=20000,
    tuned_on="tuning",
    library="pydvl",
    damping=0.1,
    iterations=100,
)
def cg(run: Trajectory, *, damping: float, iterations: int) -> Tensor:
    """As `direct`, but solved by conjugate gradients: `CgInfluence`, up to `iterations` for each query.

    Tolerances are pyDVL's. Queries are asked one at a time: of several at once pyDVL solves no more than P, and returns zeros
    for the rest. Off a minimum, where H + damping I is not definite, the iteration need not converge. Ours: the damping and
    the number of iterations, which pyDVL sets to 10 P. Cost: up to `iterations` Hessian products a query over all N samples,
    K + Q gradients.
    """
    build = partial(_library().CgInfluence, maxiter=iterations, warn_on_max_iteration=False)
    return _effect(run, partial(build, regularization=damping + run.problem.weight_decay))


@estimator(
    "pydvl/nystrom",
    paper="Hataya and Yamada 2023, PMLR 206:12186, as pyDVL 0.10.0 has it",
    loss_units=True,
    max_parameters=20000,
    tuned_on="tuning",
    library="pydvl",
    damping=0.1,
    rank=50,
)
def nystrom(run: Trajectory, *, damping: float, rank: int) -> Tensor:
    """As `direct`, with H replaced by its Nystroem sketch of so many random directions: `NystroemSketchInfluence`.

    ``H ~ H Z (Z^T H Z)^-1 Z^T H``, Z (P, rank) orthonormal, negative eigenvalues of the sketch set to 0. Ours: damping and
    rank, at most P. Cost: `rank` Hessian products over all N samples, K + Q gradients.
    """
    rank = min(rank, run.problem.model.parameters)
    build = partial(_library().NystroemSketchInfluence, rank=rank)
    return _effect(run, partial(build, regularization=damping + run.problem.weight_decay))


@estimator(
    "pydvl/ekfac",
    paper="George et al. 2018, arXiv:1806.03884, as pyDVL 0.10.0 has it",
    loss_units=True,
    models="dense classifier",
    max_parameters=100000,
    tuned_on="tuning",
    library="pydvl",
    damping=0.01,
)
def ekfac(run: Trajectory, *, damping: float) -> Tensor:
    """As `direct`, with H replaced layer by layer by ``Q diag(L) Q^T``, Q the eigenvectors of A (x) S: `EkfacInfluence`.

    A and S are the second moments of a layer's inputs and of the slopes of its outputs, L those of the slopes in the basis Q
    (`update_diagonal`, without which pyDVL's EK-FAC is K-FAC). The slopes are of ``sum_c sqrt(p_c) log p_c``, one backward pass
    for all classes, and so not those of the Fisher matrix: at p = 1/C they are 0. pyDVL knows dense layers and cross-entropy
    alone, and works in float32 alone: one logit is given to it as two, 0 and f. Ours: the damping; pyDVL's is 0. Cost: two
    passes over the N samples, and those of the layers' sizes cubed; K + Q gradients.
    """
    problem = run.problem
    build = partial(_library().EkfacInfluence, update_diagonal=True)
    return _effect(run, partial(_ekfac, build, problem, damping + problem.weight_decay), torch.float32)


def _ekfac(build: Callable[..., Any], problem: Problem, damping: float, whole: nn.Sequential, loss: Any) -> Any:  # noqa: ARG001
    if problem.model.classes == 1:
        whole = nn.Sequential(*whole, TwoLogits())
    return build(whole, hessian_regularization=damping)


def _effect(run: Trajectory, build: Callable[..., Any], dtype: torch.dtype | None = None) -> Tensor:
    """``<g_i, f_q> / N`` (K, Q) of pyDVL's factors ``f_q = (H + damping I)^-1 u_q``."""
    problem, dtype = run.problem, dtype or run.final.dtype
    train = problem.train[problem.train.by_content()]  # so that no rounding depends on our order
    parts = [train[rows] for rows in torch.split(torch.arange(len(train)), BATCH)]
    asked = zip(problem.query.inputs.to(dtype), problem.query.targets, strict=True)
    with _quiet(run.random()):
        method = build(module(problem.model, run.final.to(dtype)), partial(_loss, problem.model.loss))
        method.fit([_batch(problem, part.inputs.to(dtype), part.targets) for part in parts])
        factors = torch.cat([method.influence_factors(*_batch(problem, x[None], y[None])).detach() for x, y in asked])
    solved, rows = factors.to(run.final).T, blocks(problem.left_out, run.final.nbytes)
    effect = torch.cat([problem.gradients(run.final, problem.train[some]) @ solved for some in rows]) / len(train)
    return effect.mean(1, keepdim=True) if problem.query_kind == "mean" else effect


def _batch(problem: Problem, inputs: Tensor, targets: Tensor) -> Batch:
    return inputs, targets.to(inputs) if problem.model.loss == "squared-error" else targets.long()


def _loss(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss."""
    return LOSSES[name](outputs, targets).mean()


def _library() -> Any:
    with warnings.catch_warnings():  # it and the libraries that it imports call what is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module("pydvl.influence.torch")


@contextmanager
def _quiet(random: torch.Generator) -> Iterator[None]:
    """Keep torch's global generator, seeded within from `random`, and pyDVL's messages to itself."""
    logger = logging.getLogger("pydvl")
    before, seed = logger.level, int(torch.randint(2**31, (), generator=random))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)  # nothing, where there is no GPU
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)
