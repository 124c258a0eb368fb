"""LoGra: influence functions in a space to which each layer's gradient is projected from both sides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.estimating import Passed, Samples, Trajectory, Unsolved, estimator, gaussian, matrices, passes


@estimator(
    "logra", paper="Choe et al. 2024, arXiv:2405.13954, section 3", loss_units=True, tuned_on="tuning", side=16, share=1.0
)
def logra(run: Trajectory, *, side: int, share: float) -> Tensor:
    """``1/N sum_layers <(F + damping)^-1 h_q, h_i>``, ``F = 1/N sum_i h_i h_i^T``, ``h = P_out G P_in^T``, G gradients.

    (N, Q). P_out and P_in are Gaussian with `side` rows each, the identity where the layer is no wider; damping is the weight
    decay and `share` of F's mean eigenvalue (Grosse et al.'s rule, which the paper takes). G is without the L2 term, which is
    the same for all samples and shifts a column by a constant. Cost: N + Q gradients, none of which is held whole.
    """
    projected = Projected.of(run, side)
    train, query = (projected.gradients(samples) for samples in (run.problem.train, run.problem.query))
    effect = run.final.new_zeros(len(run.problem.train), run.problem.queries)
    for own, asked in zip(train, query, strict=True):  # (N, k), (Q, k)
        fisher = own.T @ own / len(own)
        fisher.diagonal().add_(run.problem.weight_decay + share * fisher.diagonal().mean())
        if fisher.diagonal().max() <= 0:
            raise Unsolved("a layer has no gradients and no damping: LoGra needs the one or the other")
        effect += own @ torch.linalg.solve(fisher, asked.T) / len(own)
    return effect


@dataclass(frozen=True, eq=False)
class Projected:
    """A run's layers, and for each the projections (outputs, k) of slopes and (inputs + 1, k') of inputs."""

    run: Trajectory
    sides: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, run: Trajectory, side: int) -> "Projected":
        """Drawn from the run's own random numbers."""
        random, theta = run.random(), run.final

        def drawn(size: int) -> Tensor:
            return torch.eye(size).to(theta) if size <= side else gaussian(random, theta, size, side)

        shapes = [layer.shape[1:] for layer in matrices(run.problem.model, theta[None])]
        return cls(run, [(drawn(outputs), drawn(inputs)) for outputs, inputs in shapes])

    def gradients(self, samples: Samples) -> list[Tensor]:
        """The h (B, k k') of each layer; of the query samples their mean, (1, k k'), if that is the query."""
        problem = self.run.problem
        found = [self._some(layers) for layers in passes(problem, self.run.final, samples, "fisher")]
        each = [torch.cat(layer) for layer in zip(*found, strict=True)]
        mean = samples is problem.query and problem.query_kind == "mean"
        return [layer.mean(0, keepdim=True) for layer in each] if mean else each

    def _some(self, layers: list[Passed]) -> list[Tensor]:
        turned = [Passed(layer.inputs @ p, layer.slopes @ q) for layer, (q, p) in zip(layers, self.sides, strict=True)]
        return [layer.gradients().flatten(1) for layer in turned]
