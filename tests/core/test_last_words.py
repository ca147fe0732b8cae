"""What finalize warns of: unfinished schedules, forgotten calls, empty layers and dead paths."""

import gc
import warnings

import pytest
import torch
from torch import nn

import openwork as ow

CUBIC = ow.Cubic(0.9, end=100, every=10)
ONE = ow.OneShot(0.99)


def steps(model, optimizer, count, *, penalty=None):
    for _ in range(count):
        loss = model(torch.randn(8, 16)).pow(2).mean()
        (loss if penalty is None else loss + penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()


def said(sparsifier):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sparsifier.finalize()
    assert all(one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


def started(technique, **attach):
    torch.manual_seed(0)
    model = nn.Linear(16, 64)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, sparsifier.attach(optimizer, **attach), optimizer


@pytest.mark.parametrize(("end", "count"), [(100, 100), (100, 300)])
def test_a_finished_training_is_silent(end, count):
    model, sparsifier, optimizer = started(ow.GradualMagnitude(ow.Cubic(0.9, end=end, every=10)))
    steps(model, optimizer, count)
    assert said(sparsifier) == []


@pytest.mark.parametrize("count", [100, 120])
def test_an_averaged_schedule_is_finished_at_its_end_though_its_average_is_not_its_final_value(count):
    model, sparsifier, optimizer = started(ow.GradualMagnitude(ow.AveragedCubic(0.9, end=100, every=10)))
    steps(model, optimizer, count)
    assert said(sparsifier) == []


@torch.no_grad()
def swap_averages_in_and_out(model):
    model.eval()
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in ("validation", "test", "another test"):
        model.load_state_dict({name: 0.9 * tensor for name, tensor in trained.items()})
        model.load_state_dict(trained)


@torch.no_grad()
def average_checkpoints(model):
    one = [parameter.clone() for parameter in model.parameters()]
    for parameter, value in zip(model.parameters(), one, strict=True):
        parameter.zero_()
        for _ in range(4):
            parameter.add_(value, alpha=0.25)


@torch.no_grad()
def bound_weights(model):
    for _ in range(3):
        dict(model.named_parameters())["weight"].clamp_(-1, 1).mul_(1.0)


def attack_inputs(model):
    average_checkpoints(model)
    for _ in range(5):  # gradients of the inputs are gradients of the weights as well
        model(torch.randn(8, 16, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("write", [swap_averages_in_and_out, average_checkpoints, bound_weights, attack_inputs])
@pytest.mark.parametrize("technique", [ow.GradualMagnitude(CUBIC), ow.L0(ow.Linear(0.01, end=100))], ids=["mask", "L0"])
def test_code_that_writes_often_to_a_weight_and_takes_no_gradient_between_is_no_other_optimizer(write, technique):
    model, sparsifier, optimizer = started(technique, penalty_gradient=True)
    steps(model, optimizer, 100)
    write(model)
    assert said(sparsifier) == []


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("select", ["0", ["0", "1"]])
def test_an_embedding_whose_forward_rescales_its_weight_is_no_other_optimizer(kind, select):
    torch.manual_seed(0)
    model, ids = nn.Sequential(kind(9, 8, max_norm=0.5), nn.Linear(8, 8)), torch.arange(8).view(4, 2)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.5, end=10, every=5)), select=select)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for step in range(16):  # the last six take gradients alone, as an estimate of the Fisher information does
        model(ids).pow(2).mean().backward()
        if step < 10:
            optimizer.step()
    assert said(sparsifier) == []


def test_training_that_ends_before_the_schedule():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(ow.Linear(0.8, end=100, every=25)))
    steps(model, optimizer, 74)
    assert said(sparsifier) == [
        "GradualMagnitude stopped at 0.4 of a schedule up to 0.8: it saw 74 steps; train on, or choose a schedule that "
        "ends earlier"
    ]


