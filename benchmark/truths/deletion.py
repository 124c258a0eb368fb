"""Groups of samples to be deleted, random and clustered, and what deleting them does to the mean query loss."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmark.base.streams import stream
from benchmark.core.problem import Problem, Samples
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import query_losses
from benchmark.retraining.train import Progress, retrain
from benchmark.tasks.questions import Uses

KINDS = ("random", "clustered")  # of groups to be deleted


def groups(train: Samples, uses: Uses, seed: int) -> tuple[Tensor, tuple[str, ...]]:
    """Groups (M, N) bool and the kind of each: for each size as many random as clustered, from the stream `deletion`."""
    draw, samples = stream("deletion", seed), len(train)
    each, found = min(uses.groups, samples), []
    for size in uses.delete:
        found += [torch.from_numpy(draw.permutation(samples) < size) for _ in range(each)]
        found += [nearest(train.inputs, int(centre), size) for centre in draw.permutation(samples)[:each]]
    kinds = tuple(kind for _ in uses.delete for kind in KINDS for _ in range(each))
    return torch.stack(found), kinds


def nearest(inputs: Tensor, centre: int, size: int) -> Tensor:
    """A sample and its ``size - 1`` nearest in Euclidean distance; ties go by sample number. (N, d) -> (N,) bool"""
    rows = inputs.flatten(1)
    distance = torch.cdist(rows[[centre]], rows, compute_mode="donot_use_mm_for_euclid_dist")[0].cpu()
    distance[centre] = -1  # before others with equal inputs
    return distance.argsort(stable=True).argsort() < size


def deleted(problem: Problem, removed: Tensor, means: Means = FREE, *, progress: Progress = lambda visits: None) -> Tensor:
    """True effects of deleting groups: mean query loss without the group minus that with all. (M, N) bool -> (M,)

    At the last horizon; the run with all samples is trained along.
    """
    asked = replace(problem, query_kind="mean", horizons=problem.horizons[-1:])
    keep = torch.cat([~removed, torch.ones_like(removed[:1])]).to(problem.initial.device)
    losses = retrain(asked, keep, read=query_losses, means=means, progress=progress)[-1, :, 0].double().cpu()
    return losses[:-1] - losses[-1]
