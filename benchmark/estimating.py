"""All that an estimator may import of loobench: the run it is given, derivatives, solvers, retraining.

In: nothing but what a `Trajectory` has. Out: the parts that an estimator's function is put together from. A file that imports
anything else of the harness is refused when it is loaded (core/registry.py). docs/estimating.md shows each name with its
definition, and worked examples.
"""

from benchmark.base.errors import Diverged, Unsolved, Withheld
from benchmark.core import calculus
from benchmark.core.blocks import blocks
from benchmark.core.declaration import estimator
from benchmark.core.kronecker import Passed, curvature_roots, matrices, passes
from benchmark.core.losses import LOSS_CURVATURES, LOSS_SLOPES, LOSSES
from benchmark.core.models import Model, Network, mlp
from benchmark.core.modules import module
from benchmark.core.optimizers import Adam, Cosine, FrozenAdam, Muon, OneCycle, Optimizer, Sgd, WarmUp
from benchmark.core.problem import Problem, Samples, in_precision, map_tensors
from benchmark.core.projections import gaussian, projection
from benchmark.core.solvers import PRODUCTS, Product, System, lanczos, refuse_singular, solve, through
from benchmark.core.sweep import backward
from benchmark.core.tangents import split, tangents
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.readout import reader, readout
from benchmark.retraining.shifts import ACC, SGD_IE, Rule, effects
from benchmark.retraining.train import leave_one_out, retrain, train

__all__ = [
    "ACC",
    "LOSSES",
    "LOSS_CURVATURES",
    "LOSS_SLOPES",
    "PRODUCTS",
    "SGD_IE",
    "Adam",
    "Cosine",
    "Diverged",
    "FrozenAdam",
    "Model",
    "Muon",
    "Network",
    "OneCycle",
    "Optimizer",
    "Passed",
    "Problem",
    "Product",
    "Rule",
    "Samples",
    "Sgd",
    "System",
    "Trajectory",
    "Unsolved",
    "WarmUp",
    "Withheld",
    "backward",
    "blocks",
    "calculus",
    "curvature_roots",
    "effects",
    "estimator",
    "gaussian",
    "in_precision",
    "lanczos",
    "leave_one_out",
    "map_tensors",
    "matrices",
    "mlp",
    "module",
    "passes",
    "projection",
    "reader",
    "readout",
    "refuse_singular",
    "retrain",
    "solve",
    "split",
    "tangents",
    "through",
    "train",
]
