"""Inverse-curvature products ``(A + shift I)^-1 v``: one front, a table of solvers, three curvatures A."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError, Unsolved, unknown
from benchmark.core import calculus, kronecker
from benchmark.core.blocks import blocks, of_each
from benchmark.core.models import Model
from benchmark.core.problem import Problem, Samples
from benchmark.core.trajectory import Trajectory

Product = Callable[[Tensor], Tensor]  # A applied to each row of (K, P)
PRODUCTS = {  # of a matrix of the mean training loss with vectors, as methods of Problem
    "hessian": Problem.hessian_products,
    "gauss-newton": Problem.gauss_newton_products,
}
MATRICES = (*PRODUCTS, "fisher")


@dataclass(frozen=True, eq=False)
class System:
    """``(A + shift I) x = v``, A a curvature of the mean training loss at a run's final parameters without L2 term.

    A is the "hessian", its "gauss-newton" part, or the empirical "fisher" matrix ``1/N sum_i g_i g_i^T`` of gradients without
    L2 term; ``shift = weight_decay + damping``, the L2 term's own curvature and the damping. Raises LoobenchError for another
    matrix and for negative damping.
    """

    run: Trajectory
    matrix: str  # "hessian", "gauss-newton" or "fisher"
    damping: float  # 0 or more

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise unknown("curvature", self.matrix, MATRICES)
        if not self.damping >= 0:
            raise LoobenchError(f"damping must be 0 or more, got {self.damping}")

    @property
    def problem(self) -> Problem:
        return self.run.problem

    @property
    def shift(self) -> float:
        """What is added to A's diagonal."""
        return self.problem.weight_decay + self.damping

    @cached_property
    def gradients(self) -> Tensor:
        """Gradients (N, P) of the training losses without L2 term, all at once."""
        return self._gradients(self.problem.train)

    def gradient_blocks(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """Gradients (B, P) without L2 term of all training samples, or of some `rows`, a block at a time.

        Held for the next time where all are one block, else computed again.
        """
        everyone = self._everyone
        if len(blocks(everyone, self.run.final.nbytes)) == 1:
            yield self.gradients if rows is None else self.gradients[rows]
            return
        for some in blocks(everyone if rows is None else rows, self.run.final.nbytes):
            yield self._gradients(self.problem.train[some])

    @property
    def _everyone(self) -> Tensor:
        return torch.arange(len(self.problem.train), device=self.run.final.device)

    def _gradients(self, samples: Samples) -> Tensor:
        found = self.problem.gradients(self.run.final, samples)
        return found.sub_(self.problem.weight_decay * self.run.final)

    def products(self, vectors: Tensor, rows: Tensor | None = None) -> Tensor:
        """``A v_k``, A over all training samples or over some `rows` of them. (K, P) -> (K, P)"""
        if self.matrix == "fisher":
            count = len(self.problem.train) if rows is None else len(rows)
            calculus.count(hessian_products=count * len(vectors))
            found = torch.zeros_like(vectors)
            for some in self.gradient_blocks(rows):
                found += vectors @ some.T @ some
            return found / count
        samples: Samples = self.problem.train if rows is None else self.problem.train[rows]
        found = PRODUCTS[self.matrix](self.problem, self.run.final, samples, vectors)
        return found - self.problem.weight_decay * vectors

    def applied(self, vectors: Tensor) -> Tensor:
        """``(A + shift I) v_k``. (K, P) -> (K, P)"""
        return self.products(vectors) + self.shift * vectors

    @cached_property
    def root(self) -> Iterable[Tensor]:
        """B (M, P) with ``A = B^T B / N``, M = N C, or N for the Fisher matrix, in blocks of rows.

        Held where all are one block, else computed again each time. Raises LoobenchError for the Hessian.
        """
        return of_each(self._root_parts, self._root_rows)

    def root_over(self, size: float) -> Iterable[Tensor]:
        """``B / size``, as `root`."""
        return of_each(self._root_parts, lambda rows: self._root_rows(rows) / size)

    @property
    def _root_parts(self) -> tuple[Tensor, ...]:
        if self.matrix == "hessian":
            raise LoobenchError("the Hessian has no root: take gauss-newton or fisher")
        return blocks(self._everyone, self._directions * self.run.final.nbytes)

    def _root_rows(self, rows: Tensor) -> Tensor:
        if self.matrix == "fisher":
            return self.gradients if len(rows) == len(self.problem.train) else self._gradients(self.problem.train[rows])
        return kronecker.curvature_roots(self.problem, self.run.final, self.problem.train[rows]).flatten(0, 1)

    @property
    def _directions(self) -> int:
        """Rows of B for each sample."""
        return 1 if self.matrix == "fisher" else self.problem.model.classes

    @property
    def low(self) -> bool:
        """Whether A has fewer rows of a root than there are parameters, so that its inverse is best taken through them."""
        rows = len(self.problem.train) * self._directions
        return self.matrix != "hessian" and rows < len(self.run.final) and self.shift > 0

    def explicit(self) -> Tensor:
        """``A + shift I`` (P, P)."""
        found = self.products(torch.eye(len(self.run.final)).to(self.run.final))
        found.diagonal().add_(self.shift)
        return (found + found.T) / 2


def solve(system: System, vectors: Tensor, solver: str, **settings: Any) -> Tensor:
    """``(A + shift I)^-1 v_k`` as that solver finds it. (K, P) -> (K, P)

    The solvers and their settings: "direct", "cg" (`iterations`), "lissa" (`depth`, `batch`, `scale`), "arnoldi" (`rank`,
    `iterations`), "nystrom" (`rank`), "kfac", "ekfac" and "datainf" (`share`).
    Leaves notes of the iterations and of the largest residual ``|(A + shift I) x - v|/|v|``, and of the share of vectors whose
    residual is above what the solver promises ("unconverged"). Raises Unsolved where the matrix is singular, or indefinite
    where the solver needs it not to be, and where the solver diverged; LoobenchError for an unknown solver, or one that has
    no form for the matrix.
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    chosen = SOLVERS[solver]
    if system.matrix not in chosen.matrices:
        raise LoobenchError(f"solver {solver} is for {' and '.join(chosen.matrices)}, got {system.matrix}")
    for name, value in settings.items():
        if not value >= (0 if name == "share" else 1) and name != "scale":
            raise LoobenchError(f"{name} of solver {solver} must be {'0' if name == 'share' else '1'} or more, got {value}")
    sizes = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    units = vectors / torch.where(sizes == 0, 1.0, sizes)  # so that the squares of small ones do not vanish
    found, iterations = chosen.function(system, units, **settings)
    calculus.note(iterations=iterations)
    if chosen.promise:
        _judge(system, units, found, solver, chosen.promise)
    solved: Tensor = found * sizes
    return solved


def _judge(system: System, vectors: Tensor, found: Tensor, solver: str, promise: float) -> None:
    residuals = torch.linalg.vector_norm(system.applied(found) - vectors, dim=1)  # (K,), of unit vectors
    worst = float(residuals.nan_to_num(torch.inf).max())
    if not system.run.final.isfinite().all():
        return  # a run that diverged: its answer is no number, and shows it
    if worst > 1:
        raise Unsolved(f"{solver} diverged: residual {worst:.1e} of the right-hand side's norm; raise damping or scale")
    reached = max(promise, 100 * torch.finfo(vectors.dtype).eps)
    calculus.note(residual=worst, unconverged=float((residuals > reached).double().mean()))


# ---- solvers ---------------------------------------------------------------------------------------------------------
def direct(system: System, vectors: Tensor) -> tuple[Tensor, int]:
    """By the explicit matrix (P, P), or that of a root's rows (M, M) where they are fewer (Woodbury's formula).

    With damping whatever the matrix' signs; without, a singular or indefinite one is refused.
    """
    if system.low:
        return through(system.root_over(len(system.problem.train) ** 0.5), system.shift)(vectors), 1
    matrix = system.explicit()
    if not system.damping:
        refuse_singular(matrix)
    found: Tensor = torch.linalg.solve(matrix, vectors.T).T
    return found, 1


def through(root: Iterable[Tensor], shift: float) -> Product:
    """``(B^T B + shift I)^-1`` by way of the rows of B (M, P): ``(v - B^T (B B^T + shift I)^-1 B v) / shift``.

    B comes in blocks of rows, gone through more than once: a list, or `System.root`. Two of them are held at once.
    """
    inner = torch.cat([torch.cat([left @ right.T for right in root], dim=1) for left in root])
    inner.diagonal().add_(shift)
    factors = torch.linalg.lu_factor(inner)

    def inverse(vectors: Tensor) -> Tensor:
        inside = torch.linalg.lu_solve(*factors, torch.cat([rows @ vectors.T for rows in root]))  # (M, K)
        left, at = vectors, 0
        for rows in root:
            left, at = left - inside[at : at + len(rows)].T @ rows, at + len(rows)
        return left / shift

    return inverse


def refuse_singular(matrix: Tensor) -> None:
    """Raise Unsolved for a symmetric matrix (P, P) whose eigenvalues are not all above rounding."""
    if not matrix.isfinite().all():
        return  # of a run that diverged: what comes of it shows it
    values = torch.linalg.eigvalsh(matrix)
    lowest, highest = float(values[0]), float(values[-1])
    if lowest <= len(values) * torch.finfo(values.dtype).eps * max(highest, -lowest):
        kind = "indefinite" if lowest < -1e-9 * highest else "singular"
        raise Unsolved(f"the curvature is {kind}, eigenvalues {lowest:.1e} to {highest:.1e}: add damping")


def cg(system: System, vectors: Tensor, *, iterations: int) -> tuple[Tensor, int]:
    """Conjugate gradients, for each vector until its residual is 1e-10, or so many iterations.

    Hestenes and Stiefel 1952; for influence Koh and Liang 2017, arXiv:1703.04730, section 3. Raises Unsolved where a direction
    of no or negative curvature shows.
    """
    found, left, direction = torch.zeros_like(vectors), vectors.clone(), vectors.clone()
    sizes = (vectors**2).sum(1)
    goal = sizes * max(1e-10, 10 * torch.finfo(vectors.dtype).eps) ** 2
    for k in range(iterations):
        before = (left**2).sum(1)
        at = (before > goal).nonzero()[:, 0]
        if not len(at):
            return found, k
        moved = system.applied(direction[at])
        curved = (direction[at] * moved).sum(1)
        if (curved <= 0).any():
            low = float((curved / (direction[at] ** 2).sum(1)).min())
            raise Unsolved(f"the curvature is indefinite, {low:.1e} along a direction: raise damping or take gauss-newton")
        step = (before[at] / curved)[:, None]
        found[at] += step * direction[at]
        left[at] -= step * moved
        direction[at] = left[at] + ((left[at] ** 2).sum(1) / before[at])[:, None] * direction[at]
    return found, iterations


def lissa(system: System, vectors: Tensor, *, depth: int, batch: int, scale: float) -> tuple[Tensor, int]:
    """``r <- v + r - (A_B + shift) r / s`` for `depth` batches B, answer ``r/s``; s is `scale` times the largest eigenvalue.

    Agarwal et al. 2017, arXiv:1602.03943; for influence Koh and Liang 2017, section 3. Batches are random, epoch by epoch; a
    `batch` of N or more is all samples. The eigenvalue, of ``A + shift``, is from 10 Lanczos steps (ours; the released codes
    have the user find a scale).
    """
    start = torch.randn(1, vectors.shape[1], generator=system.run.random(), dtype=torch.float64).to(vectors)
    size = scale * (float(torch.linalg.eigvalsh(_ritz(system, start, 10)[1])[0].abs().max()) + system.shift)
    found, samples = vectors, len(system.problem.train)
    for rows in _batches(system, batch, depth):
        moved = system.products(found, None if batch >= samples else rows) + system.shift * found
        found = vectors + found - moved / size
    return found / size, depth


def _batches(system: System, size: int, count: int) -> Iterator[Tensor]:
    """So many batches of sample numbers, from random permutations of the samples in the order of their content."""
    order, random = system.problem.train.by_content(), system.run.random()
    while count > 0:
        shuffled = order[torch.randperm(len(order), generator=random).to(order.device)]
        yield from (some := torch.split(shuffled, size)[:count])
        count -= len(some)


def arnoldi(system: System, vectors: Tensor, *, rank: int, iterations: int) -> tuple[Tensor, int]:
    """``V (values + shift)^-1 V^T v`` with the `rank` eigenpairs of A largest in size that so many Lanczos steps find.

    Schioppa et al. 2022, arXiv:2112.03052, section 3; what is across those directions is dropped, as there. The start is
    random. For the symmetric A Arnoldi's iteration is Lanczos'. Raises Unsolved where ``values + shift`` comes near 0.
    """
    start = torch.randn(1, vectors.shape[1], generator=system.run.random(), dtype=torch.float64).to(vectors)
    basis, small = _ritz(system, start, iterations)
    values, turns = torch.linalg.eigh(small[0])
    floor = values.abs().max() * torch.finfo(values.dtype).eps ** 0.5  # below it rounding decides what is found
    largest = values.abs().argsort(descending=True)[:rank]
    largest = largest[values[largest].abs() > floor]
    axes = turns[:, largest].T @ basis[0]  # (rank, P)
    if len(largest) and (nearest := float((values[largest] + system.shift).abs().min())) < 1e-3 * system.shift:
        raise Unsolved(f"the curvature is singular, {nearest:.1e} left in a direction: raise damping or take gauss-newton")
    found = vectors @ axes.T / (values[largest] + system.shift) @ axes
    return found, basis.shape[1]


def _ritz(system: System, starts: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    if not system.run.final.isfinite().all():
        raise LoobenchError("the final parameters are no finite numbers: the run diverged")
    return lanczos(system.products, starts, iterations)


def nystrom(system: System, vectors: Tensor, *, rank: int) -> tuple[Tensor, int]:
    """``(B B^T + shift)^-1 v``, ``B B^T = A W (W^T A W)^+ W^T A`` with `rank` columns W standard normal, by Woodbury's formula.

    Frangella et al. 2023, arXiv:2110.02820; Hataya and Yamada 2023, arXiv:2302.09726, draw columns of A instead. Raises
    Unsolved where A has negative eigenvalues in that span, and without damping or L2 term.
    """
    if not system.shift:
        raise Unsolved("the Nystrom approximation is singular: add damping")
    rank = min(rank, vectors.shape[1])
    drawn = torch.randn(rank, vectors.shape[1], generator=system.run.random(), dtype=torch.float64).to(vectors)
    drawn = torch.linalg.qr(drawn.T).Q.T
    moved = system.products(drawn)  # (rank, P)
    core = drawn @ moved.T
    values, axes = torch.linalg.eigh((core + core.T) / 2)
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps * 100
    if values[0] < -floor:
        raise Unsolved(f"the curvature is indefinite, {float(values[0]):.1e} in the span: take gauss-newton or fisher")
    kept = values > floor
    root = (axes[:, kept] / values[kept].sqrt()).T @ moved  # (kept, P)
    return through([root], system.shift)(vectors), rank


def kfac(system: System, vectors: Tensor, *, share: float) -> tuple[Tensor, int]:
    """``(A (x) S + shift + share * mean)^-1 v`` layer by layer; see `kronecker.kfac`."""
    return _layered(system, vectors, kronecker.kfac(system.problem, system.run.final, system.matrix), share), 1


def ekfac(system: System, vectors: Tensor, *, share: float) -> tuple[Tensor, int]:
    """K-FAC's axes with their own curvatures, damped by `share` of each layer's mean; see `kronecker.ekfac`."""
    return _layered(system, vectors, kronecker.ekfac(system.problem, system.run.final, system.matrix), share), 1


def _layered(system: System, vectors: Tensor, axes: list[kronecker.Axes], share: float) -> Tensor:
    parts = kronecker.matrices(system.problem.model, vectors)
    solved = [layer.solved(part, system.shift, share) for layer, part in zip(axes, parts, strict=True)]
    return kronecker.vectors(system.problem.model, solved)


def datainf(system: System, vectors: Tensor, *, share: float) -> tuple[Tensor, int]:
    """``1/N sum_i (g_i g_i^T + c)^-1 v`` layer by layer: the mean of inverses for the inverse of the mean.

    Kwon et al. 2024, arXiv:2310.00902, equation 5; ``c = shift + share * mean of g^2`` over the layer's entries and samples.
    Cost: N gradients, twice that where they are more than one block.
    """
    model, count = system.problem.model, len(system.problem.train)
    parts = kronecker.matrices(model, vectors)
    dampings = [system.shift + share * square for square in _mean_squares(system)]
    if any(damping <= 0 for damping in dampings):
        raise Unsolved("a layer has no gradients and no damping: add damping")
    sums = [torch.zeros_like(part) for part in parts]
    for each in map(partial(_along, model, parts, dampings), system.gradient_blocks()):
        for total, found in zip(sums, each, strict=True):
            total += found
    solved = [(part - total / count) / damping for part, total, damping in zip(parts, sums, dampings, strict=True)]
    return kronecker.vectors(model, solved), 1


def _along(model: Model, parts: kronecker.Matrices, dampings: Sequence[Tensor], gradients: Tensor) -> kronecker.Matrices:
    """``sum_b g_b <g_b, v> / (c + |g_b|^2)`` of each layer's vectors v, by some gradients (B, P)."""

    def layer(own: Tensor, part: Tensor, damping: Tensor) -> Tensor:
        g, v = own.flatten(1), part.flatten(1)
        weights = v @ g.T / (damping + (g**2).sum(1))  # (K, B)
        return (weights @ g).reshape(part.shape)

    return list(map(layer, kronecker.matrices(model, gradients), parts, dampings))


