"""Exact retraining of the last epochs only: what lies between an estimate and the truth."""

from torch import Tensor

from benchmark.estimating import Trajectory, backward, estimator, leave_one_out


@estimator("partial-retrain", paper="ours", loss_units=True, tuned_on="untuned", epochs=1, linear=False)
@estimator("partial-retrain-3", paper="ours", loss_units=True, tuned_on="untuned", epochs=3, linear=False)
@estimator("partial-retrain-linear", paper="ours", loss_units=True, tuned_on="untuned", epochs=1, linear=True)
def partial_retrain(run: Trajectory, *, epochs: int, linear: bool) -> Tensor:
    """Exact effect of leaving the sample out of the last epochs only, from the reference state before them. (K, Q)

    Its earlier visits are ignored, or with `linear` their effects are added as SGD-IE has them, by the derivative of the whole
    run. An epoch is ceil(N/B) steps. Cost: that of so many epochs of exact retraining and, with `linear`, of SGD-IE.
    """
    run = run.until(run.problem.steps)  # with one horizon, the end
    problem = run.problem
    each = -(-len(problem.train) // problem.batches.shape[1])
    since = max(0, problem.steps - epochs * each)
    late = leave_one_out(run, since=since)[0]
    return late + backward(run, before=since)[problem.left_out] if linear and since else late
