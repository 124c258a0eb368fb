"""The influence methods of captum (captum.influence, 0.9.0), called on our model and data."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark.estimating import LOSSES, Problem, Samples, Trajectory, estimator, module

BATCH = 20  # samples of one batch: captum goes backward through all of one for each of its samples
Load = Callable[[nn.Module, Any], float]


@dataclass(frozen=True)
class PerSample:
    """A loss (B, C), (B,) -> (B,) that tells captum, by its attribute, that it sums nothing."""

    function: Callable[[Tensor, Tensor], Tensor]
    reduction: str = "none"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (B,)."""
        return self.function(outputs, targets)


@estimator(
    "captum/tracincp",
    paper="Pruthi et al. 2020, arXiv:2002.08484, section 3, as captum 0.9.0 has it",
    tuned_on="untuned",
    library="captum",
    checkpoints=10,
)
def tracincp(run: Trajectory, *, checkpoints: int) -> Tensor:
    """``sum_c rate_c <g_i(theta_c), u_q(theta_c)>`` (N, Q) over checkpoints c, by captum's `TracInCP`.

    Sign as ours, but no units of loss: a checkpoint counts once, with its rate alone, whatever the number of steps it stands
    for and the size of a batch. captum's gradients g_i lack the L2 term, whose share, ``rate_c weight_decay <theta_c, u_q>``
    for every sample, is added here. Ours: the checkpoints are the ends of `checkpoints` segments of the run, each with the
    rate of the step that led to it. Cost: N + 2 Q gradients a checkpoint, each a backward pass over its whole batch.
    """
    problem, rate = run.problem, run.problem.optimizer.rate
    ends = [segment.stop for segment in run.segments(checkpoints)]

    def load(whole: nn.Module, step: int) -> float:
        nn.utils.vector_to_parameters(run.params(step).clone(), whole.parameters())
        return rate(step - 1)

    from captum.influence import TracInCP

    method = TracInCP(module(problem.model, run.final), _batches(problem), ends, load, loss_fn=_loss(problem), batch_size=None)
    found = _rows(problem, method)
    for step in ends:
        found += rate(step - 1) * problem.weight_decay * (problem.query_gradients(run.params(step)) @ run.params(step))
    return found


@estimator(
    "captum/naive",
    paper="Koh and Liang 2017, arXiv:1703.04730, as captum 0.9.0 has it",
    loss_units=True,
    max_parameters=1000,
    tuned_on="library",
    library="captum",
    projection=50,
    regularisation=1e-6,
    smallest=1e-5,
)
def naive(run: Trajectory, *, projection: int, regularisation: float, smallest: float) -> Tensor:
    """``<u_q, R R^T g_i>`` (N, Q), ``R = V D^-1/2`` of the top eigenpairs of ``H + regularisation I``.

    These are the `projection` largest of those above `smallest`. H is the Hessian of the *sum* of the N losses, so that ``R
    R^T`` is already ``1/N (H/N + regularisation/N)^-1``: sign and scale are ours, and the damping of our mean Hessian is
    regularisation/N. captum does not see the L2 term: its curvature N weight_decay is added to the regularisation, and its
    gradient weight_decay theta to g_i, here. Directions of negative curvature, and all but the steepest `projection`, are
    dropped. Settings are captum's. Cost: P Hessian products over all N samples, P^3 for an unsymmetric eigenproblem, N + 2 Q
    gradients.
    """
    from captum.influence import NaiveInfluenceFunction

    settings = {"projection_dim": projection, "hessian_reg": regularisation, "hessian_inverse_tol": smallest}
    return _influence(run, NaiveInfluenceFunction, settings)


@estimator(
    "captum/arnoldi",
    paper="Schioppa et al. 2022, arXiv:2112.03052, as captum 0.9.0 has it",
    loss_units=True,
    max_parameters=20000,
    tuned_on="library",
    library="captum",
    dimension=200,
    tolerance=0.1,
    projection=50,
    regularisation=1e-3,
    smallest=1e-4,
)
def arnoldi(
    run: Trajectory, *, dimension: int, tolerance: float, projection: int, regularisation: float, smallest: float
) -> Tensor:
    """As `naive`, of the Hessian restricted to a Krylov space of a random vector, which Arnoldi's iteration finds.

    The space has `dimension` - 1 directions, fewer where a new one is shorter than `tolerance` before it is normed; captum then
    drops the last one found as well. Settings are captum's. Cost: `dimension` Hessian products over all N samples, N + 2 Q
    gradients.
    """
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    settings = {"projection_dim": projection, "hessian_reg": regularisation, "hessian_inverse_tol": smallest}
    return _influence(run, ArnoldiInfluenceFunction, {**settings, "arnoldi_dim": dimension, "arnoldi_tol": tolerance})


def _influence(run: Trajectory, kind: Any, settings: dict[str, Any]) -> Tensor:
    """Scores (N, Q) of one of captum's influence functions, the L2 term added to its curvature and to its gradients."""
    problem, theta = run.problem, run.final
    settings["hessian_reg"] += problem.weight_decay * len(problem.train)
    seed = int(torch.randint(2**31, (), generator=run.random()))  # captum sets torch's global generator to it
    with _undisturbed():
        method = kind(
            module(problem.model, theta),
            _batches(problem),
            checkpoint=None,
            checkpoints_load_func=lambda whole, checkpoint: 1.0,
            loss_fn=_loss(problem),
            batch_size=None,
            seed=seed,
            projection_on_cpu=False,
            **settings,
        )
        return _rows(problem, method) + problem.weight_decay * (_projected_queries(problem, method) @ (theta @ _root(method)))


def _root(method: Any) -> Tensor:
    """The R (P, k) of captum, a matrix or columns in as many parts as there are parameters."""
    if isinstance(method.R, Tensor):
        return method.R
    return torch.stack([torch.cat([part.flatten() for part in column]) for column in method.R], dim=1)


def _projected_queries(problem: Problem, method: Any) -> Tensor:
    """``u_q R`` (Q, k)"""
    found: Tensor = method.compute_intermediate_quantities(_query(problem), test=True).to(problem.initial)
    return found.mean(0, keepdim=True) if problem.query_kind == "mean" else found


def _rows(problem: Problem, method: Any) -> Tensor:
    """Scores (N, Q) of captum's (queries, samples), where samples are in the order of their content."""
    with _undisturbed():
        scores = method.influence(_query(problem)).detach().to(problem.initial)
    found = torch.empty_like(scores.T)
    found[problem.train.by_content()] = scores.T
    return found.mean(1, keepdim=True) if problem.query_kind == "mean" else found


def _batches(problem: Problem) -> "DataLoader[Any]":
    """The training samples in the order of their content, so that no rounding depends on ours."""
    train: Samples = problem.train[problem.train.by_content()]
    batches = [(part.inputs, part.targets) for part in (train[rows] for rows in torch.split(torch.arange(len(train)), BATCH))]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def _query(problem: Problem) -> tuple[Tensor, Tensor]:
    return problem.query.inputs, problem.query.targets


def _loss(problem: Problem) -> PerSample:
    return PerSample(LOSSES[problem.model.loss])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep torch's global generator as it is, and captum's use of ``torch.tensor(tensor)`` quiet."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
        yield
