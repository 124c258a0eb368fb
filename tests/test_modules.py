"""Our networks as `torch.nn` modules."""

import pytest
import torch
from cases import MODELS, problem

from benchmark.modules import flat, module


@pytest.mark.parametrize("name", MODELS)
def test_a_module_has_the_outputs_and_parameters_of_its_network(name: str) -> None:
    given = problem(MODELS[name])
    whole = module(given.model, given.initial)

    expected = given.model.outputs(given.initial, given.train.inputs)
    assert torch.allclose(whole(given.train.inputs), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(flat(whole), given.initial)


def test_training_a_module_leaves_the_vector_it_came_from_alone() -> None:
    given = problem()
    before = given.initial.clone()
    with torch.no_grad():
        for parameter in module(given.model, given.initial).parameters():
            parameter.add_(1.0)

    assert torch.equal(given.initial, before)
