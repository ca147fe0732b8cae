"""Parameters that Adam moves without masking their gradients, beside the same models with torch's own step."""

import copy

import pytest
import torch

import openwork as ow
from openwork.study.fleet.optimizers import StackedOptimizer
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from tests.study.small_fleets import PRUNE, STEPS, Small, assert_close, runs
from tests.study.test_fused_linears import begun

TECHNIQUES = {
    "magnitude": PRUNE,
    "values that are lost": ow.SET(ow.Constant(0.5, every=2, stop=6)),
    "gradients as evidence": ow.RigL(ow.Constant(0.5, every=2, stop=6)),
    "masks before the first step": ow.RandomPruning(ow.OneShot(0.7)),
}


def trained(runs, *, taken, steps=STEPS, lives=None, **settings):
    """A training whose parameters `Adam` moves on a CPU, too, if they are to be taken."""
    training = Training(lives or [prepare(run, torch.device("cpu")) for run in runs], **settings)
    if taken:
        training._take_parameters()
    for batch, _ in zip(training.batches(), range(steps), strict=False):
        training.step(batch)
    return training


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("kind", ["plain", "tied", "frozen", "convolution"])
def test_models_are_trained_as_with_masked_gradients(kind, technique):
    usual, direct = (trained(runs(Small(kind), TECHNIQUES[technique]), taken=taken) for taken in (False, True))
    assert direct._adam.names == direct.stack.parameters.keys()
    assert not usual._adam.names
    assert_close(usual, direct)
    for name, mask in direct.mechanism.masks.items():
        assert torch.equal(mask, usual.mechanism.masks[name])
        assert not mask.all()
        assert not direct.stack.parameters[name][~mask].any()


def test_the_gradients_of_masked_weights_are_left_as_they_are():
    usual, direct = (trained(runs(Small(), PRUNE), taken=taken) for taken in (False, True))
    masked = ~direct.mechanism.masks["0.weight"]
    assert direct._gradients["0.weight"][masked].any()
    assert not usual._gradients["0.weight"][masked].any()


def test_members_have_their_own_rates_and_decay():
    def optimizer(parameters, lr):
        return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)

    given = runs(Small(optimizers=optimizer), PRUNE, (0.01, 0.03, 0.1))
    usual, direct = (trained(given, taken=taken) for taken in (False, True))
    assert direct._adam.names
    assert_close(usual, direct)


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_states_are_those_of_torchs_adam_and_runs_resume_from_them(kind):
    whole, usual = (trained(runs(Small(kind), PRUNE), taken=taken) for taken in (True, False))
    for one, other in zip(usual.states(), whole.states(), strict=True):
        assert one["state"].keys() == other["state"].keys()
        for place, state in one["state"].items():
            assert float(state["step"]) == float(other["state"][place]["step"]) == STEPS
            assert torch.allclose(state["exp_avg_sq"], other["state"][place]["exp_avg_sq"], rtol=1e-3, atol=1e-6)
    half = trained(runs(Small(kind), PRUNE), taken=True, steps=4)
    for taken in (False, True):
        lives = [prepare(run, torch.device("cpu")) for run in runs(Small(kind), PRUNE)]
        for live, before in zip(lives, half.stack.lives, strict=True):
            live.model.load_state_dict(before.model.state_dict())
            before.sparsifier.count_to(4)
            live.sparsifier.load_state_dict(before.sparsifier.state_dict())
        states = copy.deepcopy(half.states())
        resumed = trained((), taken=taken, steps=4, lives=lives, start=4, optimizers=states)
        assert_close(whole, resumed)


@pytest.mark.parametrize(
    "technique",
    [
        None,
        ow.GradualMagnitude(ow.OneShot(0.5, at=2), hidden="trained"),
        ow.DynamicSurgery(ow.OneShot(0.5, at=2)),
        ow.L0(ow.Constant(1e-3)),
        ow.VariationalDropout(ow.Constant(1e-3)),
    ],
    ids=["dense", "hidden values that are trained", "dense gradients", "gates", "variances"],
)
def test_models_without_masks_and_with_values_under_them_are_trained_as_ever(technique):
    usual, direct = (trained(runs(Small(), technique), taken=taken) for taken in (False, True))
    assert direct._adam.names == direct.stack.parameters.keys()
    assert_close(usual, direct)
    for name in direct.mechanism.masks if technique else ():
        assert torch.equal(direct.mechanism.masks[name], usual.mechanism.masks[name])


def test_layers_that_are_trained_without_gradients_are_left_to_them():
    training = begun([prepare(run, torch.device("cpu")) for run in runs(Small("convolution"), PRUNE)], "ieee")
    training._take_parameters()
    assert training._adam.names
    assert not training._adam.names & training._fused.names
    for batch, _ in zip(training.batches(), range(STEPS), strict=False):
        training.step(batch)
    assert_close(trained(runs(Small("convolution"), PRUNE), taken=False), training)


@pytest.mark.parametrize(("optimizer", "moves"), [(torch.optim.AdamW, True), (torch.optim.Adagrad, False)])
def test_a_loaded_count_of_steps_lies_where_the_optimizer_looks_for_it(optimizer, moves):
    training = trained(runs(Small(optimizers=optimizer)), taken=False, steps=2)
    elsewhere = {name: tensor.to("meta") for name, tensor in training.stack.parameters.items()}
    resumed = StackedOptimizer(training.stack.lives, slice(0, 3), elsewhere)
    resumed.load(training.states())
    steps = {state["step"].device.type for state in resumed.optimizer.state.values()}
    assert steps == {"meta" if moves else "cpu"}


def test_another_optimizer_keeps_its_parameters():
    assert not trained(runs(Small(optimizers=torch.optim.AdamW), PRUNE), taken=True, steps=1)._adam.names


def test_an_optimizer_of_other_tensors_is_refused():
    def optimizer(parameters, lr):
        return torch.optim.Adam([*parameters, torch.zeros(1, requires_grad=True)], lr=lr)

    with pytest.raises(ValueError, match="the optimizer of small trains a tensor that is not the model's"):
        trained(runs(Small(optimizers=optimizer), PRUNE), taken=False)


def test_a_member_of_nan_leaves_the_others_as_they_are_bit_by_bit():
    clean, spoilt = (trained(runs(Small(), PRUNE), taken=True, steps=0) for _ in range(2))
    with torch.no_grad():
        spoilt.stack.parameters["0.weight"][1] = float("nan")
    for training in (clean, spoilt):
        for batch, _ in zip(training.batches(), range(STEPS), strict=False):
            training.step(batch)
    for name, tensor in clean.stack.parameters.items():
        assert torch.equal(tensor[::2], spoilt.stack.parameters[name][::2])
