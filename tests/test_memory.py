"""What is held at once: methods that need few numbers of each gradient never hold those of all samples."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.representer import mean_gradient
from benchmark.base.means import Means, allowing
from benchmark.core import blocks as held
from benchmark.core.blocks import blocks, of_each
from benchmark.core.models import mlp
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.registry import registered
from benchmark.core.solvers import System
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train

MANY, ASKED, MIB = 400, 5, 2**20
SMALL = Means(8 * MIB)  # of which a block takes an eighth, 1 MiB
BLOCKED = (
    "grad-dot",
    "grad-cos",
    "grad-norm",
    "grand",
    "if-cg",
    "if-ekfac",
    "if-datainf",
    "if-direct-fisher",
    "trak",
    "if-projected",
    "if-dropout",
)
ROOTED = ("if-direct-gauss-newton", "newton-loo")  # by a matrix (N C, N C), of a root in blocks
OTHERS = ("representer", "source", "knn-shapley", "el2n", "outlier-gradient-l2")


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation in the block has made, views of others included."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = found if isinstance(found, tuple | list) else [found]
        self.numbers = max([self.numbers, *(one.numel() for one in made if isinstance(one, Tensor))])
        return found


@pytest.fixture(scope="module")
def run() -> Trajectory:
    """A run over many samples of which few are asked."""
    random = torch.Generator().manual_seed(0)
    model = mlp((20, 96, 3), "tanh", "cross-entropy")

    def drawn(count: int) -> Samples:
        inputs = torch.randn(count, 20, generator=random, dtype=torch.float64)
        return Samples(inputs, inputs[:, :3].argmax(1))

    some = drawn(6)
    problem = Problem(
        model=model,
        optimizer=Sgd(0.1),
        train=drawn(MANY),
        query=some,
        test=some,
        initial=torch.randn(model.parameters, generator=random, dtype=torch.float64) / 5,
        batches=torch.randperm(MANY, generator=random).view(-1, 100),
        left_out=torch.tensor([3, 70, 200, 201, 399]),
        horizons=(4,),
        weight_decay=0.01,
        query_kind="each",
    )
    return train(problem)


@pytest.mark.parametrize("name", [*BLOCKED, *OTHERS])
def test_no_tensor_is_as_large_as_the_gradients_of_all_samples(name: str, run: Trajectory) -> None:
    with allowing(SMALL), Largest() as largest:
        registered()[name](run)

    assert 0 < largest.numbers < MANY * len(run.final)


def test_neighbours_are_sorted_for_some_queries_at_a_time(run: Trajectory) -> None:
    many = replace(run, problem=replace(run.problem, query=run.problem.train[torch.arange(300)], query_kind="mean"))
    whole = registered()["knn-shapley"](many)
    with allowing(Means(MIB)), Largest() as largest:
        found = registered()["knn-shapley"](many)

    assert largest.numbers < MANY * 300 / 2
    assert torch.allclose(found, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in (*BLOCKED, *ROOTED, *OTHERS) if name not in ("source", "if-cg")])
def test_blocks_do_not_change_what_is_answered(name: str, run: Trajectory) -> None:
    whole = registered()[name](run)
    with allowing(SMALL):
        found = registered()[name](run)

    assert torch.allclose(found, whole, rtol=1e-9, atol=1e-12)


def test_the_mean_gradient_of_a_last_layer_is_summed_in_blocks(run: Trajectory) -> None:
    expected = run.problem.gradients(run.final, run.problem.train).mean(0)
    with allowing(SMALL), Largest() as largest:
        found = mean_gradient(run.problem, run.final)

    assert largest.numbers < MANY * len(run.final)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_products_with_the_fisher_matrix_are_those_of_the_definition_in_blocks_too(run: Trajectory) -> None:
    vectors = run.query_gradients()
    gradients = run.problem.gradients(run.final, run.problem.train) - run.problem.weight_decay * run.final
    rows = torch.arange(7, 300)
    with allowing(SMALL):
        system = System(run, "fisher", 0.1)
        assert len(list(system.gradient_blocks())) > 1
        assert torch.allclose(system.products(vectors), vectors @ (gradients.T @ gradients) / MANY)
        assert torch.allclose(system.products(vectors, rows), vectors @ (gradients[rows].T @ gradients[rows]) / len(rows))


def test_blocks_have_each_row_once_and_no_more_bytes_than_a_share_of_the_memory() -> None:
    rows = torch.arange(1000)
    for memory in (1, 5 * MIB, 40 * MIB, None):
        with allowing(Means(memory)):
            found = blocks(rows, MIB)
        most = held.PART if memory is None else memory / held.SHARE

        assert torch.equal(torch.cat(found), rows)
        assert max(map(len, found)) * MIB <= max(MIB, most)


def test_what_fits_is_one_block_and_else_blocks_are_whole_chunks_of_gradients() -> None:
    assert len(blocks(torch.arange(256), MIB)) == 1
    assert {len(some) for some in blocks(torch.arange(1024), MIB)} == {128}


def test_what_is_made_of_blocks_is_held_where_there_is_one_and_is_else_made_again_and_not_held() -> None:
    asked: list[list[int]] = []

    def of(rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return 2 * rows

    one, two = (of_each(parts, of) for parts in ([torch.tensor([1, 2])], torch.tensor([[3], [4]]).unbind()))
    assert asked == [[1, 2]]
    for _ in range(2):
        assert torch.equal(torch.cat([*one]), torch.tensor([2, 4]))
        assert torch.equal(torch.cat([*two]), torch.tensor([6, 8]))
    assert asked == [[1, 2], *[[3], [4]] * 2]


def test_rows_are_answered_for_the_samples_asked_alone(run: Trajectory) -> None:
    problem, theta = run.problem, run.final.clone().requires_grad_()
    losses = problem.losses(theta, problem.train[problem.left_out])
    expected = torch.stack([torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses])

    assert torch.allclose(registered()["grad-dot"](run), expected @ run.query_gradients().T)
    assert torch.allclose(registered()["grad-norm"](run)[:, 0], expected.norm(dim=1))