def test_a_coefficient_that_has_not_come_to_its_end():
    model, sparsifier, optimizer = started(ow.L0(ow.Linear(0.01, end=100)))
    steps(model, optimizer, 50, penalty=sparsifier.penalty)
    assert said(sparsifier) == [
        "L0 stopped at 0.005 of a schedule up to 0.01: it saw 50 steps; train on, or choose a schedule that ends "
        "earlier"
    ]


def test_attach_that_was_forgotten():
    model = nn.Linear(16, 64)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(CUBIC))
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 5)
    (sentence,) = said(sparsifier)
    assert "stopped at 0 of a schedule up to 0.9: it saw no step, since no optimizer was attached; call att" in sentence


def test_an_attached_optimizer_that_made_no_step():
    _, sparsifier, _ = started(ow.GradualMagnitude(CUBIC))
    (sentence,) = said(sparsifier)
    assert "SGD, which is attached, made no step" in sentence


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(CUBIC), ow.L0(ow.Linear(0.01, end=100))], ids=["mask", "L0"])
def test_an_optimizer_that_was_made_anew(technique):
    model, sparsifier, optimizer = started(technique)
    steps(model, optimizer, 20, penalty=sparsifier.penalty)
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 30, penalty=sparsifier.penalty)
    (sentence,) = said(sparsifier)
    assert "since the last of the 20 steps that it saw, other code wrote 30 times to weight" in sentence
    assert sentence.endswith("attach the optimizer that trains the model")


def test_another_optimizer_after_the_end_of_the_schedule():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(CUBIC))
    steps(model, optimizer, 100)
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 30)
    (sentence,) = said(sparsifier)
    assert sentence.startswith("since the last of the 100 steps that GradualMagnitude saw, other code wrote 30 times")


def test_loading_the_best_state_at_the_end_is_no_training():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(CUBIC))
    steps(model, optimizer, 110)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps(model, optimizer, 10)
    model.load_state_dict(best)
    assert said(sparsifier) == []


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(1e-3)), ow.L0(ow.Constant(1e-3))], ids=repr)
def test_a_penalty_that_nothing_took(technique):
    model, sparsifier, optimizer = started(technique)
    steps(model, optimizer, 3)
    (sentence,) = said(sparsifier)
    assert f"nothing took the penalty of {type(technique).__name__}" in sentence
    assert "sparsifier.penalty()" in sentence


@pytest.mark.parametrize("how", ["loss", "optimizer", "no training", "loaded"])
def test_a_penalty_that_was_taken_or_not_needed(how):
    technique = ow.VariationalDropout(ow.Constant(1e-3))
    model, sparsifier, optimizer = started(technique, penalty_gradient=how == "optimizer")
    if how != "no training":
        steps(model, optimizer, 3, penalty=sparsifier.penalty if how != "optimizer" else None)
    if how == "loaded":  # as for an evaluation in another process
        saved, state = model.state_dict(), sparsifier.state_dict()
        model, sparsifier, _ = started(technique)
        model.load_state_dict(saved)
        sparsifier.load_state_dict(state)
    assert said(sparsifier) == []


def test_a_state_from_elsewhere_is_finished_if_its_steps_are():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(CUBIC))
    steps(model, optimizer, 50)
    half = sparsifier.state_dict()
    steps(model, optimizer, 50)
    whole, weights = sparsifier.state_dict(), model.state_dict()
    for state, remarks in ((half, 1), (whole, 0)):
        model, sparsifier, _ = started(ow.GradualMagnitude(CUBIC))
        sparsifier.load_state_dict(state)
        model.load_state_dict(weights)
        assert len([one for one in said(sparsifier) if "stopped at" in one]) == remarks


def test_a_copy_for_evaluation_says_nothing():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(CUBIC))
    steps(model, optimizer, 20)
    sparsifier.finalized_copy()


