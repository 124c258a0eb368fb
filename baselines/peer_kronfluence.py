"""The influence scores of kronfluence (1.0.1), called on our model and data."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmark.estimating import LOSSES, Problem, Samples, Trajectory, estimator, module

PAPER = "Grosse et al. 2023, arXiv:2308.03296, as kronfluence 1.0.1 has it"
BATCH = 1000  # samples of one batch: all of them on small tasks
FACTOR_TYPES = ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype", "lambda_dtype")
SCORE_TYPES = ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype")

LABELS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {  # drawn from the model's own distribution; (B, C) -> (B,)
    "binary-cross-entropy": lambda outputs, random: torch.bernoulli(outputs[:, 0].sigmoid(), generator=random),
    "cross-entropy": lambda outputs, random: torch.multinomial(outputs.softmax(-1), 1, generator=random)[:, 0],
    "squared-error": lambda outputs, random: torch.normal(outputs[:, 0], 1.0, generator=random),
}


@estimator(
    "kronfluence/ekfac", paper=PAPER, tuned_on="tuning", library="kronfluence", strategy="ekfac", damping=0.01, empirical=False
)
@estimator(
    "kronfluence/kfac", paper=PAPER, tuned_on="tuning", library="kronfluence", strategy="kfac", damping=0.01, empirical=False
)
@estimator(
    "kronfluence/diagonal",
    paper=PAPER,
    tuned_on="library",
    library="kronfluence",
    strategy="diagonal",
    damping=1e-8,
    empirical=False,
)
def kronfluence(run: Trajectory, *, strategy: str, damping: float, empirical: bool) -> Tensor:
    """``<u_q, (F + damping I)^-1 g_i> / N`` (N, Q) at theta_T, F the Fisher matrix as `strategy` has it, layer by layer.

    "kfac": ``A (x) S``, the mean second moments of a layer's inputs, a 1 for the bias among them, and of the slopes of its
    outputs, whose labels are drawn from the model (true labels with `empirical`). "ekfac": in the eigenvectors of A and S, the
    mean squares of the gradients of all N samples. "diagonal": the mean squares themselves. Sign as ours, scale N times
    ours. kronfluence does not see the L2 term: the curvature weight_decay is added to the damping here, the gradient
    ``weight_decay theta`` is left out, so that a column is right up to a constant. It tracks dense layers and convolutions:
    what GroupNorm's parameters would add is left out. Its own damping is 1e-8. Cost: two passes over the N samples for the
    factors, one for the scores, Q gradients, and a layer's inputs and outputs cubed; files of the factors in a folder that is
    removed. A query's gradients and preconditioned gradients are held at once: (Q, P).
    """
    problem, order = run.problem, run.problem.train.by_content()
    settings = {"strategy": strategy, "use_empirical_fisher": empirical}
    with TemporaryDirectory() as folder, _undisturbed():
        scores = _scores(run, problem.train[order], folder, settings, damping + problem.weight_decay).to(run.final)  # (Q, N)
    effect = torch.empty_like(scores.T)
    effect[order] = scores.T / len(problem.train)
    return effect.mean(1, keepdim=True) if problem.query_kind == "mean" else effect


def _scores(run: Trajectory, train: Samples, folder: str, settings: dict[str, Any], damping: float) -> Tensor:
    """Pairwise scores (queries, samples) of kronfluence."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    problem, theta = run.problem, run.final
    task = _task(problem, run.random())
    whole = prepare_model(module(problem.model, theta), task)
    quiet = {"disable_tqdm": True, "disable_model_save": True}
    analyzer = Analyzer("run", whole, task, cpu=theta.device.type == "cpu", output_dir=folder, **quiet)
    factors = FactorArguments(**settings, **dict.fromkeys(FACTOR_TYPES, theta.dtype))
    data, query = (TensorDataset(samples.inputs, samples.targets) for samples in (train, problem.query))
    analyzer.fit_all_factors("factors", data, per_device_batch_size=BATCH, factor_args=factors)
    analyzer.compute_pairwise_scores(
        "scores",
        "factors",
        query,
        data,
        per_device_query_batch_size=BATCH,
        per_device_train_batch_size=BATCH,
        score_args=ScoreArguments(damping_factor=damping, **dict.fromkeys(SCORE_TYPES, theta.dtype)),
    )
    found: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
    return found


def _task(problem: Problem, random: torch.Generator) -> Any:
    """Our loss as a task of kronfluence, with labels drawn from `random`."""
    from kronfluence.task import Task

    losses, draw = LOSSES[problem.model.loss], LABELS[problem.model.loss]

    def train_loss(task: Any, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:  # noqa: ARG001
        outputs = model(batch[0])
        targets = draw(outputs.detach().cpu(), random).to(batch[1]) if sample else batch[1]
        return losses(outputs, targets).sum()

    def measurement(task: Any, batch: list[Tensor], model: nn.Module) -> Tensor:  # noqa: ARG001
        return losses(model(batch[0]), batch[1]).sum()

    return type("Ours", (Task,), {"compute_train_loss": train_loss, "compute_measurement": measurement})()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep torch's global generator as it is, and what is there already from kronfluence's ten garbage collections.

    kronfluence keeps the first device it was given; it is made to forget it.
    """
    from kronfluence.utils.state import State

    State._reset_state()
    gc.freeze()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.cuda.amp.GradScaler", category=FutureWarning)
            yield
    finally:
        gc.unfreeze()
