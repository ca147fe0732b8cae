import itertools

import pytest
import torch
from torch import nn

from openwork.core.selection import find_weights, matching
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100
from openwork.study.models.vgg import VggLike
from openwork.study.models.wide_resnet import Block, WideResNet


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_lenet_300_100_has_266610_parameters():
    # 784·300 + 300, 300·100 + 100, 100·10 + 10
    assert parameters(LeNet300100()) == 235_500 + 30_100 + 1_010 == 266_610


def test_lenet_5_caffe_has_431080_parameters():
    # 20·1·25 + 20, 50·20·25 + 50, 800·500 + 500, 500·10 + 10
    assert parameters(LeNet5Caffe()) == 520 + 25_050 + 400_500 + 5_010 == 431_080


def test_layers_are_named_in_order():
    assert [name for name, _ in LeNet300100().named_children()] == ["fc1", "fc2", "fc3"]
    assert [name for name, _ in LeNet5Caffe().named_children()] == ["conv1", "conv2", "fc1", "fc2"]


def test_other_input_sizes_and_class_counts():
    assert LeNet300100(inputs=64, classes=3)(torch.zeros(5, 1, 8, 8)).shape == (5, 3)
    assert LeNet5Caffe(classes=7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


def test_lenet_300_100_applies_relu_to_the_hidden_layers_only():
    model = LeNet300100(inputs=1, classes=1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.0)
    nn.init.constant_(model.fc1.weight, 1.0)
    nn.init.constant_(model.fc2.weight, 1.0)
    nn.init.constant_(model.fc3.weight, -1.0)
    # 2 in each of 300 units, 600 in each of 100 units, −60,000; a negative input dies in the first ReLU
    assert model(torch.tensor([[2.0], [-2.0]])).tolist() == [[-60_000.0], [0.0]]


def test_lenet_5_caffe_is_its_layers_with_relu_and_pooling():
    torch.manual_seed(0)
    model = LeNet5Caffe()
    twin = nn.Sequential(
        *[model.conv1, nn.ReLU(), nn.MaxPool2d(2), model.conv2, nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Flatten(), model.fc1, nn.ReLU(), model.fc2],
    )
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(model(x), twin(x))


def test_the_vgg_like_network_has_14991946_parameters():
    sizes = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    kernels = [9 * inputs * outputs for inputs, outputs in itertools.pairwise([3, *sizes])]
    # a bias and two parameters of the norm for each channel and each of fc1's 512 units
    expected = sum(kernels) + 3 * sum(sizes) + 512 * 512 + 3 * 512 + 512 * 10 + 10
    assert parameters(VggLike()) == expected == 14_991_946


def test_width_scales_every_layer_of_the_vgg_like_network():
    model = VggLike(0.25, classes=7)
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [16, 16, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128, 128]
    assert (tuple(model.fc1.weight.shape), tuple(model.fc2.weight.shape)) == ((128, 128), (7, 128))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"width must give the first layer a channel, got 0.01"):
        VggLike(0.01)


def test_the_vgg_like_network_drops_out_where_its_authors_do(monkeypatch):
    drawn = []
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training: drawn.append((p, tuple(x.shape[1:]))) or x)
    model = VggLike(0.25, dropout=True)
    model(torch.zeros(2, 3, 32, 32))
    assert drawn == [
        (0.3, (16, 32, 32)), (0.4, (32, 16, 16)), (0.4, (64, 8, 8)), (0.4, (64, 8, 8)),
        *[(0.4, (128, 4, 4))] * 2, *[(0.4, (128, 2, 2))] * 2, (0.5, (128,)),
    ]  # fmt: skip
    assert model.state_dict().keys() == VggLike(0.25).state_dict().keys()


def test_wrn_28_10_has_36479194_parameters():
    with torch.device("meta"):
        assert parameters(WideResNet()) == 36_479_194


def test_wrn_10_1_by_hand():
    # stem; each block: norm1, conv1, norm2, conv2, shortcut; norm and fc
    blocks = [32 + 2304 + 32 + 2304, 32 + 4608 + 64 + 9216 + 512, 64 + 18432 + 128 + 36864 + 2048]
    model = WideResNet(10, 1)
    assert parameters(model) == 432 + sum(blocks) + 128 + 650
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="depth must be 4 plus a multiple of 6, such as 10 or 28, got 12"):
        WideResNet(12)


def test_the_first_convolutions_of_the_blocks_are_found_by_name_and_the_stride_is_on_the_second():
    with torch.device("meta"):
        model = WideResNet()
    weights, _ = find_weights(model, matching("stage*.conv1.weight"))
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    assert [weight.parameter for weight in weights] == [block.conv1.weight for block in blocks]
    assert len(blocks) == 12
    assert {block.conv1.stride for block in blocks} == {(1, 1)}
    assert [block.conv2.stride[0] for block in blocks] == [1] * 4 + [2, 1, 1, 1] * 2
    assert [block.shortcut is not None for block in blocks] == [True, False, False, False] * 3


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    same, wider = Block(4, 4, 1), Block(4, 5, 2)
    for block in (same, wider):
        active = torch.relu(block.norm1(x))
        inside = block.conv2(torch.relu(block.norm2(block.conv1(active))))
        shortcut = x if block is same else nn.functional.conv2d(active, wider.shortcut.weight, stride=2)
        torch.testing.assert_close(block(x), inside + shortcut)
