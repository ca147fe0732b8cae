import math

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import conv_net

ALL_BUT_ONE = ow.GradualMagnitude(ow.OneShot(0.75))


def one_layer(*weights: float) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([weights]))
    return layer


def step(optimizer, parameter, gradient):
    """One optimizer step with this gradient, as a backward pass would deliver it."""
    (parameter * torch.tensor([gradient])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_one_shot_pruning_needs_no_optimizer():
    layer = one_layer(1.0, -4.0, 2.0, 3.0)
    ow.sparsify(layer, ALL_BUT_ONE).finalize()
    assert layer.weight.tolist() == [[0.0, -4.0, 0.0, 0.0]]


def test_frozen_values_come_back_as_they_were_when_masked():
    layer = one_layer(1.0, 2.0)
    technique = ow.GradualMagnitude(ow.Constant(0.5, every=2), hidden="frozen")
    sparsifier = ow.sparsify(layer, technique)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    sparsifier.attach(optimizer)
    assert layer.weight.tolist() == [[0.0, 2.0]]
    step(optimizer, layer.weight, [5.0, 0.8])  # 2 - (0.8 + 0.1 * 2) = 1
    assert layer.weight.tolist() == [[0.0, 1.0]]
    step(optimizer, layer.weight, [5.0, 0.0])  # 1 - (0.9 + 0.1) = 0: now 1 > 0, and the masked one returns
    assert layer.weight.tolist() == [[1.0, 0.0]]
    step(optimizer, layer.weight, [0.0, 0.0])  # it came back without momentum: only weight decay moves it
    torch.testing.assert_close(layer.weight.data, torch.tensor([[0.9, 0.0]]))


def test_trained_hidden_values_follow_momentum_and_weight_decay():
    layer = one_layer(1.0, 2.0)
    technique = ow.GradualMagnitude(ow.OneShot(0.5, at=1), hidden="trained")
    sparsifier = ow.sparsify(layer, technique)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5, weight_decay=0.1)
    sparsifier.attach(optimizer)
    raw, momentum = torch.tensor([1.0, 2.0]), torch.zeros(2)
    for number, gradient in enumerate([[1.0, -1.0], [3.0, 1.0], [3.0, 1.0], [3.0, 1.0]]):
        mask = torch.tensor([0.0, 1.0]) if number else torch.ones(2)
        momentum = 0.5 * momentum + torch.tensor(gradient) * mask + 0.1 * raw  # the raw weight decays
        raw = raw - 0.1 * momentum
        step(optimizer, layer.weight, gradient)
        torch.testing.assert_close(layer.weight.data[0], raw * torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(sparsifier.state_dict()["hidden"]["weight"][0, 0], raw[0])
    assert raw[0] < 0.9  # it really moved while it was masked


def test_lost_values_come_back_as_zeros():
    layer = one_layer(1.0, 2.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.Constant(0.5, every=1), hidden="lost"))
    assert sparsifier.state_dict()["hidden"] == {}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    sparsifier.attach(optimizer)
    step(optimizer, layer.weight, [0.0, 2.0])  # 2 - 2 = 0
    assert layer.weight.abs().sum() == 0


def test_gradients_are_masked_before_anybody_sees_them():
    torch.manual_seed(0)  # one model in a hundred has a layer without any gradient
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    model(torch.randn(4, 2, 6, 6)).sum().backward()
    masks = sparsifier.state_dict()["masks"]
    for name, mask in masks.items():
        assert (model.get_parameter(name).grad[~mask] == 0).all()
        assert (model.get_parameter(name).grad[mask] != 0).any()


def test_gradients_written_by_hand_are_masked_in_the_step():
    layer = one_layer(1.0, 4.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5)))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    layer.weight.grad = torch.ones(1, 2)  # no backward, so no hook ran
    sparsifier.mask_gradients()
    assert layer.weight.grad.tolist() == [[0.0, 1.0]]
    layer.weight.grad.add_(1.0)  # somebody adds noise after the mask
    optimizer.step()
    assert layer.weight[0, 0] == 0
    assert optimizer.state[layer.weight]["exp_avg"][0, 0] == 0


