"""FLOPs against hand counts, and against torch's own counter in total."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import openwork as ow
from openwork.inspect.flops import count_flops
from tests.helpers import Tied, conv_net


def test_a_linear_layer_by_hand():
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight[0] = 0
    flops = count_flops(model, torch.randn(5, 3))
    assert flops.weights == {"weight": (2 * 5 * 3 * 4, 2 * 5 * 3 * 3)}


def test_a_convolution_with_groups_stride_and_dilation_by_hand():
    model = nn.Conv2d(4, 8, 3, groups=2, stride=2, dilation=2, padding=1)
    # 9 -> (9 + 2 - 5) // 2 + 1 = 4 positions each way; each output reads 4 / 2 channels of 3 x 3
    assert count_flops(model, torch.randn(2, 4, 9, 9)).dense == 2 * 2 * 4 * 4 * 8 * (2 * 9)


def test_lenet_300_100_by_hand():
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    assert count_flops(model, torch.randn(1, 784)).dense == 2 * (784 * 300 + 300 * 100 + 100 * 10)


def test_an_encoder_layer_counts_its_attention_scores_apart():
    """On a CPU the counter alone sees 0: the fast path and the fused attention kernel have no formula there."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)  # 10 tokens
    flops = count_flops(model, x)
    dense = {name: one for name, (one, _) in flops.weights.items()}
    assert dense == {
        "self_attn.in_proj_weight": 2 * 10 * 8 * 24,
        "self_attn.out_proj.weight": 2 * 10 * 8 * 8,
        "linear1.weight": 2 * 10 * 8 * 16,
        "linear2.weight": 2 * 10 * 16 * 8,
    }
    assert sum(flops.other.values()) == 2 * (2 * 2 * 5 * 5 * 8)  # q·k and scores·v
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_by_hand(kind, gates):
    flops = count_flops(kind(3, 4, num_layers=2), torch.randn(6, 2, 3))  # 6 steps, batch 2
    assert flops.dense == 2 * 6 * 2 * gates * 4 * ((3 + 4) + (4 + 4))
    assert not flops.uncounted
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled


def test_the_sum_is_what_the_counter_of_torch_says():
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.tied, self.attention = conv_net(), Tied(), nn.MultiheadAttention(6, 2)
            self.up = nn.ConvTranspose2d(2, 4, 3, groups=2, stride=2)

        def forward(self, images: Tensor, ids: Tensor) -> Tensor:
            x = self.tied.embedding(ids)
            x, _ = self.attention(x, x, x)
            return self.net(images).sum() + self.up(images).sum() + self.tied(ids).sum() + x.sum()

    model, example = Several(), (torch.randn(3, 2, 6, 6), torch.randint(11, (4, 2)))
    with FlopCounterMode(display=False) as counter:
        model(*example)
    flops = count_flops(model, example)
    assert flops.dense == counter.get_total_flops()
    assert set(flops.weights) == {
        "net.0.weight", "net.3.weight", "net.5.weight", "tied.embedding.weight", "tied.hidden.weight",
        "attention.in_proj_weight", "attention.out_proj.weight", "up.weight",
    }  # fmt: skip
    assert model.training
    assert model.tied.hidden.training


def test_a_layer_used_twice_counts_twice_and_copies_stand_for_their_weight():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer(self.layer(x))

    assert count_flops(Twice(), torch.randn(1, 4)).weights == {"layer.weight": (64, 64)}


def test_each_part_of_a_packed_weight_has_its_own_density():
    model = nn.MultiheadAttention(4, 1)
    with torch.no_grad():
        model.in_proj_weight.fill_(1)[:4] = 0  # the query's part
    query, key = torch.randn(1, 1, 4), torch.randn(7, 1, 4)
    dense, sparse = count_flops(model, (query, key, key)).weights["in_proj_weight"]
    assert (dense, sparse) == (2 * 16 * (1 + 7 + 7), 2 * 16 * (7 + 7))


def test_what_has_no_formula_is_named():
    flops = count_flops(nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4)))
    assert (flops.dense, flops.uncounted) == (0, {"weight": "aten._trilinear"})
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    flops = count_flops(normed, torch.randn(1, 3))  # its weight is computed each time: no parameter owns the product
    assert (flops.other, flops.uncounted) == ({"aten.addmm": 24}, {})
    looked_up = count_flops(nn.EmbeddingBag(10, 3), torch.tensor([[1, 2]]))
    assert (looked_up.dense, looked_up.uncounted) == (0, {})


def test_the_report_shows_both_figures():
    model = conv_net()
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).finalize()
    report = ow.report(model, example=torch.randn(1, 2, 6, 6))
    assert [layer.flops for layer in report.layers] == [(2 * 16 * 72, 16 * 72), (1280, 640), (100, 50)]
    plain = report.to_dict()["flops"]
    assert (plain["dense"], plain["sparse"]) == (3684, 1842)
    assert "multiply-add = 2 FLOPs" in plain["convention"]
    assert "3,684 FLOPs for the example, 1,842 without zero weights (simulated; a multiply-add is 2)" in str(report)
    assert ow.report(model).to_dict()["flops"]["reason"].startswith("not counted: pass report(model, example=")
    assert ow.report(model, example={"input": torch.randn(1, 2, 6, 6)}).flops == report.flops


class Writes(nn.Module):
    """A model that writes to its input, counts its calls and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x.sub_(1) + 0 * torch.rand(4))


def test_model_example_and_generators_are_afterwards_what_they_were():
    model, x, drawn = Writes(), torch.zeros(3, 4), torch.get_rng_state()
    assert count_flops(model, x).dense == 48
    assert int(model.calls) == 0
    assert torch.equal(x, torch.zeros(3, 4))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())


def test_a_tensor_that_is_given_twice_is_one_tensor():
    seen = []
    count_flops(Pair(seen), (x := torch.randn(2, 4), x))
    assert seen == [True]


class Pair(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, query, key):
        self.seen.append(query is key)
        return query @ key.T