def _mean_squares(system: System) -> list[Tensor]:
    """The mean of g^2 over each layer's entries and all samples."""
    model = system.problem.model
    sizes = [matrix[0].numel() * len(system.problem.train) for matrix in kronecker.matrices(model, system.run.final[None])]
    sums = [system.run.final.new_zeros(()) for _ in sizes]
    for each in map(partial(_squares, model), system.gradient_blocks()):
        for total, found in zip(sums, each, strict=True):
            total += found
    return [total / size for total, size in zip(sums, sizes, strict=True)]


def _squares(model: Model, gradients: Tensor) -> list[Tensor]:
    """The sum of g^2 over each layer's entries, of some gradients (B, P)."""
    return [(matrix.flatten(1) ** 2).sum() for matrix in kronecker.matrices(model, gradients)]


@dataclass(frozen=True)
class Solver:
    """A solver, the matrices it has a form for, and the largest residual it promises; None where it solves another system."""

    function: Callable[..., tuple[Tensor, int]]  # (system, vectors (K, P), **settings) -> solutions (K, P), iterations
    matrices: tuple[str, ...] = MATRICES
    promise: float | None = None


SOLVERS = {
    "direct": Solver(direct, promise=1e-6),
    "cg": Solver(cg, promise=1e-9),
    "lissa": Solver(lissa, promise=0.05),
    "arnoldi": Solver(arnoldi),
    "nystrom": Solver(nystrom),
    "kfac": Solver(kfac, ("gauss-newton", "fisher")),
    "ekfac": Solver(ekfac, ("gauss-newton", "fisher")),
    "datainf": Solver(datainf, ("fisher",)),
}


