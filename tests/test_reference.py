"""Reference models and all kinds of modules: trained as by a plain torch loop, for any mask, optimiser and short batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from plain import loop, masks
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import drawn, stream
from benchmark.core.code import code_of
from benchmark.core.optimizers import Adam, OneCycle, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.reference import CausalTransformer, Encoder, ResNet9, UNet
from benchmark.core.sweep import backward
from benchmark.core.wrapped import Module
from benchmark.retraining import engine
from benchmark.retraining.shifts import SGD_IE, effects
from benchmark.retraining.train import leave_one_out, retrain, train
from benchmark.tasks.definition import batches

N, BATCH, EPOCHS = 7, 3, 2  # the last batch of an epoch has one sample
VOCABULARY, LENGTH, CLASSES = 7, 5, 3
CLIP = 0.5
OPTIMIZERS: dict[str, tuple[Optimizer, float | None]] = {
    "sgd": (Sgd(0.3), None),
    "momentum": (Sgd(0.1, momentum=0.9), None),
    "adam": (Adam(0.02), None),
    "adamw": (Adam(0.02, decay=0.1), None),
    "one-cycle-clipped": (Adam(0.05, decay=0.1, schedule=OneCycle(EPOCHS * -(-N // BATCH))), CLIP),
    "sgd-one-cycle-clipped": (Sgd(0.5, momentum=0.9, schedule=OneCycle(EPOCHS * -(-N // BATCH))), CLIP),
}


# ---- the models ------------------------------------------------------------------------------------------------------
class Recurrent(nn.Module):
    """A GRU over embedded tokens, and a linear layer of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(VOCABULARY, 4), nn.GRU(4, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0][:, -1])


class Tied(nn.Module):
    """Tokens that are read and written by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens))))


class Frozen(nn.Module):
    """An embedding that is not trained, and two layers of which one is without its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.first, self.head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 6), nn.Linear(6, CLASSES)
        self.embedding.requires_grad_(False)
        self.first.bias.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(self.embedding(tokens).mean(1))))


class Buffered(nn.Module):
    """Places in the text and a scale, as buffers; the one of them not kept with the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, CLASSES)
        self.register_buffer("places", torch.linspace(-1, 1, LENGTH)[:, None] * torch.ones(4))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.scale * self.embedding(tokens) + self.places).mean(1))


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Torch's, the mean over the tokens that count."""
    each = nn.functional.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=-100, reduction="none")
    return each.sum(1) / (targets != -100).sum(1)


