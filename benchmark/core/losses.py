"""Losses of outputs, with their derivatives in them; and what else may be asked of a query's outputs."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from benchmark.base.errors import LoobenchError, Unsolved, unknown
from benchmark.core.code import Code, code_of

OfOutputs = Callable[[Tensor, Tensor], Tensor]  # outputs (B, ...), targets (B, ...) -> (B,)
Loss = Any  # one of ours by its name, or a function of outputs and targets
Kind = TypeVar("Kind")
REAL = ("mean-squared-error", "squared-error")  # of values, which are no classes
REAL_TARGETS = ("binary-cross-entropy", *REAL)  # whose targets are real numbers, also where they are written as whole ones
OF_MANY = ("mean-squared-error", "token-cross-entropy")  # of a sample with several targets
NO_TOKEN = -100  # the target of a token that does not count


class ByLoss(dict[Any, Kind]):
    """What belongs to each loss of ours, by its name; for a function it is derived from that."""

    def __init__(self, known: Mapping[str, Kind], derive: Callable[[OfOutputs], Kind]) -> None:
        super().__init__(known)
        self.derive = derive

    def __missing__(self, loss: Any) -> Kind:
        if not callable(loss):
            raise unknown("loss", str(loss), self)
        return self.derive(loss)


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``log(1 + exp(f)) - y f`` of one logit f per sample. (B, 1), (B,) -> (B,)"""
    logits = outputs.squeeze(-1)
    return torch.logaddexp(logits.new_zeros(()), logits) - targets * logits


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``log sum_c exp(f_c) - f_y``. (B, C), (B,) -> (B,)"""
    chosen = outputs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(outputs, -1) - chosen


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """``(f - y)^2 / 2`` of one output f per sample. (B, 1), (B,) -> (B,)"""
    return (outputs.squeeze(-1) - targets) ** 2 / 2


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of ``(f - y)^2`` over a sample's outputs, as torch has it. (B, ...), (B, ...) -> (B,)"""
    return ((outputs.flatten(1) - targets.flatten(1)) ** 2).mean(1)


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean `cross_entropy` over a sample's tokens, without those whose target is -100. (B, L, C), (B, L) -> (B,)"""
    return _mean_token(cross_entropy(outputs, targets.clamp(min=0)), targets)


def _times(factors: Tensor, moved: Tensor) -> Tensor:
    return factors[:, None] * moved


def _covariance(chances: Tensor, moved: Tensor) -> Tensor:
    """``(diag p - p p^T) moved``"""
    weighted = chances * moved
    return weighted - chances * weighted.sum(-1, keepdim=True)


def _slope(loss: OfOutputs) -> OfOutputs:
    return torch.func.grad(lambda outputs, targets: loss(outputs, targets).sum())


def _no_root(loss: Loss) -> Callable[[Tensor], Tensor]:
    def refuse(_outputs: Tensor) -> Tensor:
        raise Unsolved(f"the loss {name_of(loss)} has no root of its curvature written out: use the matrix fisher")

    return refuse


LOSSES = ByLoss[OfOutputs](  # of each sample: outputs (B, C), targets (B,) -> (B,); of tokens (B, L, C), (B, L) -> (B,)
    {
        "binary-cross-entropy": binary_cross_entropy,
        "cross-entropy": cross_entropy,
        "mean-squared-error": mean_squared_error,
        "squared-error": squared_error,
        "token-cross-entropy": token_cross_entropy,
    },
    lambda loss: loss,
)

LOSS_SLOPES = ByLoss[OfOutputs](  # of the loss in the outputs; (R, B, C), (B,)
    {
        "binary-cross-entropy": lambda outputs, targets: outputs.sigmoid() - targets[:, None],
        "cross-entropy": lambda outputs, targets: outputs.softmax(-1) - one_hot(targets, outputs.shape[-1]),
        "mean-squared-error": _slope(mean_squared_error),
        "squared-error": lambda outputs, targets: outputs - targets[:, None],
        "token-cross-entropy": _slope(token_cross_entropy),
    },
    _slope,
)

LOSS_CURVATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the loss twice in the outputs; (B, C), (B, R, C)
    "binary-cross-entropy": lambda outputs, moved: _times(outputs.sigmoid() * outputs.neg().sigmoid(), moved),
    "cross-entropy": lambda outputs, moved: _covariance(outputs.softmax(-1)[:, None], moved),
    "squared-error": lambda outputs, moved: moved,
}

LOSS_ROOTS = ByLoss[Callable[[Tensor], Tensor]](  # R (B, C, D) with R R^T the loss's second derivative in outputs (B, C)
    {
        "binary-cross-entropy": lambda outputs: (outputs.sigmoid() * outputs.neg().sigmoid()).sqrt()[..., None],
        "cross-entropy": lambda outputs: _label_root(outputs.softmax(-1)),
        "mean-squared-error": _no_root("mean-squared-error"),
        "squared-error": lambda outputs: torch.ones_like(outputs)[..., None],
        "token-cross-entropy": _no_root("token-cross-entropy"),
    },
    _no_root,
)


