import torch
from torch import nn

from openwork.study.models.lenet import LeNet5Caffe, LeNet300100


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
