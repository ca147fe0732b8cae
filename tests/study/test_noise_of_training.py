"""The noise of a training belongs to its seed, step and part, whatever else draws random numbers."""

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call, vmap

import openwork as ow
from openwork.noise import keyed, keys, normal
from openwork.study.models.vgg import VggLike
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.parts import Parts
from openwork.study.training.parts import backward_in_parts, noise

CPU = torch.device("cpu")
TECHNIQUES = [
    ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-3.0),
    ow.L0(ow.Constant(1e-3), dropout=0.5),
    ow.GroupL0(ow.Constant(1e-3)),
]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: type(t).__name__)
def test_other_random_numbers_change_nothing(technique, tmp_path):
    run = Run(DigitsLeNet300100(), technique, steps=4)
    execute(run, tmp_path / "quiet")
    execute(run, tmp_path / "noisy", progress=lambda step: torch.rand(step))
    ours, theirs = (load_file(tmp_path / each / run.id / "model.safetensors") for each in ("quiet", "noisy"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: type(t).__name__)
def test_losses_differ_between_steps_parts_and_seeds_and_are_those_of_compiled_code(technique):
    run = Run(DigitsLeNet300100(), technique, steps=4)
    live = prepare(run, CPU)
    live.model.train()
    batch = next(iter(run.task.batches(0, 0, CPU)))
    compiled = torch.compile(live.objective, backend="aot_eager", fullgraph=True)
    found = []
    for place in ((0, 0), (0, 0), (0, 1), (1, 0), (0, 0, 1), (1, 1, 1)):
        with noise(*place, device=CPU):
            found.append(live.objective(batch)[0].item())
        with noise(*place, device=CPU):
            assert compiled(batch)[0].item() == pytest.approx(found[-1], rel=1e-6)
    assert found[0] == found[1]
    assert len(set(found)) == 5


def test_noise_by_a_key_belongs_to_the_part_not_to_the_process():
    seen = []

    def drawn():
        return tuple(normal((3,), torch.zeros(())).tolist())

    def objective(batch):
        seen.append(drawn())
        return model(batch).sum() * 0, torch.zeros(())

    model, x = torch.nn.Linear(2, 1), torch.zeros(4, 2)
    backward_in_parts(objective, model, Parts(x.chunk(4), 0, 4), seed=0, step=5)
    backward_in_parts(objective, model, Parts(x.chunk(4)[2:], 2, 4), seed=0, step=5)
    backward_in_parts(objective, model, Parts(x.chunk(4)[:1], 0, 4), seed=0, step=6)
    assert seen[2:4] == seen[4:6]
    assert len(set(seen)) == 5
    with noise(0, 5, device=CPU):  # a batch without parts is part 0
        assert drawn() == seen[0]


def test_the_vgg_like_drops_units_by_the_key_alone_and_stacked():
    torch.manual_seed(0)
    model, x = VggLike(0.05, dropout=True), torch.randn(2, 3, 32, 32)
    weights, of_keys = dict(model.named_parameters()), keys(torch.arange(3), 0)

    def logits(key, buffers):
        with keyed(key):
            return functional_call(model, weights | buffers, (x,))

    def buffers():
        return {name: tensor.expand(3, *tensor.shape).clone() for name, tensor in model.named_buffers()}

    own = buffers()
    alone = torch.stack([logits(key, {name: own[name][i] for name in own}) for i, key in enumerate(of_keys)])
    torch.testing.assert_close(vmap(logits)(of_keys, buffers()), alone)
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: type(t).__name__)
def test_a_compiled_run_has_the_noise_of_an_uncompiled_one(technique, tmp_path):
    run = Run(DigitsLeNet300100(), technique, steps=4)
    for folder, compile in (("plain", False), ("compiled", True)):
        execute(run, tmp_path / folder, evaluations=1, compile=compile)
    plain, compiled = (load_file(tmp_path / each / run.id / "model.safetensors") for each in ("plain", "compiled"))
    for name, tensor in plain.items():  # a step of Adam moves a weight by about 1e-3
        torch.testing.assert_close(compiled[name], tensor, rtol=0, atol=2e-5)
