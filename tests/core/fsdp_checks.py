"""What two processes check under FSDP2; `test_fsdp.py` starts them."""

import math
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import openwork as ow
from openwork.core.masks.threshold import keep_largest
from openwork.core.precision import exact
from openwork.core.seeding import seeded_generator
from openwork.core.sharded import local, shards_of
from openwork.kernels.select import select_over
from tests.core.fsdp_setup import RAMP, adam, assert_equal, full, net, refused, sgd, shard, start, train
from tests.kernels.select_cases import kth_largest_plain

CHECKS = []


def check(function):
    """Adds a function of the folder that both processes share to what they check."""
    CHECKS.append(function)
    return function


@check
def shards_get_the_masks_and_weights_of_one_process(folder):
    for technique, optimizer, ties in [
        (ow.GradualMagnitude(RAMP), adam, True),
        (ow.GradualMagnitude(RAMP, hidden="trained"), sgd, False),
        (ow.GradualMagnitude(RAMP, hidden="lost"), sgd, True),
        (ow.GradualMagnitude(RAMP, allocation=ow.GlobalRanking()), sgd, False),
        (ow.GradualMagnitude(RAMP, allocation=ow.GlobalRanking()), adam, True),
        (ow.GradualMagnitude(RAMP, allocation=ow.PerLayer({"0": 0.5})), adam, False),
        (ow.GradualMagnitude(ow.Constant(0.6, every=2), allocation=ow.ERK()), adam, False),
        (ow.RandomPruning(ow.Cubic(0.8, end=8, every=2)), adam, False),
    ]:
        what, results = f"{technique} ties={ties}", []
        for sharded in (False, True):
            model = net(ties)
            sparsifier, chosen = start(model, technique, optimizer, sharded)
            train(model, sparsifier, chosen, 10)
            masks, sparsities = sparsifier.masks(), (sparsifier.sparsity(), sparsifier.layer_sparsity())
            assert ow.report(model).sparsity == sparsities[0], what
            results.append((masks, sparsities, sparsifier.finalize().state_dict()))
        plain, parallel = results
        assert_equal(plain[0], parallel[0], what + " masks")
        assert_equal(plain[2], parallel[2], what + " weights")
        assert plain[1] == parallel[1], what
        assert plain[1][0] > 0.59, what
        assert all(isinstance(tensor, DTensor) for tensor in parallel[2].values())


@check
def sharding_before_sparsify_and_hybrid_sharding_give_the_same(folder):
    for technique in (
        ow.GradualMagnitude(RAMP, hidden="trained", allocation=ow.GlobalRanking()),
        ow.RandomPruning(ow.Constant(0.5, every=3)),
    ):
        results = []
        for sharding in (None, (2,), (2, 1), (1, 2)):
            model = net(ties=True)
            if sharding:
                fully_shard(
                    model,
                    mesh=init_device_mesh("cpu", sharding, mesh_dim_names=("replicate", "shard")[-len(sharding) :]),
                )
            sparsifier, optimizer = start(model, technique, sgd, False)
            train(model, sparsifier, optimizer, 7)
            results.append((sparsifier.sparsity(), sparsifier.finalize().state_dict()))
        for sparsity, weights in results[1:]:
            assert sparsity == results[0][0]
            assert_equal(results[0][1], weights, str(technique))


