"""What two processes check about random weights under FSDP2; `test_fsdp.py` starts them.

Noise comes from a key, and sums are in float64: one process and two differ by rounding alone.
"""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.testing import assert_close

import openwork as ow
from tests.core.evidence_checks import CHECKS, Communication, check, everybodys
from tests.core.fsdp_setup import adam, full, net, refused, sgd, shard
from tests.core.random_fsdp_setup import (
    STRENGTH,
    TECHNIQUES,
    SoftThreshold,
    SoftWeight,
    assert_same,
    batch,
    begin,
    counted,
    finalized,
    noise,
    one_by_one,
    tensors,
    train,
)

__all__ = ["CHECKS"]


@check
def random_weights_under_fsdp_are_trained_as_in_one_process(folder):
    for technique in [*TECHNIQUES, ow.STR(-2.0), ow.SRSTE(ow.Constant(0.1))]:
        for optimizer in (sgd, one_by_one) if technique is TECHNIQUES[0] else (adam,):
            results = []
            for order in ("", "before", "after"):
                model, sparsifier, chosen = begin(technique, order, optimizer)
                seen = train(model, sparsifier, chosen, 4)
                assert bool(order) == all(isinstance(p, DTensor) for p in model.parameters())
                results.append((seen, counted(sparsifier), finalized(model, sparsifier)))
            assert_same(results, technique)


def hybrid(shape):
    def apply(model):
        return fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")))

    return apply


def kept_gathered(model):
    fully_shard(model[2], mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=False)


@check
def hybrid_and_partial_sharding_give_the_same(folder):
    for technique in (TECHNIQUES[0], TECHNIQUES[2]):
        results = []
        for order, sharding in (
            ("", None),
            ("after", hybrid((1, 2))),
            ("before", hybrid((2, 1))),
            ("after", kept_gathered),
        ):
            model, sparsifier, optimizer = begin(technique, order, sharding=sharding)
            results.append((train(model, sparsifier, optimizer, 2), finalized(model, sparsifier)))
        assert_same(results, technique)


@check
def the_penalty_takes_one_sum_a_step_and_its_gradient_none(folder):
    sizes = {}
    for technique in TECHNIQUES:
        _, sparsifier, _ = begin(technique, "before")
        with (forward := Communication()):
            penalty = sparsifier.penalty()
        with (backward := Communication()):
            penalty.backward()
        sizes[type(technique).__name__] = forward.sizes, backward.sizes
        values = everybodys(penalty.detach())
        assert torch.equal(*values)
    # What all rows of a weight share is gathered for its process, and its gradients are summed at once.
    assert sizes == {
        "VariationalDropout": ([1], []),
        "L0": ([1], []),
        "GroupL0": ([8 + 16, 1], [8 + 16]),
        "SoftThreshold": ([3, 1], [3]),
    }


@check
def gradients_of_halves_of_batches_that_are_accumulated_scaled_and_clipped_are_those_of_the_whole(folder):
    for technique, order in ((TECHNIQUES[0], "after"), (TECHNIQUES[1], "before"), (TECHNIQUES[2], "after")):
        results = []
        for sharded in ("", order):
            model, sparsifier, _ = begin(technique, sharded, adam)
            for step in range(2):
                if sharded and order == "after":
                    model.set_requires_gradient_sync(step == 1)
                for half in [dist.get_rank()] if sharded else range(2):
                    with noise(step):
                        loss = model(batch(step).chunk(2)[half]).square().mean()
                    halves = 1 if sharded else 2
                    ((loss + sparsifier.penalty()) / 2 / halves * 1024).backward()
            for parameter in model.parameters():
                parameter.grad /= 1024
            norm = full(nn.utils.clip_grad_norm_(model.parameters(), 0.01))
            results.append((norm, tensors((name, p.grad) for name, p in model.named_parameters())))
        assert_same(results, technique)


@check
def each_process_draws_its_own_noise_unless_there_is_a_key_as_under_data_parallel(folder):
    for technique in TECHNIQUES[:2]:
        model, _, _ = begin(technique, "")
        for rank in range(2):
            torch.manual_seed(rank)
            (model(batch(0)).square().mean() / 2).backward()
        gradients = tensors((name, p.grad) for name, p in model.named_parameters())
        for order in ("before", "after"):
            model, _, _ = begin(technique, order)
            torch.manual_seed(dist.get_rank())
            model(batch(0)).square().mean().backward()
            assert_close(tensors((name, p.grad) for name, p in model.named_parameters()), gradients)


