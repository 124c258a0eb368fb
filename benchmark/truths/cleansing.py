"""Training again without the most harmful samples, or with the most helpful alone, judged on the test split.

A curve is a tensor (K, 2), of test loss and test error, as changes against training on all samples from the same start.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.core.losses import LOSSES
from benchmark.core.problem import Problem
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import AnyRuns
from benchmark.retraining.train import Progress, retrain
from benchmark.tasks.questions import Uses
from benchmark.truths.counterfactuals import initial, order

WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of a loss; (R, B, C), (B,) -> (R, B)
    "binary-cross-entropy": lambda outputs, targets: (outputs[..., 0] > 0) != (targets > 0.5),
    "cross-entropy": lambda outputs, targets: outputs.argmax(-1) != targets,
    "squared-error": lambda outputs, _: torch.full_like(outputs[..., 0], torch.nan),  # no class, no error
}


# ---- judged by training again ----------------------------------------------------------------------------------------
def judge(problem: Problem, keep: Tensor, means: Means = FREE, progress: Progress = lambda visits: None) -> Tensor:
    """Test loss and error (R, 2), at the last horizon, of R runs that keep the samples of their mask. (R, N) -> (R, 2)

    Mean test loss, without L2 term, and share of test samples misclassified, NaN for a model of real values; in float64 on the
    CPU. One logit says the second class where it is positive; of several the largest does. Raises what `retrain` does.
    """
    seen = replace(problem, query=problem.test, query_kind="each", horizons=problem.horizons[-1:])
    found = retrain(seen, keep.to(problem.initial.device), read=_loss_and_error, means=means, progress=progress)
    return found[-1].double().cpu()


def _loss_and_error(runs: AnyRuns) -> Tensor:
    outputs, targets, loss = runs.outputs_of_query(), runs.problem.query.targets, runs.problem.model.loss
    losses = LOSSES[loss](outputs, targets.expand(runs.runs, -1))
    wrong = WRONG[loss](outputs, targets).to(losses)
    return torch.stack([losses.mean(1), wrong.mean(1)], dim=1)


def starts(problem: Problem, uses: Uses, seed: int) -> list[Problem]:
    """The problem, and the problem from as many fresh initial parameters in as many fresh orders as there are draws.

    From the streams `fresh-initial/{d}` and `fresh-batches/{d}`.
    """
    epochs = -(-problem.steps // -(-len(problem.train) // problem.batches.shape[1]))

    def fresh(d: int) -> Problem:
        rows = order(problem, epochs, f"fresh-batches/{d}", seed)[: problem.steps]
        return replace(problem, initial=initial(problem, f"fresh-initial/{d}", seed), batches=rows)

    return [problem, *map(fresh, range(uses.draws))]


# ---- cleansing and coresets ------------------------------------------------------------------------------------------
def cleansed(effect: Tensor, drop: tuple[int, ...]) -> Tensor:
    """Masks without the k most harmful, those of lowest effect, for each k; ties go by sample number. (N,) -> (K, N)"""
    rank = effect.argsort(stable=True).argsort()
    return torch.stack([rank >= k for k in drop])


def coreset(effect: Tensor, keep: tuple[float, ...]) -> Tensor:
    """Masks with the ``round(part N)`` most helpful, for each part; ties go by sample number. (N,) -> (K, N)"""
    rank = (-effect).argsort(stable=True).argsort()
    return torch.stack([rank < round(part * len(effect)) for part in keep])


@dataclass(frozen=True, eq=False)
class Curves:
    """Changes of test loss and error, against training on all: cleansed (K, 2), as cleansed from fresh starts, coresets."""

    cleansed: Tensor  # (K, 2), a row for each of `drop`
    fresh: Tensor  # (K, 2), mean over the draws
    coreset: Tensor  # (C, 2), a row for each of `keep`


def curves(
    problem: Problem,
    effects: Tensor,
    uses: Uses,
    seed: int,
    base: Tensor,
    *,
    means: Means = FREE,
    progress: Progress = lambda visits: None,
) -> Curves:
    """What cleansing and coresets by E effects (E, N) do, the mean over the E; `base` (1 + D, 2) is what all samples get.

    The first of `base` is from the problem's own start, the others are from the fresh ones; there the d-th of the effects is
    used, in turn. All runs of one start are one retraining. A coreset's batches are divided by what is kept of them: it is
    what somebody would train on, who has nothing else.
    """

    def change(d: int, start: Problem, keep: Tensor) -> Tensor:
        return judge(start, keep, means, progress) - base[d]

    def own(start: Problem, keep: list[Tensor]) -> Tensor:
        return change(0, start, torch.cat(keep)).view(len(effects), -1, 2).mean(0)

    first, *fresh = starts(problem, uses, seed)
    same = own(first, [cleansed(effect, uses.drop) for effect in effects])
    core = own(replace(first, counterfactual="renormalised"), [coreset(effect, uses.keep) for effect in effects])
    anew = [change(d, start, cleansed(effects[(d - 1) % len(effects)], uses.drop)) for d, start in enumerate(fresh, 1)]
    return Curves(same, torch.stack(anew).mean(0), core)