def test_a_warning_that_is_an_error_changes_nothing():
    model, sparsifier, optimizer = started(ow.GradualMagnitude(CUBIC))
    steps(model, optimizer, 20)
    before = model.weight.detach().clone()
    with pytest.raises(UserWarning, match="stopped at"):
        sparsifier.finalize()
    assert torch.equal(model.weight, before)
    steps(model, optimizer, 80)
    assert sparsifier.steps == 100
    assert said(sparsifier) == []


def chain(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def test_an_emptied_layer_is_named_at_the_update_and_at_the_end():
    model = chain(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.99, at=2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    steps(model, optimizer, 1)
    with pytest.warns(UserWarning, match=r"2.weight keeps no weight.*PerLayer, or .*excluding\('2.weight'\)"):
        steps(model, optimizer, 1)
    steps(model, optimizer, 1)
    assert [sentence.split()[0] for sentence in said(sparsifier)] == ["2.weight"]


def test_a_random_layer_without_a_weight_is_named():
    model, sparsifier, _ = started(ow.VariationalDropout(ow.Constant(1e-3)))
    with torch.no_grad():
        model.reparam.weight.log_sigma2.fill_(10.0)
    (sentence,) = said(sparsifier)
    assert sentence.startswith("weight keeps no weight, so its outputs do not depend on its inputs; lower the coeffici")


@pytest.mark.parametrize(
    "model",
    [
        lambda: chain(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1)),
        lambda: chain(nn.Sequential(nn.Linear(16, 64), nn.Tanh()), nn.Dropout(0.1), nn.Sequential(nn.Linear(64, 1))),
        lambda: chain(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 1)),
        lambda: chain(nn.ConvTranspose1d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv1d(12, 8, 1, groups=4)),
    ],
    ids=["linear", "nested", "convolution", "groups"],
)
def test_a_path_is_dead_where_kept_weights_do_not_meet(model):
    alive, dead = model(), model()
    for made in (alive, dead):
        first, second = (p for p in made.parameters() if p.dim() > 1)
        features = 4 if first.dim() == 4 else 1  # that Flatten makes of a channel
        with torch.no_grad():
            first.zero_()[0, 0] = 1.0  # one output depends on the input
            second.zero_()[0, slice(features) if made is alive else slice(features, None)] = 1.0
    keep = ow.GradualMagnitude(ow.Constant(0.0))
    ow.sparsify(alive, keep, keep_zeros=True)
    with pytest.warns(UserWarning, match="keeps weights only for inputs that the layers before it cut off"):
        ow.sparsify(dead, keep, keep_zeros=True)


@pytest.mark.parametrize("between", [nn.LayerNorm(64), nn.Softmax(-1), nn.GLU(), nn.Unflatten(1, (8, 8))], ids=repr)
def test_modules_that_mix_features_keep_a_path_alive(between):
    model = chain(nn.Linear(16, 64), between, nn.Linear(8 if isinstance(between, nn.Unflatten) else 32, 1))
    if isinstance(between, nn.LayerNorm | nn.Softmax):
        model[2] = nn.Linear(64, 1)
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[2].weight[0, 0] = 0
    ow.sparsify(model, ow.GradualMagnitude(ow.Constant(0.0)), keep_zeros=True)


@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.ERK(), ow.GlobalRanking()], ids=repr)
def test_a_model_that_has_become_constant_is_said_to_be(allocation):
    model = chain(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    with pytest.warns(UserWarning, match=r"2.weight .*do not depend on"):
        ow.sparsify(model, ow.GradualMagnitude(ONE, allocation=allocation))
    assert model(torch.randn(50, 20)).std() == 0


@pytest.mark.parametrize("end", ["finalized", "abandoned"])
def test_what_watches_a_weight_goes_with_the_sparsifier(end):
    model = nn.Linear(16, 64)
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(1e-3)))
    mean = dict(model.named_parameters())["weight"]
    assert len(mean._post_accumulate_grad_hooks) == 1
    if end == "finalized":
        sparsifier.finalize()
    del sparsifier
    gc.collect()
    assert len(mean._post_accumulate_grad_hooks) == 0