def class_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Torch's."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def noise_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Torch's, the mean over pixels and draws."""
    return nn.functional.mse_loss(outputs.flatten(1), targets, reduction="none").mean(1)


@dataclass(frozen=True)
class Kind:
    """A module, and what it is of."""

    build: Callable[[], nn.Module]
    data: str = "classes"  # of texts; "tokens" of texts, classes of "images", the "noise" in images


CASES: dict[str, Kind] = {
    "encoder": Kind(lambda: Encoder(VOCABULARY, CLASSES, width=4, depth=2, heads=2, length=LENGTH)),
    "causal": Kind(lambda: CausalTransformer(VOCABULARY, width=4, depth=2, heads=2, length=LENGTH), "tokens"),
    "resnet": Kind(lambda: ResNet9(2, CLASSES, groups=2, channels=1, side=8), "images"),
    "resnet-relu-max": Kind(lambda: ResNet9(2, CLASSES, 1, "relu", "max", channels=1, side=8), "images"),
    "unet": Kind(lambda: UNet(2, side=8, draws=2, groups=2), "noise"),
    "gru": Kind(Recurrent),
    "tied": Kind(Tied, "tokens"),
    "frozen": Kind(Frozen),
    "buffers": Kind(Buffered),
}
LOSS = {"classes": ("cross-entropy", class_loss), "images": ("cross-entropy", class_loss)}
LOSS |= {"tokens": ("token-cross-entropy", token_loss), "noise": ("mean-squared-error", noise_loss)}
every_case = pytest.mark.parametrize("name", CASES)


def samples(data: str, count: int, seed: int) -> Samples:
    """Texts with padding, of different lengths; next tokens, of which some do not count; images."""
    random = stream("test/reference", seed)
    labels = torch.from_numpy(random.randint(0, CLASSES, count))
    if data == "images":
        return Samples(torch.from_numpy(random.normal(size=(count, 64))), labels)
    if data == "noise":
        return Samples(*(torch.from_numpy(random.normal(size=(count, size))) for size in (2 * 65, 2 * 64)))
    texts = torch.from_numpy(random.randint(1, VOCABULARY, (count, LENGTH + 1)))
    if data == "tokens":
        targets = texts[:, 1:].clone()
        targets[::2, -1] = -100
        return Samples(texts[:, :-1], targets)
    short = torch.from_numpy(random.randint(2, LENGTH + 1, count))
    return Samples(torch.where(torch.arange(LENGTH) < short[:, None], texts[:, :-1], 0), labels)


@cache
def net_of(name: str) -> nn.Module:
    with drawn(stream(f"test/reference/{name}", 0)):
        return CASES[name].build().double()


def problem(name: str, optimizer: Optimizer, clip: float | None = None) -> Problem:
    """A problem of a module, whose starts are the module's parameters."""
    net, data = net_of(name), CASES[name].data
    model = Module(net, LOSS[data][0])
    steps = EPOCHS * -(-N // BATCH)
    return Problem(
        model=model,
        optimizer=optimizer,
        train=samples(data, N, 0),
        query=samples(data, 3, 1),
        test=samples(data, 0, 2),
        initial=model.initial(stream("none", 0)),
        batches=batches(N, BATCH, EPOCHS, stream("test/batches", 0)),
        left_out=torch.arange(N),
        horizons=(steps,),
        weight_decay=0.01,
        query_kind="each",
        clip=clip,
    )


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert a relative error of at most `tolerance` in the largest entry."""
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * float(expected.detach().abs().max())


# ---- training ----------------------------------------------------------------------------------------------------------
@every_case
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_runs_of_a_module_are_those_of_a_plain_torch_loop(name: str, kind: str) -> None:
    given, keep = problem(name, *OPTIMIZERS[kind]), masks(N, 6)
    loss = LOSS[CASES[name].data][1]
    expected = torch.stack([loop(given, net_of(name), loss, row) for row in keep])

    assert not engine.native(given)
    for runs in (1, 2, 6):
        close(retrain(given, keep[:runs], runs=runs)[-1], expected[:runs], 1e-10)
    run = train(given)
    close(run.final, loop(given, net_of(name), loss, torch.ones(N)), 1e-10)
    close(retrain(given, keep, states=run.states)[-1], expected, 1e-10)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_runs_trained_one_by_one_leave_the_start_that_they_share_alone(kind: str) -> None:
    name = next(iter(CASES))
    given = problem(name, *OPTIMIZERS[kind])
    run = train(given)
    before = run.states.clone()

    close(leave_one_out(run, runs=1), leave_one_out(run, runs=4), 1e-10)
    assert torch.equal(run.states, before)


@every_case
def test_training_moves_the_parameters_and_leaves_the_module_alone(name: str) -> None:
    before = {at: part.clone() for at, part in net_of(name).state_dict().items()}
    given = problem(name, *OPTIMIZERS["sgd"])
    final = train(given).final

    assert float((final - given.initial).abs().max()) > 1e-3
    assert all(torch.equal(part, before[at]) for at, part in net_of(name).state_dict().items())
    assert given.model.parameters == sum(part.numel() for part in net_of(name).parameters() if part.requires_grad)


def slopes(given: Problem) -> Tensor:
    """Central differences of the run's query losses in the weight of each sample, (N, Q)."""
    each, small = torch.eye(N, dtype=torch.float64), 1e-5
    ends = retrain(given, torch.cat([1 + small * each, 1 - small * each]), read=engine.query_losses)[-1]
    up, down = ends.chunk(2)
    return (up - down) / (2 * small)


@pytest.mark.parametrize("name", ["encoder", "causal", "resnet", "unet", "gru", "tied"])
@pytest.mark.parametrize("kind", ["adam", "sgd-one-cycle-clipped"])
def test_the_sweep_back_is_the_slope_of_the_run_and_the_sweep_forward_is_the_sweep_back(name: str, kind: str) -> None:
    optimizer, clip = OPTIMIZERS[kind]
    given = problem(name, optimizer if clip else replace(optimizer, eps=1e-3), clip)  # no root of almost 0
    run = train(given)
    found = backward(run)

    close(found, -slopes(given), 1e-6)
    if not clip:  # the forward sweep has no clipping
        close(effects(run, SGD_IE, "linear")[-1], found, 1e-9)


# ---- what the reference models promise ---------------------------------------------------------------------------------
def test_padding_changes_nothing_of_what_the_encoder_says() -> None:
    net, texts = net_of("encoder"), torch.tensor([[3, 1, 4], [2, 6, 5]])
    longer = torch.cat([texts, torch.zeros(2, 2, dtype=torch.int64)], 1)

    close(net(longer), net(texts), 1e-14)
    assert not torch.allclose(net(texts), net(torch.tensor([[3, 1, 5], [2, 6, 4]])))
    close(net(0 * texts), net.head.bias.expand(2, -1), 1e-14)


def test_the_encoder_is_torch_s_own_of_the_same_weights() -> None:
    net, texts = net_of("encoder"), samples("classes", 6, 3).inputs
    layers = []
    for block in net.blocks:
        twin = nn.TransformerEncoderLayer(4, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).double()
        twin.self_attn.in_proj_weight, twin.self_attn.in_proj_bias = block.attention.qkv.weight, block.attention.qkv.bias
        twin.self_attn.out_proj, twin.norm1 = block.attention.out, block.before
        twin.norm2, twin.linear1, _, twin.linear2 = block.wide
        layers.append(twin)
    values = net.tokens(texts) + net.positions(torch.arange(LENGTH))
    padding = texts == 0
    for layer in layers:
        values = layer(values, src_key_padding_mask=padding)
    means = torch.stack([row[~empty].mean(0) for row, empty in zip(net.norm(values), padding, strict=True)])

    close(net(texts), net.head(means), 1e-12)


def test_the_causal_transformer_does_not_see_the_future() -> None:
    net, texts = net_of("causal"), torch.tensor([[3, 1, 4, 1, 5]])
    other = torch.tensor([[3, 1, 4, 2, 6]])
    one, two = net(texts), net(other)

    assert one.shape == (1, LENGTH, VOCABULARY)
    close(one[:, :3], two[:, :3], 1e-14)
    assert not torch.allclose(one[:, 3:], two[:, 3:])
    close(net(texts[:, :2]), one[:, :2], 1e-13)


def test_a_text_longer_than_the_positions_is_an_error() -> None:
    with pytest.raises(LoobenchError, match="texts of 6 tokens, the model has 5 positions"):
        net_of("encoder")(torch.ones(1, 6, dtype=torch.int64))


@pytest.mark.parametrize("name", ["resnet", "resnet-relu-max"])
def test_an_image_has_the_same_outputs_alone_in_a_batch_and_as_a_row_of_pixels(name: str) -> None:
    net, images = net_of(name), samples("images", 4, 5).inputs

    close(net(images[:1]), net(images)[:1], 1e-12)
    close(net(images.view(4, 1, 8, 8)), net(images), 1e-14)


def test_resnet_9_has_its_eight_convolutions_and_linear_layer_of_the_published_widths() -> None:
    net = ResNet9()
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    sizes = [(3, 64), (64, 128), *[(128, 128)] * 2, (128, 256), (256, 512), *[(512, 512)] * 2]

    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == sizes
    assert net(torch.zeros(2, 3 * 32 * 32)).shape == (2, 10)
    assert sum(isinstance(layer, nn.GroupNorm) for layer in net.modules()) == 8
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.Dropout) for layer in net.modules())


