"""What two processes check about evidence, under DistributedDataParallel and FSDP2; `test_fsdp.py` starts them."""

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

import openwork as ow
from tests.core.fsdp_checks import CHECKS, Communication, check
from tests.core.fsdp_setup import RAMP, adam, assert_equal, full, net, refused, sgd, shard, start, train

__all__ = ["CHECKS", "Communication", "check"]
EXCHANGED = ow.Constant(0.6, every=2, stop=8)
TECHNIQUES = [
    (ow.RigL(EXCHANGED), sgd),
    (ow.RigL(EXCHANGED, allocation=ow.ERK()), adam),
    (ow.SET(EXCHANGED), adam),
    (ow.Movement(RAMP), sgd),
    (ow.Movement(RAMP, allocation=ow.GlobalRanking()), adam),
    (ow.SNIP(ow.OneShot(0.6, at=3)), adam),
    (ow.SNIP(RAMP, allocation=ow.Uniform()), sgd),
]


def everybodys(tensor):
    """The tensor of each process."""
    found = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(found, tensor)
    return found


def examples(number):
    """A batch of 12, of which each process may take half."""
    return torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(number))


@check
def data_parallel_processes_with_different_data_get_the_masks_of_one_with_all(folder):
    for technique, optimizer in TECHNIQUES:
        results = []
        for parallel in (False, True):
            model = net().double()
            sparsifier = ow.sparsify(model, technique)
            called = DistributedDataParallel(model) if parallel else model
            chosen = optimizer(called.parameters())
            sparsifier.attach(chosen)
            for step in range(10):
                batch = examples(step).chunk(2)[dist.get_rank()] if parallel else examples(step)
                called(batch).square().mean().backward()
                chosen.step()
                chosen.zero_grad()
            results.append((sparsifier.masks(), dict(model.named_parameters())))
        assert_equal(results[0][0], results[1][0], f"{technique} masks")
        for name, weight in results[1][1].items():
            torch.testing.assert_close(weight, results[0][1][name])
            assert torch.equal(*everybodys(weight.detach()))


@check
def gradients_are_averaged_before_their_absolute_value_is_taken(folder):
    # Both processes' gradients at the first masked place cancel, at the second they are small and agree.
    layer = nn.Linear(4, 1, bias=False)
    sparsifier = ow.sparsify(layer, ow.RigL(ow.Constant(0.5, every=1, stop=1000), fraction=0.6))
    masked = (~sparsifier.masks()["weight"][0]).nonzero().flatten()
    parallel = DistributedDataParallel(layer)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    x = torch.zeros(1, 4)
    x[0, masked[0]], x[0, masked[1]] = 9.0 * (1 - 2 * dist.get_rank()), 1.0
    parallel(x).sum().backward()
    optimizer.step()
    assert sparsifier.masks()["weight"][0, masked].tolist() == [False, True]


@check
def a_calibration_is_averaged_over_the_processes(folder):
    def masks(technique, batch, gradients):
        model = net().double()

        def run(model):
            output = model(batch)
            if gradients:
                output.square().mean().backward()

        return ow.sparsify(model, technique, calibrate=run).masks()

    for technique, gradients in ((ow.SNIP(ow.OneShot(0.6)), True), (ow.Wanda(ow.OneShot(0.6)), False)):
        own = examples(0).chunk(2)[dist.get_rank()]
        found = masks(technique, own, gradients)
        assert all(torch.equal(*everybodys(mask)) for mask in found.values())
        # What each process sees by itself: gradients of a mean, and sums of which the mean over both is half the sum.
        model = net().double()
        sums = {}
        if gradients:
            model(examples(0)).square().mean().backward()
            sums = {name: (p.grad * p).abs().detach() for name, p in model.named_parameters() if p.dim() == 2}
            flat = torch.cat([value.flatten() for value in sums.values()])
            threshold = flat.topk(int(0.4 * flat.numel() + 1e-6)).values.min()
            for name, value in sums.items():
                assert torch.equal(found[name], value >= threshold)
        else:
            norm = examples(0).square().sum(0).sqrt()
            score = (model[0].weight.abs() * norm).detach()
            kept = found["0.weight"]
            assert all(row[k].min() > row[~k].max() for row, k in zip(score, kept, strict=True))


