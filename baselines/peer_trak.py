"""TRAK as its authors' library has it (traker, 0.3.2), called on our model and data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.estimating import Problem, Samples, Trajectory, estimator, module

BATCH = 1000  # samples of one batch: all of them on small tasks
BLOCK = 100  # directions drawn at once, as in traker


class TwoLogits(nn.Module):
    """One logit f (B, 1) as two, 0 and f (B, 2), whose margin is f or -f."""

    def forward(self, outputs: Tensor) -> Tensor:
        """(B, 1) -> (B, 2)"""
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


@estimator(
    "traker/trak",
    paper="Park et al. 2023, arXiv:2303.14186, section 3, as traker 0.3.2 has it",
    models="classifier",
    max_parameters=100000,
    tuned_on="tuning",
    library="trak",
    dimension=512,
    regularisation=100.0,
)
def trak(run: Trajectory, *, dimension: int, regularisation: float) -> Tensor:
    """``<phi_q, (Phi^T Phi + regularisation I)^-1 phi_i> (1 - p_i)`` (N, Q) but for a factor, of the one model of the run.

    ``phi = P^T grad f / sqrt(P)`` is the gradient of the margin ``f = log p/(1 - p)`` of the true class, projected by a
    normal matrix (P, dimension) of traker's `BasicProjector`; p_i the chance of sample i's class. traker divides the inverse
    by the mean size of its entries: no units of loss. Its score is of the query's margin and rises where a sample helps, as
    ours does; a query loss would have the factor ``1 - p_q`` besides, which traker leaves out, and the L2 term has no part.
    It works in float32. Ours: the dimension, at most that of the parameters, and the regularisation, 0 in traker, of a matrix
    that is singular for fewer samples than dimensions. The mean query is the mean of the queries' columns. Cost: N + Q
    gradients, dimension^3, the matrix (P, dimension) drawn anew for each query, and traker's files in a folder that is removed.
    """
    problem, order = run.problem, run.problem.train.by_content()
    with TemporaryDirectory() as folder, _undisturbed():
        columns = _columns(run, problem.train[order], folder, min(dimension, problem.model.parameters), regularisation)
    effect = torch.empty_like(columns)
    effect[order] = columns
    return effect.mean(1, keepdim=True) if problem.query_kind == "mean" else effect


def _columns(run: Trajectory, train: Samples, folder: str, dimension: int, regularisation: float) -> Tensor:
    """Scores (N, queries) of traker."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    problem, device = run.problem, run.final.device
    whole = _classifier(problem, run.final.float())
    seed = int(torch.randint(2**20, (), generator=run.random()))
    block = min(BLOCK, dimension // 2)  # of one block alone traker forgets the matrix before the queries come
    projector = BasicProjector(problem.model.parameters, dimension, seed, ProjectionType.normal, device, block_size=block)
    traker = TRAKer(
        whole,
        "image_classification",
        len(train),
        save_dir=folder,
        device=str(device),
        projector=projector,
        logging_level=logging.CRITICAL,
        use_half_precision=False,
        lambda_reg=regularisation,
    )
    traker.load_checkpoint(whole.state_dict(), model_id=0)
    for rows in torch.split(torch.arange(len(train)), BATCH):
        traker.featurize(_batch(train[rows]), num_samples=len(rows))
    traker.finalize_features()
    return torch.cat([_column(traker, whole, problem.query[[q]]) for q in range(len(problem.query))], dim=1).to(run.final)


def _column(traker: Any, whole: nn.Module, query: Samples) -> Tensor:
    """Scores (N, 1) of one query: in float32 those of several at once would depend on how many there are."""
    traker.start_scoring_checkpoint("query", whole.state_dict(), model_id=0, num_targets=1)
    traker.score(_batch(query), num_samples=1)
    return torch.from_numpy(traker.finalize_scores("query").copy())


def _batch(samples: Samples) -> tuple[Tensor, Tensor]:
    return samples.inputs.float(), samples.targets.long()


def _classifier(problem: Problem, theta: Tensor) -> nn.Sequential:
    whole = module(problem.model, theta)
    return nn.Sequential(*whole, TwoLogits()) if problem.model.classes == 1 else whole


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the root logger, which traker configures, as it is, and its progress bars, which have no switch, from the screen."""
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        root.handlers[:] = before
