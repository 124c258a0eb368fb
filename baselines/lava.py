"""LAVA: how a sample's weight moves the transport distance from the training to the query set."""

import numpy as np
import torch
from torch import Tensor

from benchmark.estimating import Problem, Samples, Trajectory, Unsolved, calculus, estimator

PAPER = "Just et al. 2023, arXiv:2305.00054; label distances of Alvarez-Melis, Fusi 2020, arXiv:2002.02923"
TOLERANCE = 1e-7  # of the marginals of the plan


@estimator(
    "lava",
    paper=PAPER,
    models="classifier",
    library="ot",
    tuned_on="tuning",
    interpretation=True,
    regularisation=0.1,
)
def lava(run: Trajectory, *, regularisation: float) -> Tensor:
    """``-(f_i - sum_{j != i} f_j / (N - 1))``: minus the derivative of the transport cost in the weight of i. (N, Q)

    f is the train side's potential of the entropic transport from the train to the query samples, with uniform weights and
    ``C_iq = (|x_i - x_q|^2 + W(y_i, y_q)) / 2`` (p = 2), where W is the exact squared 2-Wasserstein distance between the
    inputs of class y_i in the train set and those of class y_q in the query set. A sample that makes the sets differ is
    harmful. In units of squared inputs. It looks at no model: x are the inputs as the task scales them, where the paper has
    features of a network trained before (ours). The released code's regularisation of 0.1 is here of the mean of C, so that
    the scale of the inputs does not matter (ours). The authors' code was not at hand: what it halves, and whether it takes the
    bias of the entropy off, is not known to us.

    Where each query sample is a query of its own, it is a set of one: all mass goes there, and ``f_i = C_iq`` up to a constant
    that drops out. Such a set says nothing of its class, so that W then lies between classes of the train set, and is the same
    for all samples, which drops out too, where that lacks the query's class (ours).
    Cost: no gradients; a few hundred passes over (N, Q) and an exact transport for each pair of classes.
    Raises Unsolved where the plan's marginals do not come within 1e-7.
    """
    problem = run.problem
    mean = problem.query_kind == "mean"
    costs = _costs(problem, problem.query if mean else problem.train)  # (N, Q)
    potential = _potential(costs, regularisation * float(costs.mean()))[:, None] if mean else costs
    calibrated = (potential - potential.mean(0)) * len(potential) / (len(potential) - 1)
    return -calibrated.to(run.final)


def _costs(problem: Problem, classes: Samples) -> Tensor:
    """Half the squared distances of train and query samples, the label's part between classes of train and `classes`. (N, Q)"""
    import ot

    train, query, classes = (
        Samples(at.flat().cpu().double(), at.targets.cpu()) for at in (problem.train, problem.query, classes)
    )
    costs = _squared(train.inputs, query.inputs)
    for one in set(train.targets.tolist()):
        for other in set(classes.targets.tolist()):
            between = _squared(train.inputs[train.targets == one], classes.inputs[classes.targets == other])
            distance = float(ot.emd2([], [], between.numpy(), numItermax=10**7))
            costs[torch.outer(train.targets == one, query.targets == other)] += distance
    return costs / 2


def _squared(left: Tensor, right: Tensor) -> Tensor:
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def _potential(costs: Tensor, strength: float) -> Tensor:
    """The train side's potential (N,) of the transport with costs (N, Q) plus `strength` times the plan's negative entropy."""
    import ot

    settings = {"method": "sinkhorn_log", "numItermax": 10_000, "stopThr": TOLERANCE, "warn": False}
    with np.errstate(over="ignore"):  # it takes the exponential of the potential too, which nobody reads
        _, found = ot.sinkhorn([], [], costs.numpy(), strength, log=True, **settings)
    residual = float(found["err"][-1])
    calculus.note(residual=residual, iterations=found["niter"])
    if not residual <= TOLERANCE:
        raise Unsolved(f"the transport's marginals must come within {TOLERANCE}, got {residual:.0e}: regularise more")
    return strength * torch.as_tensor(found["log_u"])