class Communication(TorchDispatchMode):
    """Notes the size of the largest tensor of each communication."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "c10d" in str(func):
            tensors = torch.utils._pytree.tree_leaves((args, kwargs))
            self.sizes.append(max(t.numel() for t in tensors if isinstance(t, torch.Tensor)))
        return func(*args, **(kwargs or {}))


@check
def each_process_keeps_its_own_rows_and_never_gathers_a_weight(folder):
    half = ow.Constant(0.5, every=1)
    communication = Communication()
    for technique in (
        ow.GradualMagnitude(half),
        ow.GradualMagnitude(half, hidden="trained", allocation=ow.GlobalRanking()),
        ow.RandomPruning(half),
    ):
        model = nn.Sequential(nn.Linear(61, 33), nn.ReLU(), nn.Linear(33, 60))
        sparsifier = ow.sparsify(model, technique, keep_zeros=True)
        shard(model)
        optimizer = adam(model.parameters())
        with communication:
            sparsifier.attach(optimizer)
        for _ in range(2):
            model(torch.randn(6, 61)).square().sum().backward()
            with communication:
                optimizer.step()
                optimizer.zero_grad()
                assert abs(sparsifier.sparsity() - 0.5) < 1e-3
                sparsifier.load_state_dict(sparsifier.state_dict())
        mechanism = sparsifier._mechanism
        kept = {part.shape for w in mechanism.weights for part in (w.mask, w.hidden, w.allowed) if part is not None}
        with communication:
            sparsifier.finalize()
        assert kept == {((17, 16)[torch.distributed.get_rank()], 61), (30, 33)}
    assert len(communication.sizes) > 50
    assert max(communication.sizes) == 2 * 256  # both weights' counts of one byte; they have 2_013 and 1_980 elements


@check
def the_kth_largest_over_shards_is_that_of_the_whole(folder):
    mesh = init_device_mesh("cpu", (2,))

    def compare(whole, *ks):
        scores = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
        for k in ks:
            (found,) = select_over([exact(local(scores))], [k], shards_of(scores).add).thresholds
            assert found.dtype == exact(whole).dtype
            assert found == kth_largest_plain(whole.flatten(), k), (whole, k)
            mask = keep_largest(scores, k, seeded_generator(0, 1, "ties"))
            assert mask.placements == scores.placements
            assert torch.equal(full(mask), keep_largest(whole, k, seeded_generator(0, 1, "ties"))), (whole, k)

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((7, 3), (1, 5), (2, 2, 3)):
            draws = torch.randn(shape).to(dtype)
            n = draws.numel()
            compare(draws, 1, 2, n // 2, n)
            compare(torch.full(shape, -2.5, dtype=dtype), 1, n // 2, n)  # ties everywhere
            compare(draws.round(), *range(1, n + 1, 3))  # many ties, zeros of both signs among them
            compare(draws.sign() * torch.finfo(dtype).max, 1, n // 2, n)
            for infinity in (math.inf, -math.inf):
                compare(torch.where(draws > 0, draws, infinity), 1, n // 2, n)
        subnormal = torch.finfo(dtype).smallest_normal / 4
        compare(torch.tensor([[0.0], [-0.0], [subnormal], [-subnormal], [1.0]]).to(dtype), 1, 2, 3, 4, 5)
    scores = distribute_tensor(torch.tensor([1.0, math.nan, 3.0, math.nan]), mesh, [Shard(0)], src_data_rank=None)
    assert full(keep_largest(scores, 3, torch.Generator())).tolist() == [True, False, True, False]
    assert full(keep_largest(scores, 1, torch.Generator())).tolist() == [False, False, True, False]
    assert not full(keep_largest(scores, 0, torch.Generator())).any()


@check
def a_checkpoint_resumes_bit_exactly(folder):
    def states(model, sparsifier, optimizer):
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "sparsifier": sparsifier.state_dict()}

    for number, (technique, steps, zeros) in enumerate(
        [
            (ow.GradualMagnitude(RAMP), 1, False),
            (ow.GradualMagnitude(RAMP), 5, False),
            (ow.GradualMagnitude(RAMP, hidden="trained"), 5, False),
            (ow.GradualMagnitude(RAMP, hidden="lost"), 5, False),
            (ow.GradualMagnitude(ow.Constant(0.0, every=2)), 3, True),
        ]
    ):
        whole = net()
        nn.init.zeros_(whole[2].weight[:2])
        sparsifier, optimizer = start(whole, technique, adam, True, keep_zeros=zeros)
        train(whole, sparsifier, optimizer, steps)
        path, own_path = folder / f"{number}", folder / f"{number}-{torch.distributed.get_rank()}.pt"
        dcp.save(states(whole, sparsifier, optimizer), checkpoint_id=path)
        torch.save(sparsifier.state_dict(), own_path)
        train(whole, sparsifier, optimizer, 10 - steps, first=steps)
        assert not (zeros and full(whole.state_dict()["2.weight"])[:2].any())
        hidden = sparsifier.state_dict()["hidden"]
        for per_process in (False, True):
            model = net()  # another start: everything must come from the checkpoint
            nn.init.normal_(model[0].weight)
            sparsifier, optimizer = start(model, technique, adam, True)
            state = states(model, sparsifier, optimizer)
            dcp.load(state, checkpoint_id=path)
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
            own = torch.load(own_path, weights_only=True) if per_process else state["sparsifier"]
            sparsifier.load_state_dict(own)
            train(model, sparsifier, optimizer, 10 - steps, first=steps)
            assert_equal(whole.state_dict(), model.state_dict(), f"{technique} at {steps}")
            assert_equal(hidden, sparsifier.state_dict()["hidden"], f"{technique} at {steps}")


@check
def the_state_of_one_process_is_taken_over_by_shards(folder):
    technique = ow.GradualMagnitude(RAMP)
    whole, model = net(), net()
    sparsifier, optimizer = start(whole, technique, sgd, False)
    train(whole, sparsifier, optimizer, 4)
    model.load_state_dict(whole.state_dict())
    parallel, _ = start(model, technique, sgd, True)
    parallel.load_state_dict(sparsifier.state_dict())
    assert_equal(sparsifier.masks(), parallel.masks(), "masks")
    assert_equal(sparsifier.state_dict()["hidden"], parallel.state_dict()["hidden"], "hidden")


def gradients_under_the_masks(model, sparsifier):
    masks = sparsifier.masks()
    return torch.cat([full(model.get_parameter(name).grad)[~full(mask)] for name, mask in masks.items()])


@check
def clipping_sees_masked_gradients_and_what_others_write_is_masked_again(folder):
    results = []
    for sharded in (False, True):
        model = net()
        sparsifier, optimizer = start(model, ow.GradualMagnitude(ow.OneShot(0.4, at=1)), adam, sharded)
        train(model, sparsifier, optimizer, 3)
        model(torch.randn(6, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        assert all(full(model.get_parameter(weight.name).grad).any() for weight in sparsifier.weights)
        assert not gradients_under_the_masks(model, sparsifier).any()
        norm = full(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        for add in (lambda tensor: tensor.add_(torch.ones_like(tensor)), lambda tensor: local(tensor).add_(1.0)):
            for parameter in model.parameters():
                add(parameter.grad)
            assert gradients_under_the_masks(model, sparsifier).all()
            sparsifier.mask_gradients()
            assert not gradients_under_the_masks(model, sparsifier).any()
            with torch.no_grad():
                add(model[0].weight)
            optimizer.step()
            zeros = sum(int((full(weight.parameter) == 0).sum()) for weight in sparsifier.weights)
            assert zeros == 213 - 76 - 48 - 3  # floor(0.6 n) of 128, 80 and 5 stay
        results.append((norm, model.state_dict()))
    torch.testing.assert_close(results[0][0], results[1][0])  # sums in another order
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, full(results[1][1][name]))


@check
def zeros_stay_in_mixed_precision_under_any_optimizer(folder):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    seen = set()
    for optimizer in (
        sgd,
        adam,
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, foreach=False),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True),
        lambda parameters: torch.optim.ASGD(parameters, lr=0.01),  # not one of those that keep zeros without help
    ):
        model = net()
        model[1].register_forward_hook(lambda module, args, output: seen.add(output.dtype))
        sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
        shard(model, mp_policy=policy)
        chosen = optimizer(model.parameters())
        sparsifier.attach(chosen)
        for step in range(9):
            train(model, sparsifier, chosen, 1, first=step)
            sharded, masks = model.state_dict(), sparsifier.masks()
            for name, mask in masks.items():
                assert not local(sharded[name])[~local(mask)].any(), (chosen, step)
        assert sparsifier.sparsity() == (213 - 25 - 16 - 1) / 213
    assert seen == {torch.bfloat16}


@check
def finalize_keeps_shards_with_zeros_and_another_technique_can_follow(folder):
    results = []
    for sharded in (False, True):
        model = net()
        sparsifier, optimizer = start(model, ow.RandomPruning(ow.Constant(0.5)), sgd, sharded)
        train(model, sparsifier, optimizer, 2)
        assert sparsifier.finalize() is model
        sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP), keep_zeros=True)
        sparsifier.attach(optimizer)
        train(model, sparsifier, optimizer, 9)
        if sharded:
            with refused("cannot be copied; save model.state_dict()"):
                sparsifier.finalized_copy()
        sparsifier.finalize()
        results.append(model.state_dict())
    assert_equal(*results, "weights")
    assert all(isinstance(tensor, DTensor) for tensor in results[1].values())


@check
def models_of_which_only_some_layers_are_sharded_or_selected_are_finalized(folder):
    def some(model):
        return fully_shard(model[2], mesh=init_device_mesh("cpu", (2,)))

    for sharding, select in ((some, ow.weight_matrices), (shard, ["0", "4"])):  # the root leaves layer 2 gathered
        results = []
        for sharded in (False, True):
            model = net()
            if sharded:
                sharding(model)
            sparsifier, optimizer = start(model, ow.GradualMagnitude(RAMP), sgd, False, select=select)
            train(model, sparsifier, optimizer, 9)
            results.append((sparsifier.masks(), sparsifier.finalize().state_dict()))
        assert_equal(results[0][0], results[1][0], "masks")
        assert_equal(results[0][1], results[1][1], "weights")


@check
def fine_tuning_keeps_the_zeros_of_a_pruned_model(folder):
    for optimizer in (sgd, adam):
        results = []
        for sharded in (False, True):
            model = net()
            ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)))
            before = {name: p.detach() == 0 for name, p in model.named_parameters() if p.dim() > 1}
            fixed = ow.GradualMagnitude(ow.Constant(0.0))
            sparsifier, stepper = start(model, fixed, optimizer, sharded, keep_zeros=True)
            train(model, sparsifier, stepper, 6)
            assert_equal(sparsifier.masks(), {name: ~zero for name, zero in before.items()}, "masks")
            results.append(sparsifier.finalize().state_dict())
            assert_equal({name: full(results[-1][name]) == 0 for name in before}, before, "zeros")
        assert_equal(*results, "weights")


@check
def a_path_that_ends_in_another_process_is_dead(folder):
    mesh = init_device_mesh("cpu", (2,))
    for layers in ((0, 2), (0,), (2,)):
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        for layer in layers:
            fully_shard(model[layer], mesh=mesh)
        with torch.no_grad():
            local(model[0].weight).zero_()
            rows = local(model[0].weight)
            if rows.numel() and (0 not in layers or torch.distributed.get_rank() == 1):
                rows[-1] = 1.0  # the last unit alone depends on the input
            local(model[2].weight)[:, -1] = 0.0  # and nobody reads it
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ow.sparsify(model, ow.GradualMagnitude(ow.Constant(0.0)), keep_zeros=True)
        assert ["2.weight keeps weights only for inputs" in str(each.message) for each in caught] == [True]


@check
def shards_that_took_the_place_of_others_are_seen(folder):
    for technique in (ow.GradualMagnitude(RAMP), ow.VariationalDropout(ow.Constant(1e-2))):
        model = net()
        sparsifier, optimizer = start(model, technique, sgd, True)
        train(model, sparsifier, optimizer, 1)
        model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
        with refused("0.weight is another tensor than attach saw"):
            train(model, sparsifier, optimizer, 1)


@check
def shards_without_a_row_are_in_no_common_memory(folder):
    assert ow.sparsify(shard(nn.Sequential(nn.Linear(8, 1), nn.Linear(1, 1))), ow.GradualMagnitude(RAMP))


@check
def what_shards_cannot_do_is_refused_with_the_cure(folder):
    def attach(technique, apply, seed=0):
        model = net(seed=seed)
        sparsifier = ow.sparsify(model, technique)
        apply(model)
        return sparsifier.attach(sgd(model.parameters()))

    def columns(model):
        fully_shard(model[0], mesh=mesh, shard_placement_fn=lambda parameter: Shard(parameter.dim() - 1))

    def first_only(model):
        fully_shard(model[0], mesh=mesh)

    mesh, half = init_device_mesh("cpu", (2,)), ow.Constant(0.5, every=1)
    with refused("use fully_shard without tensor parallelism"):
        attach(ow.GradualMagnitude(half), columns)
    lamp = ow.GradualMagnitude(half, allocation=ow.LAMP())
    with refused("use GlobalRanking() or ERK()"):
        attach(lamp, shard)
    ranked = ow.GradualMagnitude(half, allocation=ow.GlobalRanking())
    with refused("apply fully_shard to all of them"):
        attach(ranked, first_only)
    assert attach(ow.GradualMagnitude(half), first_only).sparsity() == (213 - 64 - 40 - 2) / 213
    with refused("start all processes from one seed"):
        attach(ow.GradualMagnitude(ow.Constant(0.5), allocation=ow.GlobalRanking()), shard, seed=mesh.get_local_rank())
    model = net(seed=mesh.get_local_rank())
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Constant(0.5), allocation=ow.GlobalRanking()))
    shard(model)
    assert 0 < sparsifier.sparsity() < 1
    with refused("start all processes from one seed"):
        sparsifier.attach(sgd(model.parameters()))
    with refused("fully_shard spreads 0.weight over processes; prune before fully_shard"):
        technique = ow.Wanda(ow.OneShot(0.5), pattern=ow.Unstructured())
        ow.sparsify(shard(net()), technique, calibrate=lambda model: model(torch.randn(2, 8)))
