"""Our networks as `torch.nn` modules."""

import pytest
import torch
from cases import MODELS, problem

from benchmark.core.layers import GroupNorm
from benchmark.core.modules import flat, module


@pytest.mark.parametrize("name", MODELS)
def test_a_module_has_the_outputs_and_parameters_of_its_network(name: str) -> None:
    given = problem(MODELS[name])
    whole = module(given.model, given.initial)

    expected = given.model.outputs(given.initial, given.train.inputs)
    assert torch.allclose(whole(given.train.inputs), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(flat(whole), given.initial)


def test_groups_of_channels_are_normalised_as_by_torch_s_own_layer() -> None:
    values = torch.randn(5, 4 * 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 100
    gamma, beta = torch.linspace(-1, 2, 8, dtype=torch.float64).split(4)
    theirs = torch.nn.GroupNorm(2, 4).double()
    theirs.load_state_dict({"weight": gamma, "bias": beta})

    found = GroupNorm((4, 2, 3), 2).apply(values, gamma, beta)

    assert torch.allclose(found, theirs(values.view(5, 4, 2, 3)).flatten(1), rtol=1e-12, atol=0)


def test_training_a_module_leaves_the_vector_it_came_from_alone() -> None:
    given = problem()
    before = given.initial.clone()
    with torch.no_grad():
        for parameter in module(given.model, given.initial).parameters():
            parameter.add_(1.0)

    assert torch.equal(given.initial, before)
