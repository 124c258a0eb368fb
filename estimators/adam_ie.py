"""Adam-influence: SGD-influence through Adam's own step."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from benchmark.estimating import SGD_IE, FrozenAdam, Trajectory, backward, effects, estimator

PAPER = "Deng et al. 2026, arXiv:2605.18814, eqs. 11a-b, with the exact Hessian"
variant = partial(estimator, loss_units=True, optimizers=("adam", "adamw"), interpretation=True)


@variant("adam-ie", paper=PAPER, frozen=False)
@variant("adam-ie-frozen", paper=PAPER + "; frozen moment ours", frozen=True)
def adam_ie(run: Trajectory, *, frozen: bool) -> Tensor:
    """``-d L_q(theta_T) / d(weight of i at each of its visits)``, times 1/|B|, through Adam's or AdamW's step. (N, Q)

    With ``D = 1/(sqrt(vh) + eps)`` and ``S = mh / (2 sqrt(vh) (sqrt(vh) + eps)^2)`` a change dg of the gradient moves
    ``dm <- b1 dm + (1-b1) dg``, ``dv <- b2 dv + 2 (1-b2) g dg`` and
    ``dtheta <- (1 - rate decay) dtheta - rate (D dm/(1-b1^k) - S dv/(1-b2^k))``, k = t + 1; all that is swept backward.
    S is 0 where no gradient ever was. With `frozen` dv counts as 0: the second moment is taken as a constant.
    The name is that of Shi et al. 2025 (arXiv:2510.26185), who give no formula; this one, with the empirical Fisher matrix in
    place of the Hessian, is known to us from the cited paper's abstract and code. Cost: that of SGD-IE.
    """
    problem = run.problem
    if frozen:
        run = replace(run, problem=replace(problem, optimizer=FrozenAdam(**vars(problem.optimizer))))
    return backward(run)


@variant("adam-ie-forward", paper=PAPER, all_horizons=True, readout="linear")
@variant("adam-ie-logit", paper=PAPER + "; readout ours", all_horizons=True, readout="logit")
@variant("adam-ie-exact", paper=PAPER + "; readout ours", all_horizons=True, readout="exact")
def adam_ie_forward(run: Trajectory, *, readout: str) -> Tensor:
    """Readout of the same derivative carried forward as a shift of each left-out sample's state. (H, K, Q)

    Linearly read it is Adam-IE again; a shift can also be read through the outputs or exactly (`readout`).
    Cost: E N gradients and E K N Hessian products, for E epochs.
    """
    return effects(run, SGD_IE, readout)
