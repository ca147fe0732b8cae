"""`shrink`: which units go, by hand-computed shapes, and that outputs stay the same."""

import copy
import io
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import openwork as ow
from tests.inference.shrink.dead import Net, dead, lively, reasons, shapes, shrink

pytestmark = pytest.mark.usefixtures("operators_collected_once")

X, Y = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
IMAGES, MORE = (torch.randn(n, 3, 8, 8, dtype=torch.float64) for n in (2, 3))


def images(*layers):
    torch.manual_seed(0)
    return lively(nn.Sequential(*layers).double())


def test_dead_units_and_units_that_nobody_reads_go():
    shrunk = shrink(Net().double(), X, Y)
    assert shapes(shrunk) == {"a.weight": (4, 4), "b.weight": (4, 4), "c.weight": (2, 4)}
    assert shrunk.model.a.out_features == shrunk.model.b.in_features == 4
    assert shrunk.bytes == (8 * 77, 8 * (20 + 20 + 10))
    assert shrunk.flops == (2 * 3 * (24 + 30 + 10), 2 * 3 * (16 + 16 + 8))


def test_what_only_a_removed_unit_reads_goes_too():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    dead(net[4], inputs=[0])
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 1, 0]]))  # only unit 0 reads unit 0
    assert shapes(shrink(net, X, Y)) == {"0.weight": (2, 4), "2.weight": (2, 2), "4.weight": (2, 2)}


def test_a_unit_that_reads_constants_alone_is_a_constant():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    dead(net[0], [0])
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0]]))  # unit 0 reads the constant alone
    assert shapes(shrink(net, X, Y)) == {"0.weight": (2, 4), "2.weight": (2, 2), "4.weight": (2, 2)}


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.Sigmoid(), nn.GELU(), nn.Softplus(), nn.Hardswish(), nn.PReLU(3), nn.LogSigmoid(), nn.Softshrink(0.1)),
        *(nn.Hardshrink(0.1), nn.Threshold(0.1, 0.2), nn.Softsign(), nn.Hardtanh(-0.1, 0.1), nn.Mish()),
    ],
)
def test_the_constant_of_a_dead_unit_moves_into_the_next_bias(activation):
    net = nn.Sequential(dead(nn.Linear(4, 3), [2]), activation, nn.Linear(3, 2)).double()
    shrunk = shrink(net, X, Y)
    assert shapes(shrunk) == {"0.weight": (2, 4), "2.weight": (2, 2)}
    constant = activation(net[0].bias.unsqueeze(0))[0, 2].detach()
    torch.testing.assert_close(shrunk.model[2].bias, net[2].bias + net[2].weight[:, 2] * constant)


def test_without_a_bias_the_mean_of_the_batch_norm_behind_holds_the_constant():
    net = images(dead(nn.Conv2d(3, 4, 3), [1]), nn.ReLU6(), nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5))
    with torch.no_grad():
        net[0].bias.fill_(0.5)
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {"0.weight": (3, 3, 3, 3), "2.weight": (5, 3, 1, 1)}
    torch.testing.assert_close(shrunk.model[3].running_mean, net[3].running_mean - 0.5 * net[2].weight[:, 1, 0, 0])


def test_where_padding_interrupts_constants_one_unit_holds_them_all():
    net = images(dead(nn.Conv2d(3, 6, 3), [1, 2, 4]), nn.Sigmoid(), nn.Conv2d(6, 2, 3, padding=1))
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {"0.weight": (4, 3, 3, 3), "2.weight": (2, 4, 3, 3)}
    assert reasons(shrunk) == {"it holds the constants of those that went"}


@pytest.mark.parametrize("padding", [{"padding": 0}, {"padding": 1, "padding_mode": "reflect"}])
def test_without_zeros_around_the_map_none_has_to_hold_them(padding):
    net = images(dead(nn.Conv2d(3, 6, 3), [1, 2, 4]), nn.Sigmoid(), nn.Conv2d(6, 2, 3, **padding))
    assert shapes(shrink(net, IMAGES, MORE))["2.weight"] == (2, 3, 3, 3)


def test_constants_of_zero_pass_through_padding():
    net = images(dead(nn.Conv2d(3, 6, 3), [1, 2, 4], bias=False), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))
    assert shapes(shrink(net, IMAGES, MORE))["2.weight"] == (2, 3, 3, 3)


def test_a_flattened_channel_goes_with_all_of_its_places():
    net = images(dead(nn.Conv2d(3, 4, 3), [0]), nn.ReLU(), nn.Flatten(), dead(nn.Linear(144, 2), inputs=range(36, 72)))
    with torch.no_grad():
        net[3].weight[:, 72:100] = 0  # of the 36 places of channel 2 others are read
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {"0.weight": (2, 3, 3, 3), "3.weight": (2, 72)}
    assert shrunk.tensors[2].kept == {("inputs", "the rest of its unit is needed"): 28}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.last(torch.relu(x + self.down(torch.relu(self.up(x)))))


