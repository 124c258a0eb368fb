"""Methods of the library dattri 0.3.0, called as it is published.

Scale: its scores are plain products ``u^T M^-1 g``, positive where the sample helped, without 1/N; ours are over N.
Damping: its `regularization` is added to the matrix, as ours is. A sample's L2 term comes with it as a third item of the data,
0 for queries, so that gradients and Hessian are ours. Loaders hold all training samples in one batch, for the library adds up
the inverses of the batches' matrices. A mean query is one item of all query samples, whose mean loss is attributed.

What it gets wrong is still called as it is: its EK-FAC turns gradients by Q for Q^T, off the axes of the eigenvectors, and
misplaces weights beside a bias where a layer has several outputs. DVEmb takes the queries' loss for the training loss, which
the third item of the data makes right.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmark.estimating import LOSSES, Diverged, Problem, Trajectory, estimator, in_precision, map_tensors, module

QUERIES = 16  # queries held at once, each with all samples in the library: bounds memory
POWERS = 30  # steps towards the largest eigenvalue
Parameters = dict[str, Tensor]
Data = tuple[Tensor, Tensor, Tensor]  # inputs (..., d), targets (...), weight of the L2 term
Loss = Callable[[Trajectory, nn.Module, Parameters, Data], Tensor]
variant = partial(estimator, library="dattri")
influence_function = partial(variant, loss_units=True, tuned_on="tuning")


@influence_function("dattri/if-explicit", paper="Koh and Liang 2017, arXiv:1703.04730, eq. 2", max_parameters=2000, damping=0.1)
def if_explicit(run: Trajectory, *, damping: float) -> Tensor:
    """``<u_q, (H + damping I)^-1 g_i> / N``, H the Hessian of the mean training loss, L2 term included. (K, Q)

    All queries are in one batch: the library forms H anew for each. Its default damping is 0. Cost: N P Hessian products, P^3.
    """
    return inverted(run, partial(solver("IFAttributorExplicit"), regularization=damping), size=run.problem.queries)


@influence_function(
    "dattri/if-cg",
    paper="Koh and Liang 2017, arXiv:1703.04730; Martens 2010",
    max_parameters=20000,
    damping=0.03,
    iterations=40,
)
def if_cg(run: Trajectory, *, damping: float, iterations: int) -> Tensor:
    """As `dattri/if-explicit`, by so many iterations of conjugate gradients from ``x = u_q``, at most 2 P. (K, Q)

    Ours: the Gauss-Newton matrix G for H, which is never indefinite, as H is off a minimum; double precision; and 40 iterations
    for its default of 10, which leave answers to rounding, 1e-4 apart for another order of samples. The library does not look
    at its tolerance: it never stops early, and a residual that shrinks to 0 becomes NaN. Cost: N Q (iterations + 1) products.
    """
    double = alone(run, in_precision(run.problem, torch.float64))
    settings = {"regularization": damping, "max_iter": min(iterations, 2 * len(run.final))}
    return inverted(double, partial(solver("IFAttributorCG"), **settings), bent_loss).to(run.final)


@influence_function(
    "dattri/if-lissa", paper="Agarwal et al. 2017, arXiv:1602.03943", max_parameters=2000, damping=0.03, depth=200, scale=1.0
)
def if_lissa(run: Trajectory, *, damping: float, depth: int, scale: float) -> Tensor:
    """``r <- u + (1 - damping/s) r - G r/s`` `depth` times, answer ``r/s``; s is `scale` times that of G + damping. (K, Q)

    "That" is the largest eigenvalue. The library's `damping` is relative to s, so it gets damping/s; and it divides by s in the
    end. Its defaults, batches of one sample, depth 5000 and s = 50, take minutes, and draw other samples for each query: here
    (ours) a batch is all samples, in a random order. It casts inputs and targets to float32. G is the Gauss-Newton matrix
    (ours). Cost: N Q depth products.
    """
    scaling = scale * (largest(run) + damping)
    settings = {"batch_size": len(run.problem.train), "recursion_depth": depth, "scaling": scaling}
    return inverted(run, partial(solver("IFAttributorLiSSA"), damping=damping / scaling, **settings), bent_loss)


def largest(run: Trajectory) -> float:
    """Largest eigenvalue of G, by power iteration from a random vector."""
    vector = torch.randn(1, len(run.final), generator=run.random(), dtype=torch.float64).to(run.final)
    for _ in range(POWERS):
        vector = run.problem.gauss_newton_products(run.final, run.problem.train, nn.functional.normalize(vector, dim=1))
    return float(vector.norm())


@influence_function(
    "dattri/if-arnoldi",
    paper="Schioppa et al. 2022, arXiv:2112.03052",
    models="linear",
    damping=0.03,
    iterations=100,
    dimension=100,
)
def if_arnoldi(run: Trajectory, *, damping: float, iterations: int, dimension: int) -> Tensor:
    """``<P u_q, P g_i> / N``, ``P = D^-1/2 V^T`` of the `dimension` largest eigenpairs of G + damping I that it finds. (K, Q)

    They come from iterations - 1 steps of Arnoldi's method (defaults of the library). For models linear in the parameters: off
    a minimum the library takes roots of negative eigenvalues, hence NaN, and even with the Gauss-Newton matrix G, H there, its
    basis loses orthogonality as G is of low rank, up to answers of 1e14. Cost: N iterations Hessian products.
    """
    settings = {"max_iter": iterations, "proj_dim": dimension, "seed": seed(run)}
    return inverted(run, partial(solver("IFAttributorArnoldi"), regularization=damping, **settings), bent_loss)


@variant(
    "dattri/if-datainf", paper="Kwon et al. 2024, arXiv:2310.00902, eq. 5", loss_units=True, tuned_on="library", damping=0.1
)
def if_datainf(run: Trajectory, *, damping: float) -> Tensor:
    """``1/N sum_l <g_il, 1/N sum_j (u_l - <g_jl, u_l> / (damping + |g_jl|^2) g_jl) / damping>`` over layers l. (K, Q)

    One damping for all layers; the paper has a tenth of each layer's mean squared gradient. The library's declared default of 0
    divides by zero; .1 is what it takes for None. Gradients g include the L2 term. Cost: N gradients, N Q P flops.
    """
    return inverted(run, partial(solver("IFAttributorDataInf"), regularization=damping))


@influence_function("dattri/if-ekfac", paper="Grosse et al. 2023, arXiv:2308.03296, eq. 20", damping=0.1)
def if_ekfac(run: Trajectory, *, damping: float) -> Tensor:
    """As `dattri/if-explicit`, but for H what the library has for EK-FAC of the empirical Fisher matrix of each layer. (K, Q)

    Dense layers alone count: convolutions and normalisations are left out. The L2 term is not in the Fisher matrix, so the
    damping is damping + weight_decay (ours). See above for what is wrong with it. Cost: 3 N gradients.
    """
    return inverted(run, partial(solver("IFAttributorEKFAC"), damping=damping + run.problem.weight_decay))


@variant("dattri/tracin", paper="Pruthi et al. 2020, arXiv:2002.08484", loss_units=True, tuned_on="untuned", checkpoints=10)
def tracin(run: Trajectory, *, checkpoints: int) -> Tensor:
    """``sum_c w_c <g_i(theta_c), u_q(theta_c)>`` over the ends of so many segments of the run. (K, Q)

    w_c is the sum of the segment's rates over N, what a sample's visits amount to on average. The library projects gradients to
    512 random dimensions even where it is told None; that is switched off here. It takes NaN for 0, which is refused here.
    Cost: N + Q gradients for each checkpoint.
    """
    problem, segments = run.problem, run.segments(checkpoints)
    states = [finite(run.params(segment.stop)) for segment in segments]
    rates = [sum(map(problem.optimizer.rate, segment)) / len(problem.train) for segment in segments]
    with quiet(run):
        build = published("algorithm.tracin", "TracInAttributor")
        attributor = build(task(run, states), rates, normalized_grad=False, device=str(run.final.device))
        attributor.projector_kwargs = None
        found: Tensor = attributor.attribute(training(run, problem.left_out), queries(run))
    return found


@variant(
    "dattri/trak",
    paper="Park et al. 2023, arXiv:2303.14186, eq. 15, of one model",
    models="classifier",
    tuned_on="tuning",
    damping=1.0,
    dimension=512,
)
def trak(run: Trajectory, *, damping: float, dimension: int) -> Tensor:
    """``-<R u_q, (sum_j R f_j (R f_j)^T + N damping I)^-1 R f_i> (1 - p_i)``. (N, Q)

    f_i is the gradient of the margin ``log p_i/(1-p_i)`` of the true class, R the library's normal projection to `dimension`.
    Ours: minus the query's loss for its margin, that is the margin's score times 1 - p_q, so that a mean query is the mean of
    the scores; and the damping, without which fewer samples than dimensions make a singular matrix. The library divides all
    gradients by sqrt(P), so it gets damping N/P. On the CPU: its projector for GPUs must be compiled. NaN, which it takes for
    0, is refused here. Cost: N + Q gradients, (N + Q) P dimension flops.
    """
    run = alone(run, map_tensors(run.problem, Tensor.cpu))
    size = len(run.problem.train), len(finite(run.final))
    with quiet(run):
        given = task(run, [run.final], margin, minus_loss)
        build = published("algorithm.trak", "TRAKAttributor")
        attributor = build(given, partial(probability, run, given.get_model()), regularization=damping * size[0] / size[1])
        settings = {"proj_dim": dimension, "proj_max_batch_size": 32, "proj_seed": seed(run), "device": "cpu"}
        attributor.projector_kwargs = settings  # given in the call, they would stay those of all later ones
        attributor.cache(training(run, slice(None), decay=0.0))
        found: Tensor = attributor.attribute(queries(run))
    return found


@variant("dattri/dvemb", paper="Wang et al. 2025, arXiv:2412.09538, theorem 2", loss_units=True, max_parameters=2000)
def dvemb(run: Trajectory) -> Tensor:
    """``sum_t [i in B_t] <u_q, rate_t/|B_t| prod_{k>t} (I - rate_k C_k) g_i(theta_t)>``, C_k the batch's Fisher matrix. (N, Q)

    The run is replayed for it, state by state, as one epoch (its epochs only label parts of the sum); gradients are neither
    projected nor factorised. Its rows end with the last sample visited; later ones have 0. Momentum and Adam are taken for SGD.
    Cost: E N gradients, all of which it keeps, (E N, P) in memory, and E N P^2 flops.
    """
    problem, effect = run.problem, run.final.new_zeros(len(run.problem.train), run.problem.queries)
    with quiet(run):
        given = task(run, [run.final])
        attributor = published("algorithm.dvemb", "DVEmbAttributor")(given)
        for t in range(problem.steps):
            at(given, run.params(t))
            batch = problem.batch(t)
            attributor.cache_gradients(0, data(run, batch), batch, problem.optimizer.rate(t))
        attributor.cache()
        at(given, run.final)
        found = attributor.attribute(queries(run))
    effect[: len(found)] = found
    return effect


def at(given: Any, theta: Tensor) -> None:
    """Put the parameters (P,) into a task's model."""
    nn.utils.vector_to_parameters(theta.clone(), given.get_model().parameters())


