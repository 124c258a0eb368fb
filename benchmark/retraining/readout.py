"""What a shift of the final parameters does to the query losses: to first order, through the outputs, or exactly."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.base.errors import unknown
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem
from benchmark.core.tangents import split, tangents
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import engine
from benchmark.retraining.generic import blocks, query_block

Reader = Callable[[Tensor], Tensor]  # shifts (R, P) of the final parameters -> effects (R, Q)
ROWS = 64  # shifts read at once


def readout(run: Trajectory, shift: Tensor, kind: str) -> Tensor:
    """Effects of shifts of the final parameters on the query losses, by one of three readouts. (R, P) -> (R, Q)

    "linear" ``<grad L_q(theta_T), d>``; "logit" ``L_q(f_q + J_q d) - L_q(f_q)``, linear in the parameters up to the network's
    outputs f_q and exact after; "exact" ``L_q(theta_T + d) - L_q(theta_T)``. Raises LoobenchError for another kind.
    """
    read = reader(run, kind)
    return torch.cat([read(some) for some in torch.split(shift, ROWS)])


def reader(run: Trajectory, kind: str) -> Reader:
    """The readout of one kind, with what all shifts share computed once; cost: Q gradients if linear."""
    if kind not in READERS:
        raise unknown("readout", kind, READERS)
    return READERS[kind](run.problem, run.final.clone())  # a view would carry the states of the run


def _linear(problem: Problem, final: Tensor) -> Reader:
    gradients = problem.query_gradients(final)
    return lambda shift: shift @ gradients.T


def _logit(problem: Problem, final: Tensor) -> Reader:
    parts = [problem.query[some] for some in blocks(len(problem.query), query_block(problem))]
    at = [tangents(problem.model, final, some.inputs, some.targets, 0.0) for some in parts]
    outputs = [problem.model.outputs(final, some.inputs) for some in parts]

    def losses(shift: Tensor) -> Tensor:
        moved = split(problem.model, shift)
        found = [
            engine.over_runs(problem, before + at.outputs(moved), some.targets)
            for before, at, some in zip(outputs, at, parts, strict=True)
        ]
        each = torch.cat(found, dim=1)
        return each.mean(1, keepdim=True) if problem.query_kind == "mean" else each

    return _against_none(losses)


def _exact(problem: Problem, final: Tensor) -> Reader:
    return _against_none(lambda shift: losses_at(problem, final + shift))


def _against_none(losses: Reader) -> Reader:
    """Losses less those without a shift, computed along with them, so that rounding common to all cancels."""

    def read(shift: Tensor) -> Tensor:
        found = losses(torch.cat([shift, torch.zeros_like(shift[:1])]))
        return found[:-1] - found[-1:]

    return read


def losses_at(problem: Problem, thetas: Tensor) -> Tensor:
    """Query losses at many parameter vectors, at the engine's speed. (R, P) -> (R, Q)"""
    still = replace(problem, optimizer=Sgd(0.0))  # whose state is the parameters alone
    return engine.runs(still, thetas[:, None], len(thetas)).query_losses()


READERS: dict[str, Callable[[Problem, Tensor], Reader]] = {"linear": _linear, "logit": _logit, "exact": _exact}