def test_a_channel_goes_where_all_that_are_added_to_it_allow_it():
    net = Residual().double().eval()
    dead(net.stem, [0, 1], bias=False)
    dead(net.down, [1, 2])  # only channel 1 is dead in both
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {
        "stem.weight": (5, 3, 1, 1),
        "up.weight": (4, 5, 3, 3),
        "down.weight": (5, 4, 1, 1),
        "last.weight": (2, 5, 1, 1),
    }
    assert reasons(shrunk) == {"the rest of its unit is needed"}


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = dead(nn.Conv2d(3, 4, 1), [3]), dead(nn.Conv2d(3, 5, 1), [0, 4]), nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.c(torch.tanh(torch.cat([self.a(x), self.b(x)], 1)))


def test_concatenated_channels_go_by_their_own_sources():
    shrunk = shrink(Concatenated().double(), IMAGES, MORE)
    assert shapes(shrunk) == {"a.weight": (3, 3, 1, 1), "b.weight": (3, 3, 1, 1), "c.weight": (2, 6, 1, 1)}


def test_a_depthwise_channel_goes_with_its_group():
    net = images(
        dead(nn.Conv2d(3, 4, 1), [2], bias=False), nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Conv2d(8, 2, 1)
    )
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {"0.weight": (3, 3, 1, 1), "1.weight": (6, 1, 3, 3), "2.weight": (2, 6, 1, 1)}
    layer = shrunk.model[1]
    assert (layer.groups, layer.in_channels, layer.out_channels) == (3, 3, 6)


def test_a_group_of_which_one_channel_is_read_stays():
    net = images(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2), dead(nn.Conv2d(4, 2, 1), inputs=[0, 2, 3]))
    assert shapes(shrink(net, IMAGES, MORE))["1.weight"] == (2, 2, 1, 1)


