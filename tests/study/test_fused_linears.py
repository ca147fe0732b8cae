"""Stacked Linear layers that are trained without gradients in memory, beside the same models trained with them."""

import copy

import pytest
import torch
from torch.nn import functional as F

import openwork as ow
from openwork.study.fleet.fused import fused_linears
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from tests.study.small_fleets import MODELS, PRUNE, STEPS, Small, assert_close, runs


def begun(lives, precision, moments=torch.float32, **settings):
    """A training whose layers are fused on a CPU, too, if there is a precision."""
    training = Training(lives, **settings)
    if precision:
        linears = fused_linears(training.stack, training._adam, precision=precision, moments=moments)
        if linears:
            training._fused = linears
            found = {"without": linears.names, "anchor": linears.anchor}
            training._compute = training.stack.gradients(shared=training._shared, **found)
    return training


def trained(runs, precision, steps=STEPS, **settings):
    training = begun([prepare(run, torch.device("cpu")) for run in runs], precision, **settings)
    for batch, _ in zip(training.batches(), range(steps), strict=False):
        training.step(batch)
    return training


def fused(training):
    return training._fused.names if training._fused else frozenset()


@pytest.mark.parametrize("technique", [None, PRUNE], ids=["dense", "masks"])
@pytest.mark.parametrize("kind", MODELS)
def test_models_are_trained_as_with_gradients(kind, technique):
    usual, direct = (trained(runs(Small(kind), technique), precision) for precision in (None, "ieee"))
    assert fused(direct)
    assert_close(usual, direct)
    assert torch.allclose(torch.tensor(usual.losses()), torch.tensor(direct.losses()), rtol=1e-4)
    if technique:
        zeros = usual.mechanism.zeros()
        assert all(torch.equal(count, zeros[name]) for name, count in direct.mechanism.zeros().items())
        assert all(int(count.sum()) for count in zeros.values())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("plain", {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}),
        ("one layer", {"weight", "bias"}),
        ("tied", {"last.weight", "last.bias"}),
        ("convolution", {"4.weight", "4.bias", "5.weight", "5.bias"}),
    ],
)
def test_layers_with_parameters_of_their_own_are_fused(kind, names):
    assert fused(trained(runs(Small(kind)), "ieee", steps=0)) == names


@pytest.mark.parametrize(
    "technique",
    [
        ow.GradualMagnitude(ow.OneShot(0.5), hidden="trained"),
        ow.RigL(ow.Constant(0.5, every=2, stop=6)),
        ow.L0(ow.Constant(1e-3)),
    ],
    ids=["hidden values that are trained", "gradients as evidence", "random weights"],
)
def test_techniques_that_need_gradients_and_random_weights_are_not_fused(technique):
    assert not fused(trained(runs(Small(), technique), "ieee", steps=0))


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW,
        torch.optim.NAdam,
        lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, amsgrad=True),
        lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, maximize=True),
    ],
    ids=["AdamW", "NAdam", "amsgrad", "maximize"],
)
def test_other_optimizers_keep_their_layers(optimizer):
    assert not fused(trained(runs(Small(optimizers=optimizer)), "ieee", steps=0))


def test_settings_of_adam_are_those_of_the_task():
    def optimizer(parameters, lr):
        return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)

    usual, direct = (trained(runs(Small(optimizers=optimizer)), precision) for precision in (None, "ieee"))
    assert fused(direct)
    assert_close(usual, direct)


def test_a_layer_whose_weight_and_bias_decay_differently_is_not_fused():
    def optimizer(parameters, lr):
        weight, bias = parameters
        return torch.optim.Adam([{"params": [weight], "weight_decay": 0.1}, {"params": [bias]}], lr=lr)

    assert not fused(trained(runs(Small("one layer", optimizers=optimizer)), "ieee", steps=0))


def test_members_have_their_own_rates():
    usual, direct = (trained(runs(Small(), PRUNE, (0.01, 0.03, 0.1)), precision) for precision in (None, "ieee"))
    assert_close(usual, direct)


def test_members_may_share_their_batches():
    usual, direct = (trained(runs(Small("convolution", order=3), PRUNE), precision) for precision in (None, "ieee"))
    assert_close(usual, direct)