def test_the_u_net_is_told_the_time_of_each_draw_and_sees_no_other_draw_or_image() -> None:
    net, rows = net_of("unet"), samples("noise", 3, 5).inputs
    later = rows.clone()
    later[1, 64] += 0.1  # the time of the first draw of the second image
    one, two = net(rows), net(later)

    assert one.shape == (3, 2, 64)
    close(net(rows[:1]), one[:1], 1e-12)
    assert [[bool((one[i, draw] == two[i, draw]).all()) for draw in range(2)] for i in range(3)] == [
        [True] * 2,
        [False, True],
        [True] * 2,
    ]


def test_the_u_net_has_about_a_million_parameters_and_what_is_on_the_way_down_comes_up() -> None:
    net = UNet(32, draws=4)
    small, rows = net_of("unet"), samples("noise", 1, 6).inputs
    with torch.no_grad():
        whole = small(rows)
        for half in small.halves:
            half.weight.zero_()
            half.bias.zero_()
        beside = small(rows)
    net_of.cache_clear()

    assert 9e5 < sum(part.numel() for part in net.parameters()) < 1.3e6
    assert net(torch.zeros(2, 4 * 785)).shape == (2, 4, 784)
    assert not torch.allclose(whole, beside)
    assert float(beside.std()) > 0.1 * float(whole.std())


def test_settings_that_do_not_fit_are_errors() -> None:
    for build, message in (
        (lambda: ResNet9(6, groups=4), "6 filters, which 4 groups do not divide"),
        (lambda: ResNet9(activation="gelo"), "unknown activation 'gelo': did you mean gelu"),
        (lambda: ResNet9(pool="mean"), "unknown pool 'mean'"),
        (lambda: UNet(6), "a width that 4 groups divide and a side that 4 divides, got 6 and 28"),
        (lambda: UNet(4, side=10), "got 4 and 10"),
        (lambda: Encoder(9, 2, width=6, heads=4), "width of 6 cannot be divided among 4 heads"),
    ):
        with pytest.raises(LoobenchError, match=message):
            build()


@pytest.mark.parametrize("kind", [ResNet9, UNet, Encoder, CausalTransformer])
def test_a_reference_model_is_built_by_its_name_and_settings(kind: type[nn.Module]) -> None:
    settings: dict[type, dict[str, object]] = {
        ResNet9: {"width": 4, "side": 8},
        UNet: {"width": 4, "side": 8},
        Encoder: {"vocabulary": 9, "classes": 2, "width": 8},
        CausalTransformer: {"vocabulary": 9, "width": 8},
    }
    code, other = code_of(kind, **settings[kind]), code_of(kind, **settings[kind] | {"width": 16})
    assert code
    assert other
    model = Module(code.built(), "cross-entropy", code=code)

    assert (code.name, code.text) == (kind.__name__, "")
    assert code.digest != other.digest
    assert torch.equal(model.initial(stream("initial", 3)), model.initial(stream("initial", 3)))
    assert not torch.equal(model.initial(stream("initial", 3)), model.initial(stream("initial", 4)))
