"""Samples, and a problem: all that fixes a training run, with its training step and the derivatives of its losses."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import Unsolved
from benchmark.base.files import digest, tensor_digest
from benchmark.core import calculus
from benchmark.core.losses import Loss, asked
from benchmark.core.models import Model
from benchmark.core.optimizers import Optimizer
from benchmark.core.tangents import Tangents, join, split, tangents

LATER = {"query_function": "loss", "clip": None}  # fields that came after protocol 1.1, as it was before
SAMPLES = 256  # samples whose tangents are held at once: bounds memory


@dataclass(frozen=True, eq=False)
class Record:
    """A record with tensors in its fields, or in those of records there: what `map_tensors` goes through."""


@dataclass(frozen=True, eq=False)
class Samples(Record):
    """Some samples, one in each row. ``samples[rows]`` are those of some rows, and ``len(samples)`` is how many there are."""

    inputs: Tensor  # (N, d) features, scaled, an image as a row of pixels; of a torch.nn.Module (N, ...), what it takes
    targets: Tensor  # (N,) classes: 0.0 or 1.0 where the model has one output, int64 from 0 on where more; or real values

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Any) -> "Samples":
        return Samples(self.inputs[rows], self.targets[rows])

    def flat(self) -> Tensor:
        """Inputs as rows of numbers (N, d). Raises Unsolved for tokens, whose differences mean nothing."""
        if not self.inputs.is_floating_point():
            raise Unsolved(f"inputs must be numbers that have distances, got tokens, of type {self.inputs.dtype}")
        return self.inputs.flatten(1)

    def by_content(self) -> Tensor:
        """Numbers (N,) of the samples in the order of their digests, so that what is drawn in it does not depend on theirs."""
        digests = [tensor_digest([row, target]) for row, target in zip(self.inputs, self.targets, strict=True)]
        return torch.tensor(sorted(range(len(digests)), key=digests.__getitem__), device=self.inputs.device)


@dataclass(frozen=True, eq=False)
class Problem(Record):
    """Everything that fixes a training run, and its training step ``Phi_t(s, w)``.

    ``Phi_t(s, w) = step(s, grad_theta sum_b w_b (loss_b(theta) + weight_decay/2 |theta|^2), t)`` over the batch of step t.
    The reference run has ``w_b = 1/|B_t|``; a run without sample i has weight 0 for it and still 1/|B_t| for the others.
    """

    model: Model  # layers and a loss, or a torch.nn.Module: a function of the parameters theta (P,)
    optimizer: Optimizer  # `.name` is "sgd", "momentum", "adam", "adamw" or "muon"; `.rate(t)` the rate of step t
    train: Samples  # the N training samples
    query: Samples  # the samples of the queries: Q of them for "each", all of the one query for "mean"
    test: Samples  # for judging cleansed models only; empty where an estimator is to be judged by them
    initial: Tensor  # (P,) parameters before the first step; the final ones where the final model alone is shown
    batches: Tensor  # (T, B) sample numbers; -1 pads a short batch
    left_out: Tensor  # (K,) numbers of the samples whose effects are asked, rising; all N, or some of a large N
    horizons: tuple[int, ...]  # H numbers of steps after which effects are read off, rising, the last at most T
    weight_decay: float = 0.0  # of the L2 term ``weight_decay/2 |theta|^2`` in each sample's training loss
    query_kind: str = "mean"  # "mean": one query, the mean loss; "each": one query per sample
    counterfactual: str = "zero-weight"  # a batch without i keeps its 1/|B|; "renormalised": divided by what is left
    query_function: Loss = "loss"  # what is read off a query: its loss, "logit", "margin", or a function of outputs and targets
    clip: float | None = None  # a gradient of a larger norm is scaled down to this one before each step

    @property
    def steps(self) -> int:
        """T, the number of training steps."""
        return len(self.batches)

    @property
    def queries(self) -> int:
        """Q, the columns of an answer: 1 where the query is the mean loss, else one for each query sample."""
        return 1 if self.query_kind == "mean" else len(self.query)

    def until(self, steps: int) -> "Problem":
        """The problem of the first `steps` steps alone, after which its one horizon is."""
        return replace(self, batches=beginning(self.batches, steps), horizons=(steps,))

    def start(self) -> Tensor:
        """The state (S, P) before the first step: initial parameters, moments 0."""
        state = self.initial.new_zeros(self.optimizer.rows, self.model.parameters)
        state[0] = self.initial
        return state

    def batch(self, t: int) -> Tensor:
        """The |B_t| sample numbers of step t."""
        row = self.batches[t]
        return row[row >= 0]

    def weights(self, t: int) -> Tensor:
        """The weights (|B_t|,) of the reference run at step t: 1/|B_t| each."""
        size = len(self.batch(t))
        return self.initial.new_full((size,), 1 / size)

    def shares(self, keep: Tensor) -> Tensor:
        """Weights (R, B) of the samples of a batch in R runs that keep so much of each, under the counterfactual. (R, B)

        ``keep_b / |B|``, or, `renormalised`, ``keep_b / sum_b keep_b``, and 0 where nothing is kept.
        """
        if self.counterfactual == "zero-weight":
            return keep * (1 / keep.shape[1])
        total = keep.sum(1, keepdim=True)
        return keep * torch.where(total > 0, 1 / total, 0)

    # ---- losses and their derivatives ----------------------------------------------------------------------------
    def losses(self, theta: Tensor, samples: Samples) -> Tensor:
        """Training losses with L2 term, ``loss_b(theta) + weight_decay/2 |theta|^2``. (P,) -> (B,)"""
        return self.model.losses(theta, samples.inputs, samples.targets) + self.weight_decay / 2 * (theta @ theta)

    def gradients(self, theta: Tensor, samples: Samples) -> Tensor:
        """Gradient of each sample's training loss, L2 term included. (P,) for all, or (B, P) one for each -> (B, P)"""
        calculus.count(gradients=len(samples))

        def loss(theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return self.losses(theta, Samples(inputs[None], targets[None]))[0]

        each = calculus.many(calculus.gradient(loss), over=(None if theta.ndim == 1 else 0, 0, 0))
        gradients: Tensor = each(theta, samples.inputs, samples.targets)
        return gradients

    def hessian(self, theta: Tensor) -> Tensor:
        """Hessian of the mean training loss, L2 term included. (P,) -> (P, P)"""
        calculus.count(gradients=len(self.train), hessian_products=len(self.train) * len(theta))
        mean = calculus.gradient(lambda theta: self.losses(theta, self.train).mean())
        return calculus.pull(mean, (theta,), torch.eye(len(theta), dtype=theta.dtype, device=theta.device))[0]

    def hessian_products(self, theta: Tensor, samples: Samples, vectors: Tensor) -> Tensor:
        """``H v_k`` with the Hessian H of the mean training loss of some samples, L2 term included. (P,), (K, P) -> (K, P)"""
        return self._mean_products(theta, samples, vectors, bent=True)

    def gauss_newton_products(self, theta: Tensor, samples: Samples, vectors: Tensor) -> Tensor:
        """``G v_k``, ``G = mean_b J_b^T l''_b J_b + weight_decay I``: the Hessian but for the curvature of the outputs.

        J_b (C, P) is the derivative of the outputs, l''_b (C, C) that of the loss twice in them. (P,), (K, P) -> (K, P)
        """
        return self._mean_products(theta, samples, vectors, bent=False)

    def _mean_products(self, theta: Tensor, samples: Samples, vectors: Tensor, *, bent: bool) -> Tensor:
        calculus.count(gradients=len(samples), hessian_products=len(samples) * len(vectors))
        found = torch.zeros_like(vectors)
        for rows in torch.split(torch.arange(len(samples)), SAMPLES):
            mean = theta.new_full((1, len(rows)), 1 / len(samples))
            found += _products(self.model, self._tangents(theta, samples[rows]), vectors, mean, bent=bent)
        return found

    def _tangents(self, theta: Tensor, samples: Samples) -> Tangents:
        return tangents(self.model, theta, samples.inputs, samples.targets, self.weight_decay)

    def asked(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """What is read off some samples as queries, by default their losses without L2 term. (P,) -> (B,)"""
        found: Tensor = asked(self.model.loss, self.query_function)(self.model.outputs(theta, inputs), targets)
        return found

    def query_losses(self, theta: Tensor) -> Tensor:
        """Query losses, without L2 term, or what else is asked of the queries. (P,) -> (Q,)"""
        losses = self.asked(theta, self.query.inputs, self.query.targets)
        return losses.mean(0, keepdim=True) if self.query_kind == "mean" else losses

    def query_gradients(self, theta: Tensor) -> Tensor:
        """Gradients of the query losses. (P,) -> (Q, P)"""
        calculus.count(gradients=len(self.query))
        ones = torch.eye(self.queries, dtype=theta.dtype, device=theta.device)
        return calculus.pull(self.query_losses, (theta,), ones)[0]

    # ---- the training step, and its derivative ------------------------------------------------------------------------
    def step(self, t: int, state: Tensor, weights: Tensor) -> Tensor:
        """``Phi_t(state, weights)``. (S, P), (|B_t|,) -> (S, P). Cost: |B_t| gradients."""
        calculus.count(gradients=len(weights))
        return self.stepped(t, state, weights)

    def stepped(self, t: int, state: Tensor, weights: Tensor) -> Tensor:
        """`step`, of a run whose steps were counted before."""
        batch = self.train[self.batch(t)]
        gradient = calculus.gradient(lambda theta: weights @ self.losses(theta, batch))(state[0])
        return self.moved(state, gradient, t)

    def moved(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        """The optimiser's step with the gradient (P,), clipped where the problem says so."""
        if self.clip:
            gradient = gradient.mul(clipping(gradient, self.clip))
        return self.optimizer.step(state, gradient, t)

    def pull(
        self, t: int, state: Tensor, weights: Tensor, cotangents: Tensor, *, curvature: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of the state after step t, pulled back to the state and weights before it.

        (S, P), (|B_t|,), (K, S, P) -> (K, S, P), (K, |B_t|). First through the optimiser, then through the
        gradient; without `curvature` the gradient counts as constant in the parameters, and the Hessian is left out.
        """
        calculus.count(gradients=len(weights), hessian_products=len(weights) * len(cotangents) if curvature else 0)
        at = self._tangents(state[0], self.train[self.batch(t)])
        gradient = join(at.gradient(weights[None]))[0]
        before, along = calculus.pull(lambda state, gradient: self.moved(state, gradient, t), (state, gradient), cotangents)
        slopes = torch.cat([at.slopes(split(self.model, some)) for some in torch.split(along, calculus.CHUNK)])
        if curvature:
            before[:, 0] += _products(self.model, at, along, weights[None])
        return before, slopes

    def digest(self) -> str:
        """Content digest of every field."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain = {name: value for name, value in plain.items() if not isinstance(value, Tensor | Samples)}
        plain = {name: value for name, value in plain.items() if LATER.get(name, ()) != value}  # so that older digests hold
        return digest(tensor_digest(tensors(self)).encode(), repr(plain).encode())


def clipping(gradients: Tensor, most: float) -> Tensor:
    """What scales gradients (..., P) of a norm above `most` down to it, ``min(1, most / (|g| + 1e-6))``. (..., 1)

    As torch.nn.utils.clip_grad_norm_ does.
    """
    norms: Tensor = gradients.norm(dim=-1, keepdim=True)
    return (most / (norms + 1e-6)).clamp(max=1)


def _products(model: Model, at: Tangents, vectors: Tensor, weights: Tensor, *, bent: bool = True) -> Tensor:
    """``sum_b w_b H_b v_k``. (K, P), (1, B) -> (K, P)"""

    def some(vectors: Tensor) -> Tensor:
        shift = split(model, vectors)
        found = [torch.zeros_like(part) for part in shift]
        at.add(found, shift, weights, None, 1.0, bent=bent)
        return join(found)

    return torch.cat([some(part) for part in torch.split(vectors, calculus.CHUNK)])


def beginning(values: Any, count: int) -> Any:
    """The first `count` rows of a tensor, or steps of a run's states, in memory of their own: a view would carry the others."""
    first = values[:count]
    return first.clone() if isinstance(first, Tensor) and len(first) < len(values) else first


def map_tensors(value: Any, change: Any) -> Any:
    """A copy of a record of ours, nested ones included, with `change` applied to each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if not isinstance(value, Record):
        return value
    return replace(value, **{part.name: map_tensors(getattr(value, part.name), change) for part in fields(value)})


def in_precision(problem: Problem, dtype: torch.dtype) -> Problem:
    """The problem with its real numbers in another precision."""
    changed: Problem = map_tensors(problem, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return changed


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a record of ours, nested ones included, in the order of the fields."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found