def inverted(run: Trajectory, attributor: Callable[..., Any], loss: Loss | None = None, size: int = QUERIES) -> Tensor:
    """Scores over N by an attributor of the family of influence functions, queries in batches of a `size`. (K, Q)"""
    with quiet(run):
        given = attributor(task(run, [run.final], loss), device=str(run.final.device))
        with torch.enable_grad():  # EK-FAC goes backward itself
            given.cache(training(run, slice(None)))
        found: Tensor = given.attribute(training(run, run.problem.left_out), queries(run, size))
    return found / len(run.problem.train)


@contextmanager
def quiet(run: Trajectory) -> Iterator[None]:
    """Without the library's bars, with global randomness of our own, and with buffers in the run's precision.

    The library makes buffers in torch's default precision, which spoils or refuses results in another.
    """
    default = torch.get_default_dtype()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.random.fork_rng(), torch.no_grad():
        torch.default_generator.manual_seed(seed(run))
        torch.cuda.manual_seed_all(seed(run))  # nothing, where there is no GPU
        torch.set_default_dtype(run.final.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered many negative eigenvalues", UserWarning)  # or fewer than it asked
            try:
                yield
            finally:
                torch.set_default_dtype(default)


def seed(run: Trajectory) -> int:
    """A seed for the library's generators."""
    return int(torch.randint(2**31 - 1, (), generator=run.random()))


def alone(run: Trajectory, problem: Problem) -> Trajectory:
    """The final parameters as a run of no steps of a copy of its problem, on another device or in another precision."""
    return Trajectory(replace(problem, batches=problem.batches[:0]), run.final.to(problem.initial)[None, None])


def finite(theta: Tensor) -> Tensor:
    """The parameters. Raises Diverged where they are not finite."""
    if not theta.isfinite().all():
        raise Diverged("parameters that are not finite: the library would take their gradients for 0")
    return theta


def published(path: str, name: str) -> Any:
    """A class of the library, whose import warns of what the libraries it imports call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return getattr(import_module(f"dattri.{path}"), name)


def solver(name: str) -> Any:
    """An attributor of the family of influence functions."""
    return published("algorithm.influence_function", name)


def task(run: Trajectory, states: list[Tensor], loss: Loss | None = None, target: Loss | None = None) -> Any:
    """The library's task: the mean loss, or others, as functions of named parameters and data, and checkpoints."""
    model = run.problem.model
    whole = module(model, run.final)  # one for all: the library hangs hooks on it
    for norm in (part for part in whole.modules() if isinstance(part, nn.GroupNorm)):
        norm.forward = partial(group_norm, norm)  # type: ignore[method-assign]
    checkpoints = [module(model, theta).state_dict() for theta in states]
    bound = [partial(one, run, whole) if one else None for one in (loss or mean_loss, target)]
    return published("task", "AttributionTask")(bound[0], whole, checkpoints, bound[1])


def group_norm(norm: nn.GroupNorm, values: Tensor) -> Tensor:
    """The layer of plain operations, for torch's own has no second derivative forward, which the explicit Hessian takes."""
    groups = values.reshape(len(values), norm.num_groups, -1)
    variance, mean = torch.var_mean(groups, dim=-1, keepdim=True, correction=0)
    scaled = ((groups - mean) / (variance + norm.eps).sqrt()).reshape(values.shape)
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def outputs(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> tuple[Tensor, Tensor]:
    """Outputs (B, C) and targets (B,) of one sample, or several, of whatever shape and precision the library gives them."""
    inputs = data[0].reshape(-1, run.problem.model.inputs).to(run.final)
    return torch.func.functional_call(whole, parameters, (inputs,)), data[1].reshape(-1)


def mean_loss(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> Tensor:
    """Mean loss of the data, and the L2 term with the weight that comes with them."""
    return LOSSES[run.problem.model.loss](*outputs(run, whole, parameters, data)).mean() + penalty(parameters, data)


def bent_loss(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> Tensor:
    """The mean loss of the outputs made linear in the parameters at theta_T: of the same gradient, G is its Hessian."""
    model = run.problem.model
    anchor = dict(zip(parameters, chain.from_iterable(model.parts(run.final)), strict=True))
    shift = {name: parameters[name] - part for name, part in anchor.items()}

    def shown(parameters: Parameters) -> Tensor:
        return outputs(run, whole, parameters, data)[0]

    found = torch.func.jvp(shown, (anchor,), (shift,))  # value and move
    return LOSSES[model.loss](found[0] + found[1], data[1].reshape(-1)).mean() + penalty(parameters, data)


def penalty(parameters: Parameters, data: Data) -> Tensor:
    """The L2 term, of the weight that comes with the data."""
    square = torch.stack([(part**2).sum() for part in parameters.values()]).sum()
    return data[2].mean() / 2 * square


def minus_loss(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> Tensor:
    """Minus the mean loss."""
    return -mean_loss(run, whole, parameters, data)


def probability(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> Tensor:
    """Of the true class."""
    return torch.exp(-LOSSES[run.problem.model.loss](*outputs(run, whole, parameters, data)).mean())


def margin(run: Trajectory, whole: nn.Module, parameters: Parameters, data: Data) -> Tensor:
    """``log p/(1-p)``, p the probability of the true class."""
    values, targets = outputs(run, whole, parameters, data)
    if run.problem.model.loss == "binary-cross-entropy":
        return ((2 * targets - 1) * values.squeeze(-1)).mean()
    true = torch.arange(values.shape[-1], device=values.device) == targets[:, None]
    found = torch.where(true, values, 0.0).sum(-1) - values.masked_fill(true, -torch.inf).logsumexp(-1)
    return found.mean()


def data(run: Trajectory, rows: Any, decay: float | None = None) -> Data:
    """Training samples and the weight of their L2 term, each (B, ...)."""
    samples = run.problem.train[rows]
    weight = run.problem.weight_decay if decay is None else decay
    return samples.inputs, samples.targets, run.final.new_full((len(samples),), weight)


def training(run: Trajectory, rows: Any, decay: float | None = None) -> Any:
    """A loader of one batch of training samples."""
    samples = data(run, rows, decay)
    return DataLoader(TensorDataset(*samples), batch_size=len(samples[0]))


def queries(run: Trajectory, size: int = QUERIES) -> Any:
    """A loader of queries, each the one or all query samples whose mean loss it is."""
    query, lead = run.problem.query, 0 if run.problem.query_kind == "mean" else 1
    stacks = query.inputs.unsqueeze(lead), query.targets.unsqueeze(lead)
    return DataLoader(TensorDataset(*stacks, run.final.new_zeros(run.problem.queries)), batch_size=size)
