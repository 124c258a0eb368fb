"""The answer itself: what every estimator's cost is measured against."""

from torch import Tensor

from benchmark.estimating import Trajectory, estimator, leave_one_out


@estimator("exact-loo", paper="definition of the effect", loss_units=True, all_horizons=True)
def exact_loo(run: Trajectory) -> Tensor:
    """Retrain without each sample: loss of the run without it minus loss with it. Cost: K + 1 training runs."""
    return leave_one_out(run)
