import pytest
import torch
from torch import nn

from openwork.core.selection import find_weights, weight_matrices
from openwork.study.models.resnet import Bottleneck, ResNet, from_hugging_face, to_hugging_face


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def resnet50() -> ResNet:
    return ResNet()


def test_resnet50_has_the_papers_parameters(resnet50):
    weights, _ = find_weights(resnet50, weight_matrices)
    sizes = [weight.parameter.numel() for weight in weights]
    assert count(resnet50) == 25_557_032
    assert (len(sizes), sum(sizes)) == (54, 25_502_912)
    assert f"{sum(sizes) / count(resnet50):.2%}" == "99.79%"
    assert (weights[0].name, sizes[0]) == ("conv1.weight", 9_408)
    assert sizes[-1] == 2_048_000


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (101, 44_549_160)])
def test_other_depths_have_torchvisions_parameters(depth, parameters):
    with torch.device("meta"):
        assert count(ResNet(depth)) == parameters


def test_width_multiplies_channels_and_the_stem_divides_the_resolution_by_four():
    model = ResNet(18, 0.25, 10)
    assert model.conv1.weight.shape == (16, 3, 7, 7)
    assert model.layer4[-1].conv2.weight.shape == (128, 128, 3, 3)
    shapes = []
    model.layer1.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert shapes == [(2, 16, 16, 16)]


def test_the_stride_sits_on_the_3x3_convolution_and_the_projection(resnet50):
    strides = {name: m.stride[0] for name, m in resnet50.named_modules() if isinstance(m, nn.Conv2d)}
    assert {name for name, stride in strides.items() if stride == 2} == {
        "conv1",
        *(f"layer{n}.0.{part}" for n in (2, 3, 4) for part in ("conv2", "downsample.0")),
    }
    assert resnet50.layer1[0].downsample is not None  # the channels change, not the resolution


def test_norms_and_initial_values(resnet50):
    norms = [m for m in resnet50.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}  # torch's momentum is 1 - TensorFlow's
    zero = {name for name, m in resnet50.named_modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.any()}
    assert zero == {f"{n}.bn3" for n, m in resnet50.named_modules() if isinstance(m, Bottleneck)}
    weight = resnet50.layer3[0].conv2.weight.detach()  # 256 · 9 inputs
    std = 2304**-0.5
    assert float(weight.std()) == pytest.approx(std, rel=0.01)  # n = 589,824: 10 sigma
    assert float(weight.abs().max()) <= 2 * std / 0.8796 + 1e-6
    assert float(resnet50.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert not resnet50.fc.bias.any()


def test_a_block_starts_as_its_shortcut():
    block = Bottleneck(64, 16, stride=1)
    nn.init.zeros_(block.last_norm.weight)
    x = torch.rand(2, 64, 4, 4)
    assert torch.equal(block(x), x)


def test_hugging_faces_names_and_network_are_ours_both_ways():
    from transformers import ResNetConfig, ResNetForImageClassification

    for depth, kind in ((50, "bottleneck"), (18, "basic")):
        sizes = [256, 512, 1024, 2048] if depth == 50 else [64, 128, 256, 512]
        blocks = [3, 4, 6, 3] if depth == 50 else [2, 2, 2, 2]
        config = ResNetConfig(hidden_sizes=sizes, depths=blocks, layer_type=kind, num_labels=1000)
        theirs, ours = ResNetForImageClassification(config).eval(), ResNet(depth).eval()
        shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
        ours.load_state_dict(from_hugging_face(theirs.state_dict()))
        assert {name: t.shape for name, t in to_hugging_face(ours.state_dict()).items()} == shapes
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(ours(x), theirs(x).logits)


def test_torchvisions_names_are_ours_and_wrappers_prefixes_go(resnet50):
    state = resnet50.state_dict()
    # torchvision.models.resnet50, some of its keys
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.bias", "layer4.2.bn3.weight", "fc.bias"} <= {
        *state
    }
    assert from_hugging_face(state).keys() == state.keys()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    assert from_hugging_face(wrapped).keys() == state.keys()


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, 101, 152, 200, got 20"):
        ResNet(20)
    with pytest.raises(ValueError, match=r"width must give the stem a channel, got 0\.01"):
        ResNet(width=0.01)