def test_channels_of_transposed_convolutions_go():
    net = images(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        net[2].weight[1] = 0
        net[2].weight[:, :2] = 0
    shrunk = shrink(net, IMAGES, MORE)
    assert shapes(shrunk) == {"0.weight": (3, 3, 1, 1), "2.weight": (3, 4, 2, 2), "4.weight": (2, 4, 1, 1)}


class Gated(nn.Module):
    """Two halves of one layer, one of which gates the other."""

    def __init__(self, gated):
        super().__init__()
        self.both, self.last = dead(nn.Linear(4, 8), [1, 6], bias=False), nn.Linear(4, 2)
        self.gated = gated

    def forward(self, x):
        return self.last(self.gated(self.both(x)))


def in_two(x):
    value, gate = x.chunk(2, dim=-1)
    return value * torch.sigmoid(gate)


@pytest.mark.parametrize("gated", [in_two, F.glu, partial(F.glu, dim=1)], ids=["chunk", "glu", "along a dimension"])
def test_gated_units_go_in_pairs_where_their_product_is_zero(gated):
    # Unit 1 is 0 · gate 5; unit 2 is multiplied by the constant sigmoid(0) of gate 6, and depends on the input.
    assert shapes(shrink(Gated(gated).double(), X, Y)) == {"both.weight": (6, 4), "last.weight": (2, 3)}


def test_a_gated_unit_that_is_constant_goes_into_the_bias():
    net = Gated(F.glu).double()
    with torch.no_grad():
        net.both.weight[[2, 6]] = 0
        net.both.bias[[2, 6]] = torch.tensor([3.0, -1.0], dtype=torch.float64)
    assert shapes(shrink(net, X, Y)) == {"both.weight": (4, 4), "last.weight": (2, 2)}


def test_a_layer_that_is_dead_as_a_whole_keeps_one_unit_that_nobody_reads():
    net = Net().double()
    for layer in (net.a, net.b):
        dead(layer, range(len(layer.weight)))
    shrunk = shrink(net, X, Y)
    assert shapes(shrunk) == {"a.weight": (1, 4), "b.weight": (1, 1), "c.weight": (2, 1)}
    assert not shrunk.model.c.weight.any()
    assert "the last one of its layer" in reasons(shrunk)


def test_a_module_that_is_called_twice_loses_what_neither_call_needs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(torch.tanh(self.again(torch.tanh(self.again(torch.relu(self.first(x)))))))

    net = Twice().double()
    dead(net.first, [0, 1], bias=False)
    dead(net.again, [0], bias=False)  # unit 1 is 0 before the first call, but not before the second one
    assert shapes(shrink(net, X, Y)) == {"first.weight": (5, 4), "again.weight": (5, 5), "last.weight": (2, 5)}


def test_a_tied_weight_stays_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
            self.same = nn.Linear(4, 6, bias=False)
            self.same.weight = self.up.weight

        def forward(self, x):
            return self.down(torch.relu(self.same(self.down(torch.relu(self.up(x))))))

    net = Tied().double()
    dead(net.up, [0, 1])
    shrunk = shrink(net, X, Y)
    assert shrunk.model.up.weight is shrunk.model.same.weight
    assert shrunk.model.up.weight.shape == (4, 4)
    assert shrunk.model.same.out_features == 4


def test_the_copy_has_the_flags_of_the_model_and_leaves_it_as_it_was():
    net = Net().train()
    net.b.eval()
    net.a.weight.requires_grad_(False)
    given = copy.deepcopy(net.state_dict())
    shrunk = ow.shrink(net, X.float())
    flags = [(module.training, [p.requires_grad for p in module.parameters(False)]) for module in net.modules()]
    assert flags == [(m.training, [p.requires_grad for p in m.parameters(False)]) for m in shrunk.model.modules()]
    assert all(torch.equal(given[name], tensor) for name, tensor in net.state_dict().items())


def test_the_copy_trains_on_saves_and_compiles():
    model = ow.shrink(Net(), X.float()).model
    assert {type(module) for module in model.modules()} == {Net, nn.Linear}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(X.float()).square().sum()
    before.backward()
    optimizer.step()
    assert model(X.float()).square().sum() < before
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy.deepcopy(model).load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(torch.compile(model, backend="eager")(X.float()), model(X.float()))


def test_a_model_that_counts_its_calls_has_counted_none():
    class Counting(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    net = Counting()
    shrunk = ow.shrink(net, X.float())
    assert shapes(shrunk)["a.weight"] == (4, 4)
    assert net.calls == shrunk.model.calls == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shrinks_too(dtype):
    shrunk = ow.shrink(Net().to(dtype), X.to(dtype))
    assert shapes(shrunk)["b.weight"] == (4, 4)
    assert shrunk.difference < 0.02


def test_several_arguments_and_keywords_are_an_example():
    class Scaled(Net):
        def forward(self, x, scale):
            return super().forward(x * scale)

    for example in ((X.float(), torch.tensor(2.0)), {"x": X.float(), "scale": torch.tensor(2.0)}):
        assert shapes(ow.shrink(Scaled(), example))["a.weight"] == (4, 4)


def test_the_report_says_what_went_and_what_stayed():
    net = Net()
    dead(net.a, inputs=[2])
    dead(net.c, [1])
    shrunk = ow.shrink(net, X.float())
    lines = str(shrunk).splitlines()
    assert lines[0].startswith("308 B -> 200 B (1.54 x), 384 -> 240 (1.60 x) FLOPs for the example")
    assert lines[1:] == [
        "a.weight  6x4 -> 4x4",
        "b.weight  5x6 -> 4x4",
        "c.weight  2x5 -> 2x4",
        "kept though zero, 1 input of a.weight: it reads the model's input or another tensor of a fixed size",
        "kept though zero, 1 output of c.weight: it is an output of the model",
    ]
    plain = json.loads(json.dumps(shrunk.to_dict()))
    assert plain["flops"] == {"before": 384, "now": 240}
    assert plain["tensors"][0] == {
        "name": "a.weight",
        "before": [6, 4],
        "now": [4, 4],
        "kept": [
            {
                "side": "inputs",
                "why": "it reads the model's input or another tensor of a fixed size",
                "count": 1,
            }
        ],
    }


def test_a_model_without_dead_units_comes_back_as_it_is_and_the_report_says_so():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    shrunk = ow.shrink(net, X.float())
    assert all(torch.equal(tensor, shrunk.model.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert "nothing was removed" in str(shrunk)


def test_the_example_and_random_numbers_are_afterwards_what_they_were():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            x += 1
            torch.randn(())
            return self.last(self.first(x).relu())

    model, example, state = Net(), torch.zeros(2, 4), torch.get_rng_state()
    with torch.no_grad():
        model.first.weight[:3] = 0
    shrunk = ow.shrink(model, example)
    assert shrunk.model.first.out_features == 3
    assert torch.equal(example, torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_in_channels_last_stay_so():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model[0].weight[:4] = 0
    shrunk = ow.shrink(model, torch.randn(2, 3, 9, 9)).model
    assert shrunk[0].weight.shape == (4, 3, 3, 3)
    assert all(shrunk[i].weight.is_contiguous(memory_format=torch.channels_last) for i in (0, 2))