def test_weights_written_by_hand_are_masked_after_the_next_step():
    layer = one_layer(1.0, 4.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    step(optimizer, layer.weight, [0.0, 0.0])
    with torch.no_grad():
        layer.weight.fill_(7.0)
    step(optimizer, layer.weight, [0.0, 0.0])
    assert layer.weight.tolist() == [[0.0, 7.0]]


def test_leftover_adam_momentum_does_not_move_a_masked_weight():
    layer = one_layer(1.0, 4.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5, at=3)))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for _ in range(3):
        step(optimizer, layer.weight, [1.0, 1.0])
    assert optimizer.state[layer.weight]["exp_avg"].tolist()[0][0] == 0
    step(optimizer, layer.weight, [1.0, 1.0])
    assert layer.weight[0, 0] == 0


def test_an_optimizer_state_from_before_the_masks_is_cleared_when_loaded():
    layer = one_layer(1.0, 4.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    sparsifier.attach(optimizer)
    step(optimizer, layer.weight, [1.0, 1.0])
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = torch.ones(1, 2)
    optimizer.load_state_dict(state)
    step(optimizer, layer.weight, [1.0, 1.0])
    assert layer.weight[0, 0] == 0


def test_equal_magnitudes_are_pruned_to_the_exact_count():
    model = nn.Linear(10, 10)
    nn.init.constant_(model.weight, 0.3)
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).finalize()
    assert int((model.weight == 0).sum()) == 50
    assert (model.weight == 0).any(1).sum() > 5  # not the last rows only


def test_half_precision_and_moves_after_sparsify():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.8, end=4, every=2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        model(torch.randn(4, 2, 6, 6, dtype=dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    masked = sum(int((~mask).sum()) for mask in sparsifier.masks().values())
    assert masked / 762 == sparsifier.sparsity() == ow.report(model).sparsity > 0.79


def test_an_infinite_gradient_elsewhere_leaves_the_zeros():
    layer = one_layer(1.0, 4.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    step(optimizer, layer.weight, [0.0, math.inf])
    assert layer.weight[0, 0] == 0


def test_an_optimizer_must_own_the_weights():
    model = conv_net()
    sparsifier = ow.sparsify(model, ALL_BUT_ONE)
    optimizer = torch.optim.SGD([model[0].weight, model[5].weight], lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer does not own 3.weight; create it after sparsify"):
        sparsifier.attach(optimizer)
    sparsifier = ow.sparsify(conv_net(), ow.L0(ow.Constant(0.1)))
    optimizer = torch.optim.SGD([w.parameter for w in sparsifier.weights], lr=0.1)
    with pytest.raises(
        ValueError,
        match=r"does not own 0.reparam.weight.log_alpha, 3.reparam.weight.log_alpha, 5.reparam.weight.log_alpha; ",
    ):
        sparsifier.attach(optimizer)


def test_a_weight_of_another_shape_is_refused():
    layer = one_layer(1.0, 2.0)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5)))
    layer.weight = nn.Parameter(torch.ones(2))  # FSDP1 flattens weights, too
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"weight had the shape \(1, 2\) in sparsify and has \(2,\) now"):
        sparsifier.attach(optimizer)
    del layer.weight
    with pytest.raises(ValueError, match="weight is no longer a parameter of the model"):
        sparsifier.attach(optimizer)


def test_attach_detach_and_step():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5, at=2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert sparsifier.attach(optimizer) is sparsifier
    with pytest.raises(ValueError, match="attached already; call detach"):
        sparsifier.attach(optimizer)
    with pytest.raises(ValueError, match=r"counted already; leave step\(\) out"):
        sparsifier.step()
    optimizer.step()
    sparsifier.detach()
    optimizer.step()
    assert (sparsifier.steps, sparsifier.sparsity()) == (1, 0.0)
    sparsifier.step()  # a loop without a torch optimizer
    assert sparsifier.steps == 2
    assert sparsifier.sparsity() == 0.5
    trained = ow.sparsify(conv_net(), ow.GradualMagnitude(ow.OneShot(0.5), hidden="trained"))
    with pytest.raises(ValueError, match="attach the optimizer instead"):
        trained.step()


