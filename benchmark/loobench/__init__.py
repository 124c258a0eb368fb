"""loobench: what a model of yours would be without one training sample, exactly, and how well estimators say so.

`exact_effects` and `compare` take a torch.nn.Module, data and an optimiser; `task` declares the same in a file for the command
line. docs/own.md shows them.
"""

from benchmark.api import Comparison, Effects, compare, exact_effects
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.core.optimizers import Adam, Cosine, Muon, OneCycle, Sgd, WarmUp
from benchmark.tasks.finding import task
from benchmark.tasks.own import Training
from benchmark.tasks.questions import LeaveOneOut, Subsets

__all__ = [
    "Adam",
    "Comparison",
    "Cosine",
    "Diverged",
    "Effects",
    "LeaveOneOut",
    "LoobenchError",
    "Muon",
    "OneCycle",
    "Sgd",
    "Subsets",
    "Training",
    "WarmUp",
    "compare",
    "exact_effects",
    "task",
]
