"""A batch in parts: accumulated by one process or shared by two, the result is the same."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.number_words import NumberWords
from openwork.study.tasks.parts import Parts
from openwork.study.training.parts import backward_in_parts
from tests.processes import run_two
from tests.programs import parts
from tests.study.pictures_on_disk import pictures_folder


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """25 training and 7 validation images; 7 is no multiple of anything."""
    return pictures_folder(tmp_path, monkeypatch, train=25, validation=7)


def test_two_processes_have_equal_bits_and_end_where_one_does(pictures):
    first, second = run_two("parts", pictures, "pictures")
    assert first == second
    for run, line in zip(parts.pictures(), first.splitlines(), strict=True):
        alone = execute(run, pictures / "one", evaluations=2)
        assert line.split() == ["finished", str(alone.after["accuracy"]), "2"]
        folders = [pictures / folder / run.id for folder in ("one", "process0", "process1")]
        ours, theirs, others = (load_file(folder / "model.safetensors") for folder in folders)
        assert all(torch.equal(tensor, others[name]) for name, tensor in theirs.items())
        for name, tensor in ours.items():
            torch.testing.assert_close(
                tensor,
                theirs[name],
                rtol=1e-3,
                atol=1e-4,
                msg=lambda text, run=run, name=name: f"{run.name} {name}: {text}",
            )
        zeros = [sum(int((t == 0).sum()) for t in state.values()) for state in (ours, theirs)]
        assert zeros[0] == zeros[1]


def test_two_processes_translate_as_one_does(tmp_path, monkeypatch):
    first, second = run_two("parts", tmp_path, "translations")
    assert first == second
    monkeypatch.setattr(NumberWords, "pairs", parts.two_pairs)
    for run, line in zip(parts.translations(), first.splitlines(), strict=True):
        alone = execute(run, tmp_path / "one", evaluations=2)
        assert line.split()[::2] == ["finished", "2"]
        folders = [tmp_path / folder / run.id for folder in ("one", "process0", "process1")]
        ours, theirs, others = (load_file(folder / "model.safetensors") for folder in folders)
        assert all(torch.equal(tensor, others[name]) for name, tensor in theirs.items())
        losses = [json.loads((folder / "result.json").read_text())["after"]["loss"] for folder in folders]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # a share's mean is over its own tokens
        assert losses[0] == alone.after["loss"]
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0.05, atol=0.02)


class Noisy(nn.Module):
    """A norm and noise: what depends on the size of a part, and on where it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, momentum=0.5)
        self.fc = nn.Linear(2, 1)

    def forward(self, x):
        return self.fc(self.norm(x)) + torch.randn(len(x), 1)


def test_gradients_are_the_mean_over_parts_and_averages_move_once():
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(6, 2)
    parts = Parts(x.chunk(3), first=0, count=3)
    loss, penalty = backward_in_parts(
        lambda part: (model(part).square().mean(), model.fc.weight.sum()), model, parts, seed=1, step=2
    )
    assert penalty.item() == pytest.approx(model.fc.weight.sum().item())
    assert loss > 0
    means = torch.stack([part.mean(0) for part in x.chunk(3)])
    torch.testing.assert_close(model.norm.running_mean, 0.5 * means.mean(0))  # 0.5 · 0 + 0.5 · the mean of the parts


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores", "ignore:The CUDA Graph is empty")
def test_gradients_of_parts_add_up_under_cuda_graphs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).cuda()

    def objective(batch):
        return model(batch).square().mean(), 1e-3 * model[0].weight.square().sum()

    compiled = torch.compile(objective, fullgraph=True, mode="reduce-overhead")
    for step in range(6):  # warm-up, recording and replays
        parts = Parts(list(torch.randn(24, 8, device="cuda").chunk(3)), first=0, count=3)
        found = []
        for each in (objective, compiled):
            losses = backward_in_parts(each, model, parts, seed=0, step=step)
            found.append([*losses, *(parameter.grad.clone() for parameter in model.parameters())])
            model.zero_grad()
        torch.testing.assert_close(found[1], found[0])


def test_noise_belongs_to_the_part_not_to_the_process():
    seen = []

    def objective(batch):
        seen.append(torch.rand(3).tolist())
        return model(batch).sum() * 0, torch.zeros(())

    model, x = nn.Linear(2, 1), torch.zeros(4, 2)
    backward_in_parts(objective, model, Parts(x.chunk(4), 0, 4), seed=0, step=5)
    backward_in_parts(objective, model, Parts(x.chunk(4)[2:], 2, 4), seed=0, step=5)
    assert seen[2:4] == seen[4:6]
    assert len({tuple(draws) for draws in seen[:4]}) == 4
    backward_in_parts(objective, model, Parts(x.chunk(4)[:1], 0, 4), seed=0, step=6)
    assert seen[6] != seen[0]


def test_parts_must_divide(pictures, monkeypatch):
    with pytest.raises(ValueError, match="batch_size 8 must be a multiple of part_size, got 3"):
        ImageNetResNet("pictures", batch_size=8, part_size=3)
    monkeypatch.setattr("openwork.study.tasks.imagenet.world_size", lambda: 3)
    with pytest.raises(ValueError, match="a batch has 4 parts of 2 images, which 3 processes cannot share equally"):
        next(ImageNetResNet("pictures", **parts.TINY).batches(0, 0, torch.device("cpu")))


def test_a_task_without_parts_refuses_several_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("openwork.study.training.loop.world_size", lambda: 2)
    with pytest.raises(ValueError, match="digits 8x8 does not divide its batches among processes; run it without"):
        execute(Run(DigitsLeNet300100(), None, steps=1), tmp_path)