# ---- Krylov spaces of a symmetric matrix known by its products -------------------------------------------------------
def lanczos(product: Product, starts: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases V (Q, m, P) of the Krylov spaces of the rows of (Q, P), and tridiagonal ``T = V A V^T`` (Q, m, m).

    A space that is exhausted goes on with vectors 0, whose part of T is 0 and uncoupled: functions of T at the first unit
    vector do not see it. Orthogonal to all vectors before, twice, because rounding brings back directions that converged.
    """
    length = min(iterations, starts.shape[1])
    basis = starts.new_zeros(len(starts), length, starts.shape[1])
    small = starts.new_zeros(len(starts), length, length)
    basis[:, 0], _ = unit(starts, torch.zeros_like(starts[:, 0]))
    for k in range(length):
        moved = product(basis[:, k])
        floor = 10 * torch.finfo(moved.dtype).eps * torch.linalg.vector_norm(moved, dim=1)
        for _ in range(2):
            overlap = basis[:, : k + 1] @ moved[..., None]  # (Q, k + 1, 1)
            moved = moved - (overlap.mT @ basis[:, : k + 1])[:, 0]
            small[:, k, k] += overlap[:, k, 0]
        if k + 1 < length:
            basis[:, k + 1], small[:, k + 1, k] = unit(moved, floor)
            small[:, k, k + 1] = small[:, k + 1, k]
    return basis, small


def unit(vectors: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Each row over its norm, and the norms; both 0 where the norm is not above its `floor`."""
    norms = torch.linalg.vector_norm(vectors, dim=1)
    small = (norms <= floor) & norms.isfinite()  # an overflow is to show, not to pass for an exhausted space
    return torch.where(small[:, None], 0.0, vectors / norms[:, None]), torch.where(small, 0.0, norms)