@check
def shards_get_the_evidence_masks_and_weights_of_one_process(folder):
    for technique, optimizer in TECHNIQUES:
        results = []
        for sharded in (False, True):
            model = net()
            sparsifier, chosen = start(model, technique, optimizer, sharded)
            train(model, sparsifier, chosen, 10)
            evidence = sparsifier.state_dict()["evidence"]
            results.append((sparsifier.masks(), evidence, sparsifier.finalize().state_dict()))
        what = str(technique)
        assert_equal(results[0][0], results[1][0], what + " masks")
        assert results[0][1].keys() == results[1][1].keys()
        for name in results[0][1]:
            assert_equal(results[0][1][name], results[1][1][name], what + " evidence")
        assert_equal(results[0][2], results[1][2], what + " weights")


@check
def sharding_before_sparsify_gives_the_same_evidence(folder):
    for technique, optimizer in TECHNIQUES:
        results = []
        for sharded in (False, True):
            model = net()
            if sharded:
                shard(model)
            sparsifier, chosen = start(model, technique, optimizer, sharded=False)
            train(model, sparsifier, chosen, 7)
            results.append(sparsifier.finalize().state_dict())
        assert_equal(*results, str(technique))


@check
def a_gradient_scaler_leaves_no_scale_in_the_evidence_of_shards(folder):
    def trained(technique, fused, scaled):
        model = net()
        sparsifier = ow.sparsify(model, technique)
        shard(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        sparsifier.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
        for number in range(6):
            for overflow in (True, False) if scaled and number in (1, 4) else (False,):
                loss = model(examples(number).float()).square().sum()
                scaler.scale(loss * (torch.inf if overflow else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        assert sparsifier.steps == 6
        return sparsifier

    for technique in (ow.RigL(ow.Constant(0.6, every=1, stop=9)), ow.Movement(ow.Cubic(0.8, end=5, every=1))):
        for fused in (False, True):
            plain, scaled = (trained(technique, fused, scaled) for scaled in (False, True))
            assert_equal(plain.masks(), scaled.masks(), f"{technique} fused={fused}")
            for name, kept in plain.state_dict()["evidence"].items():
                movements = [full(each["movement"]) for each in (kept, scaled.state_dict()["evidence"][name])]
                torch.testing.assert_close(*movements, rtol=1e-4, atol=1e-4)


@check
def evidence_in_a_checkpoint_resumes_bit_exactly(folder):
    def states(model, sparsifier, optimizer):
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "sparsifier": sparsifier.state_dict()}

    for number, (technique, optimizer) in enumerate(TECHNIQUES):
        paths = {steps: Path(folder) / f"evidence-{number}-{steps}" for steps in (3, 4)}
        whole = net()
        sparsifier, chosen = start(whole, technique, optimizer, True)
        done = 0
        for steps, path in paths.items():
            train(whole, sparsifier, chosen, steps - done, first=done)
            dcp.save(states(whole, sparsifier, chosen), checkpoint_id=path)
            done = steps
        train(whole, sparsifier, chosen, 10 - done, first=done)
        for steps, path in paths.items():
            model = net(seed=5)
            resumed, chosen = start(model, technique, optimizer, True)
            state = states(model, resumed, chosen)
            dcp.load(state, checkpoint_id=path)
            set_state_dict(model, chosen, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
            resumed.load_state_dict(state["sparsifier"])
            train(model, resumed, chosen, 10 - steps, first=steps)
            what = f"{technique} at {steps}"
            assert_equal(whole.state_dict(), model.state_dict(), what)
            for name, kept in sparsifier.state_dict()["evidence"].items():
                assert_equal(kept, resumed.state_dict()["evidence"][name], what)


@check
def evidence_of_one_process_is_taken_over_by_shards(folder):
    technique = ow.Movement(RAMP)
    whole, model = net(), net()
    sparsifier, optimizer = start(whole, technique, sgd, False)
    train(whole, sparsifier, optimizer, 4)
    model.load_state_dict(whole.state_dict())
    parallel, chosen = start(model, technique, sgd, True)
    parallel.load_state_dict(sparsifier.state_dict())
    chosen.load_state_dict(optimizer.state_dict())
    for name, kept in sparsifier.state_dict()["evidence"].items():
        assert_equal(kept, parallel.state_dict()["evidence"][name], name)
    with refused("the state has shards of 0.weight, which is whole here; load it after fully_shard"):
        sparsifier.load_state_dict(parallel.state_dict())
    for trained in ((whole, sparsifier, optimizer), (model, parallel, chosen)):
        trained[2].state.clear()
        train(*trained, 3, first=4)
    assert_equal(whole.state_dict(), model.state_dict(), "weights")