def test_a_state_of_another_model_is_refused_by_name_and_shape():
    state = ow.sparsify(conv_net(), ALL_BUT_ONE).state_dict()
    sparsifier = ow.sparsify(nn.Sequential(nn.Conv2d(2, 3, 3)), ALL_BUT_ONE)
    with pytest.raises(
        ValueError, match=r"masks do not fit the model: 0.weight is \(4, 2, 3, 3\) in the state and \(3, "
    ):
        sparsifier.load_state_dict(state)
    with pytest.raises(ValueError, match="has format 9, this version reads 3; use the one that saved it"):
        sparsifier.load_state_dict({**state, "format": 9})


def test_a_technique_must_be_an_instance():
    with pytest.raises(TypeError, match="expected a technique such as GradualMagnitude"):
        ow.sparsify(conv_net(), ow.GradualMagnitude)
    with pytest.raises(ValueError, match="hidden must be 'frozen', 'trained' or 'lost', got 'gone'"):
        ow.GradualMagnitude(ow.OneShot(0.5), hidden="gone")


def test_channels_last_weights_are_pruned_by_position():
    model, twin = conv_net(), conv_net()
    twin.load_state_dict(model.state_dict())
    twin = twin.to(memory_format=torch.channels_last)
    for one in (model, twin):
        ow.sparsify(one, ow.GradualMagnitude(ow.OneShot(0.7))).finalize()
    assert torch.equal(model[0].weight, twin[0].weight)


def test_sparse_gradients_leave_the_zeros():
    embedding = nn.Embedding(6, 4, sparse=True)
    sparsifier = ow.sparsify(embedding, ow.GradualMagnitude(ow.OneShot(0.5)))
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for _ in range(3):
        embedding(torch.arange(6)).sum().backward()  # a gradient of 1 for every weight, masked ones too
        optimizer.step()
        optimizer.zero_grad()
        assert int((embedding.weight == 0).sum()) == 12


def test_a_state_without_masks_is_refused():
    sparsifier = ow.sparsify(conv_net(), ALL_BUT_ONE)
    with pytest.raises(ValueError, match="the state holds no masks"):
        sparsifier.load_state_dict({"format": 3, "technique": "GradualMagnitude", "steps": 3})


def trained_keep_zeros(technique, steps: int):
    """The zeros of a half-pruned model before and after training from them."""
    torch.manual_seed(0)
    model = ow.sparsify(conv_net(), ow.GradualMagnitude(ow.OneShot(0.5))).finalize()
    before = {name: p == 0 for name, p in model.named_parameters() if p.dim() > 1}
    sparsifier = ow.sparsify(model, technique, keep_zeros=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    for _ in range(steps):
        model(torch.randn(4, 2, 6, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return sparsifier, before, {name: model.get_parameter(name) == 0 for name in before}


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
def test_a_sparse_model_can_be_fine_tuned_with_its_zeros(hidden):
    sparsifier, before, after = trained_keep_zeros(ow.GradualMagnitude(ow.Constant(0.0, every=1), hidden=hidden), 4)
    assert all(torch.equal(after[name], zeros) for name, zeros in before.items())
    assert sparsifier.sparsity() == 0.5


@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.LAMP(), ow.ERK()])
def test_a_sparse_model_can_be_pruned_further(allocation):
    schedule = ow.Cubic(0.8, end=6, every=1)  # begins below the sparsity that is there
    sparsifier, before, after = trained_keep_zeros(ow.GradualMagnitude(schedule, allocation=allocation), 8)
    assert all((after[name] | ~zeros).all() for name, zeros in before.items())  # no zero came back
    assert sum(int(zeros.sum()) for zeros in after.values()) == 762 - 152  # 0.2 * 762 = 152.4
    assert sparsifier.sparsity() == 610 / 762


def test_keep_zeros_survives_a_checkpoint_and_needs_masks():
    technique = ow.GradualMagnitude(ow.Constant(0.0, every=1))
    sparsifier, before, _ = trained_keep_zeros(technique, 2)
    state = sparsifier.state_dict()
    model = conv_net()
    other = ow.sparsify(model, technique)
    other.load_state_dict(state)
    other.step()  # an update, which must not bring the zeros back
    assert all(torch.equal(model.get_parameter(name) == 0, zeros) for name, zeros in before.items())
    with pytest.raises(ValueError, match="keep_zeros needs masks, and L0 has none"):
        ow.sparsify(conv_net(), ow.L0(ow.Constant(0.1)), keep_zeros=True)