@check
def hosts_that_own_the_loss_get_the_penalty_in_the_step_of_each_optimizer(folder):
    for technique in (TECHNIQUES[0], TECHNIQUES[2]):
        results = []
        for order in ("", "before", "after"):
            model = net().double()
            if order == "after":
                shard(model)
            sparsifier = ow.sparsify(model, technique)
            if order == "before":
                shard(model)
            learned = [p for name, p in model.named_parameters() if "reparam" in name]
            means = [p for name, p in model.named_parameters() if "reparam" not in name]
            optimizers = sgd(means), adam(learned)
            sparsifier.attach(*optimizers, penalty_gradient=True)
            for step in range(2):
                with noise(step):
                    model(batch(step)).square().mean().backward()
                for optimizer in optimizers:
                    optimizer.step()
                model.zero_grad()
            results.append((sparsifier.expected_nonzero(), tensors(model.named_parameters())))
        assert_same(results, technique)


class Layers(nn.Module):
    """Every kind of layer that computes with its random weight in a way of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        ids = (x.abs() * 4).long() % 11
        y = self.embedding(ids)
        y = y + self.convolution(y.transpose(1, 2)).transpose(1, 2)
        y = y + self.recurrent(y)[0]
        return self.output(y + self.attention(y, y, y)[0])


def by_layer(model):
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model.convolution, model.recurrent, model.attention):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)  # with the tied weight


@check
def all_kinds_of_layers_compute_under_fsdp_as_in_one_process(folder):
    for technique in TECHNIQUES[:2]:
        results = []
        for order in ("", "before", "after"):
            model, sparsifier, optimizer = begin(technique, order, sgd, by_layer, Layers)
            results.append((train(model, sparsifier, optimizer, 2), finalized(model, sparsifier)))
        assert_same(results, technique)


@check
def in_mixed_precision_distributions_and_penalty_stay_in_float32(folder):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for technique in TECHNIQUES:
        whole = net()
        alone = ow.sparsify(whole, technique)
        for order in ("before", "after"):
            model = net()
            if order == "after":
                shard(model, mp_policy=policy)
            sparsifier = ow.sparsify(model, technique)
            if order == "before":
                shard(model, mp_policy=policy)
            sparsifier.attach(sgd(model.parameters()))
            types = set()
            with recorded(type(sparsifier.mechanism.distributions[0]), types):
                output = model(batch(0).float())
            assert types == {torch.float32}
            assert output.dtype == torch.bfloat16
            penalty = sparsifier.penalty()  # while the root's weights are gathered in bfloat16
            assert_close(penalty, alone.penalty(), rtol=1e-5, atol=1e-6)
            (output.float().square().mean() + penalty).backward()
            assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@contextmanager
def recorded(kind, types):
    """Notes the dtypes of what distributions of a class find in themselves in a forward."""
    plain = kind.forward

    def forward(distribution, op, x, weight, *rest):
        types.update(tensor.dtype for tensor in [weight, *distribution.parameters()])
        return plain(distribution, op, x, weight, *rest)

    kind.forward = forward
    try:
        yield
    finally:
        kind.forward = plain


@check
def a_checkpoint_of_random_weights_resumes_on_shards_and_in_one_process(folder):
    def states(model, sparsifier, optimizer):
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "sparsifier": sparsifier.state_dict()}

    for number, order in enumerate(("before", "after")):
        technique, path = TECHNIQUES[number], folder / f"random-{number}"
        model, sparsifier, optimizer = begin(technique, order, adam)
        train(model, sparsifier, optimizer, 2)
        dcp.save(states(model, sparsifier, optimizer), checkpoint_id=path)
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        steps = sparsifier.state_dict()
        seen = train(model, sparsifier, optimizer, 2, first=2)
        for again in ("before", "after"):
            model, sparsifier, optimizer = begin(technique, again, adam)
            train(model, sparsifier, optimizer, 1, first=9)
            state = states(model, sparsifier, optimizer)
            dcp.load(state, checkpoint_id=path)
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
            sparsifier.load_state_dict(state["sparsifier"])
            assert_close(train(model, sparsifier, optimizer, 2, first=2), seen, rtol=0, atol=0)
        model = net().double()
        sparsifier = ow.sparsify(model, technique)
        if dist.get_rank() == 0:  # the others' whole state is empty
            assert model.load_state_dict(whole).missing_keys == []
            sparsifier.load_state_dict(steps)
            with noise(2):
                assert_close(model(batch(2)).square().mean().detach(), seen[0][0])


@check
def the_penalty_is_right_whatever_is_gathered_and_whether_or_not_an_optimizer_is_attached(folder):
    def lasting(model):
        return fully_shard(model, mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=False)

    whole, alone, _ = begin(TECHNIQUES[1], "")
    with noise(0):
        (whole(batch(0)).square().mean() + alone.penalty()).backward()
    for sharding, attached in ((lasting, True), (lasting, False), (shard, False)):
        model = net().double()
        sparsifier = ow.sparsify(model, TECHNIQUES[1])
        sharding(model)
        if attached:
            sparsifier.attach(sgd(model.parameters()))
        with noise(0):
            loss = model(batch(0)).square().mean()
        penalty = sparsifier.penalty()
        assert_close(penalty, alone.penalty())
        assert sparsifier.expected_nonzero() == pytest.approx(alone.expected_nonzero())
        (loss + penalty).backward()
        for (name, one), two in zip(whole.named_parameters(), model.parameters(), strict=True):
            assert_close(full(two.grad), one.grad, msg=lambda text, name=name: f"{name}\n{text}")


@check
def a_finalized_model_is_fine_tuned_and_made_random_again(folder):
    for order in ("before", "after"):
        results = []
        for sharded in ("", order):
            model, sparsifier, optimizer = begin(TECHNIQUES[3], sharded)
            train(model, sparsifier, optimizer, 1)
            finalized(model, sparsifier)
            model.train()
            again = ow.sparsify(model, ow.GradualMagnitude(ow.Constant(0.0)), keep_zeros=True)
            optimizer = sgd(model.parameters())
            train(model, again.attach(optimizer), optimizer, 2)
            zeros = again.sparsity()
            again.finalize()
            third = ow.sparsify(model, TECHNIQUES[1])
            optimizer = sgd(model.parameters())
            results.append((zeros, train(model, third.attach(optimizer), optimizer, 2)))
        assert_same(results, order)
        assert results[0][0] > 0.3


@check
def what_random_weights_cannot_do_under_fsdp_is_refused_with_the_cure(folder):
    mesh = init_device_mesh("cpu", (2,))

    class Scalar(SoftWeight):
        by_rows = True

        def __init__(self, weight):
            super().__init__(weight)
            self.s = nn.Parameter(self.s[0].detach())

    class Silent(SoftWeight):
        def penalty(self, weight):
            return weight.norm()

    class Made(SoftThreshold):
        def __init__(self, kind):
            super().__init__(STRENGTH)
            object.__setattr__(self, "kind", kind)

        def distribution(self, weight, generator):
            return self.kind(weight)

    def ignoring(model):
        fully_shard(model[0], mesh=mesh, ignored_params={model[0].reparam.weight.log_sigma2})

    def columns(model):
        fully_shard(model[0], mesh=mesh, shard_placement_fn=lambda parameter: Shard(parameter.dim() - 1))

    def everything(model):
        for module in reversed(list(model.modules())):
            if module._parameters:
                fully_shard(module, mesh=mesh)

    shared = ow.SoftWeightSharing(STRENGTH)
    for technique, name in ((shared, "SharedWeight"), (Made(Silent), "Silent")):
        for order in ("before", "after"):
            with refused(f"a {name} needs whole weights; use DistributedDataParallel, or a technique with masks"):
                begin(technique, order, sharding=lambda model: fully_shard(model, mesh=mesh))
    with refused("s of a Scalar has the shape (), which FSDP2 cannot shard; make it (1,)"):
        begin(Made(Scalar), "before")
    for sharding, words in (
        (columns, "use fully_shard without tensor parallelism"),
        (ignoring, "fully_shard holds 0.weight but not its log_sigma2; list both in ignored_params, or neither"),
        (everything, "fully_shard was called on the module that holds log_sigma2 of 0.weight"),
    ):
        with refused(words):
            begin(TECHNIQUES[0], "after", sharding=sharding)
    low = net().bfloat16()
    sparsifier = ow.sparsify(low, TECHNIQUES[0])
    shard(low)
    for use in (sparsifier.penalty, lambda: sparsifier.attach(sgd(low.parameters()))):
        with refused("0.weight is torch.bfloat16 and its log_sigma2 torch.float32, and fully_shard takes one dtype"):
            use()
    _, sparsifier, _ = begin(TECHNIQUES[0], "before")
    with refused("FSDP2 models cannot be copied"):
        sparsifier.finalized_copy()


def compiled_steps_under_fsdp_are_those_of_one_process():
    """For the slow tests: each compilation takes seconds."""
    for technique, order in ((TECHNIQUES[0], "before"), (TECHNIQUES[1], "after"), (TECHNIQUES[2], "after")):
        results = []
        for sharded in ("", order):
            model, sparsifier, optimizer = begin(technique, sharded)

            def loss(x, model=model, sparsifier=sparsifier):
                return model(x).square().mean() + sparsifier.penalty()

            loss = torch.compile(loss, backend="aot_eager") if sharded else loss
            for step in range(2):
                with noise(step):
                    loss(batch(step)).backward()
                optimizer.step()
                optimizer.zero_grad()
            results.append(tensors(model.named_parameters()))
        assert_same(results, technique)
