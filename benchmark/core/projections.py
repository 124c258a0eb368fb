"""Random projections of parameter space."""

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.core.trajectory import Trajectory


def gaussian(random: torch.Generator, like: Tensor, size: int, dimension: int) -> Tensor:
    """``R/sqrt(k)`` (size, k), R standard normal, drawn in float64 a few rows at a time, in the precision of `like`."""
    matrix = like.new_empty(size, dimension)
    for rows in torch.split(matrix, 4096):
        rows.copy_(torch.randn(rows.shape, generator=random, dtype=torch.float64) / dimension**0.5)
    return matrix


def projection(run: Trajectory, dimension: int) -> Tensor:
    """The run's own random projection (P, k) of gradients to k = `dimension` numbers; the identity where k is P.

    Inner products keep their expectation. Raises LoobenchError for more dimensions than parameters.
    """
    parameters = len(run.final)
    if not 0 < dimension <= parameters:
        raise LoobenchError(f"a projection takes 1 to {parameters} dimensions, as many as parameters at most, got {dimension}")
    if dimension == parameters:
        return torch.eye(parameters).to(run.final)
    return gaussian(run.random(), run.final, parameters, dimension)
