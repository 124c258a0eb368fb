"""The floor: numbers drawn without looking."""

import torch
from torch import Tensor

from benchmark.estimating import Trajectory, estimator


@estimator("chance", paper="none")
def chance(run: Trajectory) -> Tensor:
    """Standard normal numbers from the run's own stream for estimators. Cost: none."""
    problem = run.problem
    drawn = torch.randn(len(problem.train), problem.queries, generator=run.random(), dtype=torch.float64)
    return drawn.to(run.final)