def _label_root(chances: Tensor) -> Tensor:
    """``sqrt(p_y) (p - e_y)`` in column y: the slopes that each label would have, by its chance."""
    labels = one_hot(torch.arange(chances.shape[-1], device=chances.device)).to(chances)
    return (chances[..., None] - labels) * chances.sqrt()[:, None]


def curvature(loss: Loss, outputs: Tensor, targets: Tensor, moved: Tensor) -> Tensor:
    """The loss's second derivative in the outputs, applied to how they move. (B, ...) -> (B, ...)"""
    if loss in LOSS_CURVATURES and isinstance(loss, str):
        return LOSS_CURVATURES[loss](outputs, moved[:, None])[:, 0]
    slope = LOSS_SLOPES[loss]
    pushed: Tensor = torch.func.jvp(lambda values: slope(values, targets), (outputs,), (moved,))[1]
    return pushed


# ---- what is asked of a query ----------------------------------------------------------------------------------------
def logit(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the right class, f_y; of one output, f where y is 1 and -f where it is 0. Over tokens their mean."""
    if outputs.shape[-1] == 1:
        return (2 * targets - 1) * outputs.squeeze(-1)
    return _mean_token(outputs.gather(-1, targets.long().clamp(min=0).unsqueeze(-1)).squeeze(-1), targets)


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """``f_y - log sum_{c != y} exp(f_c)``, the logarithm of ``p / (1 - p)``; of one output as `logit`.

    Park et al. 2023, arXiv:2303.14186, section 2. Over tokens their mean.
    """
    if outputs.shape[-1] == 1:
        return logit(outputs, targets)
    right = one_hot(targets.long().clamp(min=0), outputs.shape[-1]).bool()
    others = outputs.masked_fill(right, -torch.inf).logsumexp(-1)
    return _mean_token(outputs.masked_fill(~right, 0).sum(-1) - others, targets)


def _mean_token(each: Tensor, targets: Tensor) -> Tensor:
    """Of tokens (B, L) the mean over those that count; of samples (B,) themselves."""
    if targets.ndim == 1:
        return each
    counted = targets != NO_TOKEN
    return (each * counted).sum(-1) / counted.sum(-1).clamp(min=1)


QUERIES: dict[str, OfOutputs] = {"logit": logit, "margin": margin}


def asked(loss: Loss, query: Loss) -> OfOutputs:
    """What is read off a query's outputs: the training loss for "loss", "logit", "margin", or a function of one's own.

    Raises LoobenchError for another name, and for classes asked of real values.
    """
    if query == "loss" or callable(query):
        return LOSSES[loss if query == "loss" else query]
    if query not in QUERIES:
        raise unknown("query function", query, ("loss", *QUERIES))
    if loss in REAL:
        raise LoobenchError(f"the query function {query} is of classes, the loss is {loss}: ask for the loss")
    return QUERIES[query]


@dataclass(frozen=True, eq=False)
class Own:
    """A loss or query function of a person's own; of a loss module of torch.nn the mean over what is within a sample."""

    function: Callable[[Tensor, Tensor], Tensor]
    code: Code | None = None

    @property
    def __name__(self) -> str:
        return str(getattr(self.function, "__name__", self.function))

    def __repr__(self) -> str:
        """What decides its numbers, for the digest of a problem."""
        return f"{self.__name__} {self.code.digest if self.code else ''}"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = self.function(outputs, targets)
        within = found.ndim > 1 and isinstance(self.function, torch.nn.Module)
        return found.flatten(1).mean(1) if within else found


def meant(loss: Any) -> Loss:
    """The name of one of ours where a person gave that, or torch's name for it; else a function of their own.

    Raises LoobenchError for another name.
    """
    if isinstance(loss, type) and issubclass(loss, torch.nn.Module):
        loss = loss()
    if isinstance(loss, torch.nn.CrossEntropyLoss) and loss.weight is None and not loss.label_smoothing:
        return "cross-entropy"
    if isinstance(loss, torch.nn.BCEWithLogitsLoss) and loss.weight is None and loss.pos_weight is None:
        return "binary-cross-entropy"
    if isinstance(loss, torch.nn.Module):
        each = copy.deepcopy(loss)
        each.reduction = "none"  # type: ignore[assignment]
        return Own(each)
    if loss in TORCHS or isinstance(loss, Own):
        return TORCHS.get(loss, loss)
    if callable(loss):
        return Own(loss, code_of(loss))
    if loss not in (*LOSSES, *QUERIES, "loss"):
        raise unknown("loss", str(loss), LOSSES)
    return loss


TORCHS: dict[Any, str] = {
    functional.cross_entropy: "cross-entropy",
    functional.binary_cross_entropy_with_logits: "binary-cross-entropy",
}


def name_of(loss: Loss) -> str:
    """How a loss or query function is called in messages."""
    return loss if isinstance(loss, str) else str(getattr(loss, "__name__", type(loss).__name__))
