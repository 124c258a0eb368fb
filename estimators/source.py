"""SOURCE: the run unrolled in a few stretches, each with one curvature and one gradient of every sample."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import PRODUCTS, Adam, Problem, Product, Sgd, Trajectory, estimator, lanczos

PAPER = "Bae et al. 2024, arXiv:2405.12186"
ROWS = 256  # samples of which gradients or products are held at once
WIDEST = 2000  # vectors (P,) held at once, and parameters of an explicit matrix: bounds memory
variant = partial(estimator, paper=PAPER, loss_units=True, interpretation=True, checkpoints=2, iterations=40)


@variant("source", segments=3, curvature="gauss-newton")
@variant("source-1", segments=1, curvature="gauss-newton")
@variant("source-6", segments=6, curvature="gauss-newton")
@variant("source-hessian", segments=3, curvature="hessian")
def source(run: Trajectory, *, segments: int, checkpoints: int, curvature: str, iterations: int) -> Tensor:
    """``<u_q, d_i>, d_i = 1/N sum_l [prod_{l'>l} exp(-e_l' K_l' H_l')] (I - exp(-e_l K_l H_l)) H_l^-1 g_l(i)``.

    Segment l has K_l steps of mean rate e_l; curvature H_l and gradient g_l(i) are means over its checkpoints. From the query's
    side, last segment first: ``effect += <F w, g_l(i)>/N`` with ``F = (1 - exp(-e K H))/H`` (e K where H is 0), and
    ``w <- exp(-e K H) w``. (K, Q), of samples that training may never have visited too. Heavy ball: e K / (1 - momentum).
    The paper has EK-FAC for H, we the exact matrix through `iterations` of Lanczos; with the Hessian exp may grow (ours).
    Adam, with ``D = 1/(sqrt(v) + eps)`` of the mean unbiased v: the flow ``theta' = -D g - decay theta`` has
    ``d' = -(D H + decay) d + D g_i/N``, so H gives way to ``D^1/2 H D^1/2 + decay``, and w and g are in the coordinates
    ``D^1/2 w, D^1/2 g`` (the paper has D; the decay of AdamW is ours).
    Cost for L segments of C checkpoints and m iterations, whatever E: L C m N Q Hessian products and L C (K + m N) gradients;
    L C N P and L C (K + N) where m Q > P <= min(4 N, 2000), by the explicit matrix.
    """
    problem = run.problem
    vectors = run.query_gradients()  # (Q, P)
    effect = run.final.new_zeros(len(problem.left_out), problem.queries)
    for steps in reversed(run.segments(segments)):
        at = spread(steps, checkpoints)
        root = preconditioner(run, at).sqrt()  # (P,)
        product = cheapest(mean_product(run, at, PRODUCTS[curvature], root), vectors, iterations, len(problem.train))
        passed, vectors = flows(product, duration(problem, steps), vectors * root, iterations, len(problem.train))
        effect += pairings(run, at, passed * root) / len(problem.train)
        vectors = vectors / root
    return effect


def spread(steps: range, count: int) -> list[int]:
    """The middle steps of `count` equal parts of a segment, of single steps where it has fewer."""
    count = min(count, len(steps))
    return [steps[(2 * k + 1) * len(steps) // (2 * count)] for k in range(count)]


def duration(problem: Problem, steps: range) -> float:
    """How far the gradient flow goes in a segment: e K, over 1 - momentum."""
    passed = sum(map(problem.optimizer.rate, steps))
    return passed / (1 - problem.optimizer.momentum) if isinstance(problem.optimizer, Sgd) else passed


def preconditioner(run: Trajectory, at: list[int]) -> Tensor:
    """``D = 1/(sqrt(v) + eps)`` (P,), v the mean unbiased second moment after the steps `at`; ones but for Adam."""
    adam = run.problem.optimizer
    if not isinstance(adam, Adam):
        return torch.ones_like(run.final)
    seconds = [run.states[t + 1, 2] / (1 - adam.beta2 ** (t + 1)) for t in at]
    return 1 / (torch.stack(seconds).mean(0).sqrt() + adam.eps)


def mean_product(run: Trajectory, at: list[int], of: Callable[..., Tensor], root: Tensor) -> Product:
    """``v -> D^1/2 H D^1/2 v + decay v``, H the mean over all samples and the checkpoints `at`."""
    problem, optimizer = run.problem, run.problem.optimizer
    decay = optimizer.decay if isinstance(optimizer, Adam) else 0.0
    blocks = torch.split(torch.arange(len(problem.train), device=run.final.device), ROWS)

    def product(vectors: Tensor) -> Tensor:
        scaled, total = root * vectors, torch.zeros_like(vectors)
        for t in at:
            for rows in blocks:
                share = len(rows) / len(problem.train) / len(at)
                total += share * of(problem, run.params(t), problem.train[rows], scaled)
        return root * total + decay * vectors

    return product


def cheapest(product: Product, vectors: Tensor, iterations: int, samples: int) -> Product:
    """The product, or that with its explicit matrix where fewer products make that and its memory is that of a few (N, P)."""
    queries, parameters = vectors.shape
    if queries * min(iterations, parameters) <= parameters or parameters > min(4 * samples, WIDEST):
        return product
    matrix = product(torch.eye(parameters, dtype=vectors.dtype, device=vectors.device))
    return lambda vectors: vectors @ matrix


def pairings(run: Trajectory, at: list[int], vectors: Tensor) -> Tensor:
    """``<g(i), v_q>`` (K, Q) of the samples left out, g(i) the mean gradient over the checkpoints `at`."""
    problem = run.problem

    def paired(theta: Tensor) -> Tensor:
        blocks = torch.split(problem.left_out, ROWS)
        return torch.cat([problem.gradients(theta, problem.train[rows]) @ vectors.T for rows in blocks])

    return torch.stack([paired(run.params(t)) for t in at]).mean(0)


# ---- functions of a symmetric matrix A known by its products --------------------------------------------------------
def flows(product: Product, time: float, vectors: Tensor, iterations: int, samples: int) -> tuple[Tensor, Tensor]:
    """`flow` of each row of (Q, P), in chunks whose Krylov bases take the memory of a few (N, P)."""
    width = max(8, min(4 * samples, WIDEST) // iterations)
    parts = [flow(product, time, part, iterations) for part in torch.split(vectors, width)]
    passed, left = (torch.cat(each) for each in zip(*parts, strict=True))
    return passed, left


def flow(product: Product, time: float, vectors: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """``(1 - exp(-time A))/A v`` and ``exp(-time A) v`` for each row v of (Q, P)."""
    basis, small = lanczos(product, vectors, iterations)
    finite = small.isfinite().all(2, keepdim=True).all(1, keepdim=True)  # (Q, 1, 1)
    values, axes = torch.linalg.eigh(torch.where(finite, small, 0.0))
    sizes = torch.where(finite[:, 0], torch.linalg.vector_norm(vectors, dim=1, keepdim=True), torch.nan)

    def applied(factors: Tensor) -> Tensor:  # (Q, m) of the eigenvalues
        coordinates = axes @ (factors * axes[:, 0])[..., None]  # (Q, m, 1)
        combined: Tensor = sizes * (coordinates.mT @ basis)[:, 0]
        return combined

    grown = torch.expm1(-time * values)
    passed = torch.where(values == 0, time, -grown / torch.where(values == 0, 1.0, values))
    return applied(passed), applied(torch.exp(-time * values))