def test_a_member_of_nan_leaves_the_others_as_they_are_bit_by_bit():
    clean, spoilt = (trained(runs(Small()), "ieee", steps=0) for _ in range(2))
    with torch.no_grad():
        spoilt.stack.parameters["0.weight"][1] = float("nan")
    for training in (clean, spoilt):
        for batch, _ in zip(training.batches(), range(3), strict=False):
            training.step(batch)
    for name, tensor in clean.stack.parameters.items():
        assert torch.equal(tensor[::2], spoilt.stack.parameters[name][::2])


def test_optimizers_keep_the_state_so_that_runs_resume_with_gradients_or_without():
    whole = trained(runs(Small()), "ieee")
    half = trained(runs(Small()), "ieee", steps=4)
    for precision in (None, "ieee"):
        lives = [prepare(run, torch.device("cpu")) for run in runs(Small())]
        for live, model in zip(lives, half.stack.each, strict=True):
            live.model.load_state_dict(model.state_dict())
        training = begun(lives, precision, start=4, optimizers=copy.deepcopy(half.states()))
        for batch, _ in zip(training.batches(), range(4), strict=False):
            training.step(batch)
        assert_close(whole, training)
        if precision:
            assert all(torch.equal(whole.stack.parameters[n], each) for n, each in training.stack.parameters.items())


def test_states_are_those_of_torchs_adam():
    usual, direct = (trained(runs(Small(), PRUNE), precision) for precision in (None, "ieee"))
    for one, other in zip(usual.states(), direct.states(), strict=True):
        assert one["param_groups"] == other["param_groups"]
        for place, state in one["state"].items():
            assert float(state["step"]) == float(other["state"][place]["step"]) == STEPS
            for slot in ("exp_avg", "exp_avg_sq"):
                assert torch.allclose(state[slot], other["state"][place][slot], rtol=1e-3, atol=1e-6)


def test_products_in_bf16_and_moments_in_bf16_train_nearly_alike():
    usual = trained(runs(Small()), None)
    short = trained(runs(Small()), "bf16", moments=torch.bfloat16)
    state = short.states()[0]["state"]
    assert state[0]["exp_avg"].dtype == torch.bfloat16
    assert state[1]["exp_avg"].dtype == torch.float32  # of the bias
    for name, tensor in usual.stack.parameters.items():
        # 8 steps at rates of at most 0.01 go 0.045 far; bfloat16 has 8 bits.
        assert (tensor - short.stack.parameters[name]).abs().mean() < 0.002


@pytest.mark.parametrize(
    ("kind", "precision", "rounding"),
    [("plain", "bf16", torch.bfloat16), ("plain", "tf32", None), ("convolution", "bf16", None)],
)
def test_images_are_rounded_only_where_every_layer_rounds_them(kind, precision, rounding):
    assert trained(runs(Small(kind)), precision, steps=1)._fused.rounding == rounding


def test_images_that_are_rounded_before_train_the_same_models():
    whole, rounded = (trained(runs(Small()), "bf16", steps=0) for _ in range(2))
    rounded._take = lambda batch: (batch[0].bfloat16(), batch[1])
    for training in (whole, rounded):
        for batch, _ in zip(training.batches(), range(3), strict=False):
            training.step(batch)
    for name, tensor in whole.stack.parameters.items():
        assert torch.equal(tensor, rounded.stack.parameters[name])


def test_layers_that_nothing_calls_stay_as_they_are():
    training = trained(runs(Small()), "ieee", steps=0)
    before = {name: tensor.clone() for name, tensor in training.stack.parameters.items()}
    training._fused.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.stack.parameters.items())


def test_models_call_their_own_forward_again_after_a_step():
    training = trained(runs(Small()), "ieee", steps=1)
    model = training.stack.each[0]
    assert "forward" not in vars(model[0])
    assert torch.equal(model[0](torch.ones(12)), F.linear(torch.ones(12), model[0].weight, model[0].bias))


def test_hooks_of_a_layer_are_called_as_ever():
    lives = [prepare(run, torch.device("cpu")) for run in runs(Small())]
    for live in lives:
        live.model[0].register_forward_hook(lambda module, args, y: y * 2)
    assert "0.weight" not in fused(begun(lives, "ieee"))
