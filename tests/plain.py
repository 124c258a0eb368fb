"""The loop that a person would write: a module of torch.nn, optimiser and scheduler of torch.optim, clipping included."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.core.optimizers import Adam, Cosine, OneCycle, Optimizer, Schedule, WarmUp
from benchmark.core.problem import Problem

Scheduler = torch.optim.lr_scheduler.LRScheduler


def scheduled(schedule: Schedule, optimizer: torch.optim.Optimizer) -> Scheduler:
    """Torch's own scheduler of a schedule."""
    of = torch.optim.lr_scheduler
    match schedule:
        case WarmUp(steps):
            return of.LinearLR(optimizer, 1 / steps, 1.0, max(1, steps - 1))
        case Cosine(total, 0):
            return of.CosineAnnealingLR(optimizer, total)
        case Cosine(total, warmup):
            first = of.LinearLR(optimizer, 1 / warmup, 1.0, max(1, warmup - 1))
            return of.SequentialLR(optimizer, [first, of.CosineAnnealingLR(optimizer, total - warmup)], [warmup])
        case OneCycle(total):
            peak = optimizer.param_groups[0]["lr"]
            return of.OneCycleLR(optimizer, peak, total_steps=total, pct_start=0.3, cycle_momentum=False)
        case "inverse-sqrt":
            return of.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    return of.ConstantLR(optimizer, 1.0)


def twin(o: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Torch's own optimiser."""
    if not isinstance(o, Adam):
        return torch.optim.SGD(parameters, lr=o.lr, momentum=o.momentum)
    settings = {"lr": o.lr, "betas": (o.beta1, o.beta2), "eps": o.eps}
    return (
        torch.optim.AdamW(parameters, weight_decay=o.decay, **settings) if o.decay else torch.optim.Adam(parameters, **settings)
    )


def loop(given: Problem, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], keep: Tensor) -> Tensor:
    """Final parameters (P,) of one run from those of `net`, with so much of each sample as `keep` (N,) says."""
    net = copy.deepcopy(net).double()
    parameters = [part for part in net.parameters() if part.requires_grad]
    optimizer = twin(given.optimizer, parameters)
    scheduler = scheduled(given.optimizer.schedule, optimizer)
    for row in given.batches:
        batch = row[row >= 0]
        weights = keep[batch].double() / len(batch)
        optimizer.zero_grad()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            total = weights @ loss(net(given.train.inputs[batch]), given.train.targets[batch])
        total = total + weights.sum() * given.weight_decay / 2 * sum((part**2).sum() for part in parameters)
        torch.autograd.backward(total)
        if given.clip:
            nn.utils.clip_grad_norm_(parameters, given.clip)
        optimizer.step()
        scheduler.step() if scheduler.last_epoch + 1 < len(given.batches) else None  # OneCycleLR counts them
    return nn.utils.parameters_to_vector(parameters).detach()


def masks(samples: int, runs: int, seed: int = 0) -> Tensor:
    """Masks (R, N): one sample out, half of them out, then parts of each, some below 0 and above 1."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.ones(runs, samples, dtype=torch.float64)
    found[0, 1] = 0
    for run in range(1, runs):
        found[run] = (torch.rand(samples, generator=draw, dtype=torch.float64) > 0.5).double()
    found[2:] += torch.randn(found[2:].shape, generator=draw, dtype=torch.float64)
    return found
