import pytest
import torch
from torch import nn

import openwork as ow
from openwork.inference.permute import rules
from openwork.inference.permute.assignment import best_assignment
from openwork.inference.permute.moving import same

pytestmark = pytest.mark.usefixtures("operators_collected_once")


def technique(n=2, m=4):
    return ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m))


def two_layers(second, *, between=()):
    """A hidden layer that nothing constrains, and a layer that reads it with these weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, second.shape[1]), *between, nn.ReLU(), nn.Linear(*reversed(second.shape)))
    with torch.no_grad():
        net[-1].weight.copy_(second)
    return net


def networks():
    torch.manual_seed(0)
    image = nn.Sequential(
        nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(24, 8),
    )  # fmt: skip
    sentence = nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 8)
    )
    return [(image, torch.randn(2, 4, 8, 8)), (sentence, torch.randn(2, 5, 8))]


def test_the_best_of_eight_inputs_get_two_in_each_group():
    net = two_layers(torch.tensor([[10.0, 10, 10, 10, 1, 1, 1, 1]]))
    x = torch.randn(4, 3)
    before = net(x)
    found = ow.permute(net, x, technique(), select="2")
    assert (found.before, found.now) == (pytest.approx(22 / 44), pytest.approx(40 / 44))
    assert found.groups[0].channels == (8,)
    assert sorted(net[-1].weight[0].tolist()) == [1, 1, 1, 1, 10, 10, 10, 10]
    torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (6, 8), (1, 4), (1, 2)])
def test_the_mask_keeps_what_the_report_says_and_more_than_before(n, m):
    for net, x in networks():
        before = net.eval()(x)
        found = ow.permute(net, x, technique(n, m), seconds=5)
        torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-6)
        weights = {name for group in found.groups for name in group.kept} | set(found.others)
        parameters = dict(net.named_parameters())
        dense = sum(float(parameters[name].detach().abs().sum()) for name in weights)
        ow.prune(net, technique(n, m))
        kept = sum(float(parameters[name].detach().abs().sum()) for name in weights) / dense
        assert kept == pytest.approx(found.now, abs=1e-6)
        assert found.now > found.before + 0.002
        assert all(group.now >= group.before for group in found.groups)


def test_the_scores_of_any_technique_decide():
    net, x = networks()[1]
    net.eval()
    with torch.no_grad():
        net[1].linear1.weight[:16] *= 20  # so inputs of linear2 differ in size
    wanda = ow.Wanda(ow.OneShot(0.5), pattern=ow.NM(2, 4))
    settings = {"select": ["1.linear1", "1.linear2", "2"], "calibrate": lambda model: model(x), "seconds": 5}
    found = ow.permute(net, x, wanda, **settings)
    again = ow.permute(net, x, wanda, **settings)
    assert found.now > found.before + 0.01
    assert again.before == pytest.approx(found.now, abs=1e-5)  # inputs are permuted with the weights that they meet


def test_an_order_depends_on_the_seed_alone():
    def order(seed):
        net, x = networks()[0]
        torch.manual_seed(seed + 5)
        ow.permute(net, x, technique(), seed=seed)
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))


def test_a_second_search_finds_nothing_worse():
    net, x = networks()[0]
    first = ow.permute(net, x, technique())
    second = ow.permute(net, x, technique(), seed=1)
    assert second.now >= second.before == pytest.approx(first.now)


def test_modules_flags_buffers_and_generators_are_kept():
    net, x = networks()[0]
    net.train()
    net[1].eval()
    net(x)
    net[1].running_mean.copy_(torch.arange(16.0))
    parameters, state = list(map(id, net.parameters())), torch.get_rng_state()
    ow.permute(net, x, technique())
    assert [module.training for module in net] == [True, False, *[True] * 6]
    assert sorted(net[1].running_mean.tolist()) == list(range(16))
    assert net[1].running_mean.tolist() != list(range(16))
    assert list(map(id, net.parameters())) == parameters
    assert torch.equal(torch.get_rng_state(), state)


def test_without_time_all_stays_and_the_report_says_so():
    net, x = networks()[0]
    before = [parameter.clone() for parameter in net.parameters()]
    found = ow.permute(net, x, technique(), seconds=1e-9)
    assert not found.complete
    assert "give it more seconds" in str(found)
    assert all(map(torch.equal, net.parameters(), before))


def test_channels_whose_order_matters_after_all_are_put_back(monkeypatch):
    class Rolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.third(self.second(self.first(x).roll(1, -1)).relu())

    torch.manual_seed(0)
    net, x = Rolled(), torch.randn(4, 3)
    expected, first = net(x), net.first.weight.detach().clone()
    monkeypatch.setitem(rules.RULES, "roll", same)  # a wrong rule
    found = ow.permute(net, x, technique())
    torch.testing.assert_close(net(x), expected)
    assert torch.equal(net.first.weight, first)
    by_name = {name: group for group in found.groups for name in group.kept}
    assert by_name["second.weight"].now == by_name["second.weight"].before
    assert by_name["third.weight"].now > by_name["third.weight"].before


def test_what_the_example_does_not_read_is_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.extra = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.first(x)) if not self.training else self.extra(self.first(x))

    found = ow.permute(Auxiliary(), torch.randn(2, 3), technique(), select=["last"])
    assert found.unread == ("extra.weight", "extra.bias")
    assert "not read for the example, and in the old order: extra.weight, extra.bias" in str(found)


def test_flattened_maps_count_where_their_places_mix_channels():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(24, 4))  # 4 places: each group is one channel's
    mixed = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(24, 4))  # 3 places: a group has two of one
    assert not ow.permute(whole, torch.randn(2, 3, 2, 2), technique(), select="2").groups
    assert not ow.permute(mixed, torch.randn(2, 3, 3, 1), technique(), select="2").groups

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Linear(24, 4)

        def forward(self, x):
            return self.second(self.first(x).permute(0, 2, 3, 1).flatten(1))

    net, x = Last(), torch.randn(2, 3, 3, 1)
    expected = net(x)
    found = ow.permute(net, x, technique(), select="second")
    torch.testing.assert_close(net(x), expected)
    assert found.now > found.before + 0.005


def test_the_report_is_a_table_and_plain_values():
    net, x = networks()[1]
    found = ow.permute(net, x, technique(), select=ow.matching("1.*"))
    first, head, *rows = str(found).splitlines()
    assert first.startswith("NM(n=2, m=4) keeps ")
    assert head.split() == ["channels", "before", "now", "read", "by"]
    assert any(row.split()[:3] == ["2", "x", "8"] and row.endswith("1.self_attn.out_proj.weight") for row in rows)
    assert found.to_dict()["pattern"] == [2, 4]
    assert [group["channels"] for group in found.to_dict()["groups"]] == [[16], [8, 8], [32]]


def refused(error, match, net, *arguments, **settings):
    before = [parameter.detach().clone() for parameter in net.parameters()]
    with pytest.raises(error, match=match) as raised:
        ow.permute(net, *arguments, **settings)
    assert all(map(torch.equal, net.parameters(), before))
    assert "\n" not in str(raised.value)


def test_what_cannot_be_permuted_is_refused_in_one_sentence():
    net, x = networks()[0]
    refused(TypeError, r"takes the technique that will prune, such as .*, got NM\(n=2, m=4\)", net, x, ow.NM(2, 4))
    refused(ValueError, r"give it pattern=NM\(2, 4\)", net, x, ow.GradualMagnitude(ow.OneShot(0.5)))
    refused(ValueError, "seconds must be a number above 0, got -1", net, x, technique(), seconds=-1)
    refused(ValueError, "the model does not take this example", net, torch.randn(2, 3), technique())
    refused(ValueError, "5 does not divide its 4 inputs", net, x, technique(1, 5), select="0")
    refused(ValueError, "pass calibrate=lambda", net, x, ow.Wanda(ow.OneShot(0.5), pattern=ow.NM(2, 4)))
    held = ow.sparsify(net, technique())
    refused(ValueError, "still being sparsified; .*permute its finalized_copy", net, x, technique())
    held.finalize()


def test_a_model_that_decides_by_values_is_refused():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    refused(ValueError, "permute the parts of the model that it can follow", Decides(), torch.ones(2, 4), technique())


def test_an_assignment_is_the_best_of_all():
    from itertools import permutations

    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5):
        for ties in (False, True):
            value = torch.rand(size, size, generator=generator, dtype=torch.float64)
            value = (value * 3).round() if ties else value
            found = best_assignment(value.numpy())
            best = max(
                sum(float(value[row, column]) for row, column in enumerate(p)) for p in permutations(range(size))
            )
            assert sorted(found.tolist()) == list(range(size))
            assert sum(float(value[row, column]) for row, column in enumerate(found)) == pytest.approx(best)
