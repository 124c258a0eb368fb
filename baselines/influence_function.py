"""Influence functions of the final model: one formula, a table of solvers, three curvatures."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.estimating import System, Trajectory, estimator, solve
from benchmark.estimating import readout as read

PAPER = "Koh and Liang 2017, arXiv:1703.04730, eq. 2"
ROWS = 256  # samples whose gradients are held at once: bounds memory
variant = partial(estimator, loss_units=True, tuned_on="tuning")
small = partial(estimator, paper=PAPER, loss_units=True, max_parameters=8000, solver="direct", matrix="hessian")
thin = partial(estimator, paper=PAPER, loss_units=True, tuned_on="tuning", max_rank=2000, solver="direct")
RELATIVE = "Barshan et al. 2020, arXiv:2003.11630, section 3"
relative = partial(estimator, tuned_on="tuning", max_rank=2000, solver="direct", matrix="gauss-newton", damping=0.1)
layered = partial(variant, damping=0.0, share=1.0)


@small("if-direct", damping=0.01)
@small("if-direct-damped", tuned_on="tuning", damping=0.1)
@thin("if-direct-gauss-newton", matrix="gauss-newton", damping=0.03)
@thin("if-direct-fisher", matrix="fisher", damping=0.01)
@variant(
    "if-cg",
    paper=PAPER + "; Gauss-Newton matrix after Martens 2010",
    solver="cg",
    matrix="gauss-newton",
    damping=0.03,
    iterations=500,
)
@variant(
    "if-lissa",
    paper="Agarwal et al. 2017, arXiv:1602.03943; Koh and Liang 2017",
    solver="lissa",
    matrix="gauss-newton",
    damping=0.03,
    depth=300,
    batch=50,
    scale=2.0,
)
@variant(
    "if-arnoldi",
    paper="Schioppa et al. 2022, arXiv:2112.03052; curvature ours",
    solver="arnoldi",
    matrix="gauss-newton",
    damping=0.03,
    rank=50,
    iterations=100,
)
@variant(
    "if-nystrom",
    paper="Hataya and Yamada 2023, arXiv:2302.09726; sketch of Frangella et al. 2023, arXiv:2110.02820",
    solver="nystrom",
    matrix="gauss-newton",
    damping=0.03,
    rank=100,
)
@layered("if-kfac", paper="Martens and Grosse 2015, arXiv:1503.05671", solver="kfac", matrix="gauss-newton")
@layered("if-ekfac", paper="Grosse et al. 2023, arXiv:2308.03296", solver="ekfac", matrix="gauss-newton")
@layered("if-ekfac-fisher", paper="Grosse et al. 2023, arXiv:2308.03296; curvature ours", solver="ekfac", matrix="fisher")
@estimator(
    "if-datainf",
    paper="Kwon et al. 2024, arXiv:2310.00902, eq. 5",
    loss_units=True,
    solver="datainf",
    matrix="fisher",
    damping=0.0,
    share=0.1,
)
def influence_function(run: Trajectory, *, solver: str, matrix: str, damping: float, **settings: Any) -> Tensor:
    """``<(A + (weight_decay + damping) I)^-1 u_q, g_i> / N`` at theta_T. (K, Q)

    A is the Hessian of the mean training loss without L2 term, its Gauss-Newton part, or the empirical Fisher matrix; off a
    minimum the Hessian may be indefinite, and the estimate is then as bad as the theory says (`direct`) or refused (`cg`).
    `damping` of `if-direct` is that of the paper's code; `share` damps each layer by that part of its mean curvature (Grosse et
    al., who take 0.1, and Kwon et al.). Solvers, their own settings and sources: `solve` in docs/estimating.md.
    Cost: K + Q gradients and what the solver takes: N P products and P^3 for `direct`, or N C gradients and N^2 C^2 P where the
    matrix has a root and N C < P; N Q for each iteration of `cg`, B Q for each of `lissa`, N for each step of `arnoldi`, N rank
    for `nystrom`; C N gradients for `kfac`, twice that for `ekfac` (for the Fisher matrix without C), N for `datainf`. And N Q
    products for the residual of the first three.
    """
    solved = solve(System(run, matrix, damping), run.query_gradients(), solver, **settings)  # (Q, P)
    return paired(run, solved)


def paired(run: Trajectory, vectors: Tensor) -> Tensor:
    """``<v_q, g_i> / N`` of the samples left out. (Q, P) -> (K, Q)"""
    problem = run.problem
    blocks = torch.split(problem.left_out, ROWS)
    found = [problem.gradients(run.final, problem.train[rows]) @ vectors.T for rows in blocks]
    return torch.cat(found) / len(problem.train)


@thin("if-direct-exact", matrix="gauss-newton", damping=0.03, readout="exact")
def influence_shift(run: Trajectory, *, solver: str, matrix: str, damping: float, readout: str) -> Tensor:
    """The query losses at the shifted parameters, ``d_i = (A + (weight_decay + damping) I)^-1 g_i / N``, read exactly. (K, Q)

    The readout is ours: the paper's is linear. Cost: that of `direct` for K right-hand sides, and the query losses K times.
    """
    problem = run.problem
    gradients = problem.gradients(run.final, problem.train[problem.left_out])
    return read(run, solve(System(run, matrix, damping), gradients, solver) / len(problem.train), readout)


@relative("relatif", paper=RELATIVE + " (theta-relative)", root=False)
@relative("relatif-loss", paper=RELATIVE + " (l-relative)", root=True)
def relatif(run: Trajectory, *, solver: str, matrix: str, damping: float, root: bool) -> Tensor:
    """``<u_q, M^-1 g_i>`` over ``|M^-1 g_i|``, or with `root` over ``sqrt(g_i^T M^-1 g_i)``: influence for its cost. (K, Q)

    M is the damped Gauss-Newton matrix (the paper's Fisher matrix of the model), the answer an order of samples and not a loss.
    Cost: as `if-direct`.
    """
    problem = run.problem
    gradients = normalize(problem.gradients(run.final, problem.train[problem.left_out]), dim=1)  # their size drops out
    solved = solve(System(run, matrix, damping), gradients, solver)  # (K, P)
    sizes = (gradients * solved).sum(1).sqrt() if root else torch.linalg.vector_norm(solved, dim=1)
    floor = torch.finfo(sizes.dtype).tiny
    return solved @ run.query_gradients().T / sizes.clamp(min=floor)[:, None]
