import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import openwork as ow
from openwork.cli import app
from openwork.study.data.imagenet import IMAGES
from openwork.study.experiments import cifar10_resnet, resnet50
from openwork.study.models.resnet import to_hugging_face
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.study.tasks.imagenet import EPOCHS, STEPS, ImageNetResNet
from openwork.techniques.l0 import L0
from tests.study.pictures_on_disk import images, write_folders, write_parquet, write_tars

CPU = torch.device("cpu")
TINY = ImageNetResNet(
    "pictures", depth=18, width=0.125, classes=3, size=16, batch_size=8, part_size=4, rate=0.3, warm_up=1.0
)


def dense() -> Run:
    """For the command line."""
    return Run(TINY, None, steps=2)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """33 training and 13 validation images."""
    write_parquet(tmp_path / "pictures", "train", images(33))
    write_parquet(tmp_path / "pictures", "validation", images(13))
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")
    return tmp_path / "pictures"


# --- the recipe ------------------------------------------------------------------------------------------------------


def test_the_learning_rate_at_the_papers_steps():
    task = ImageNetResNet()

    def rate(step: int) -> float:
        return task.learning_rate(step / STEPS)

    assert rate(0) == 0
    assert rate(3128) == pytest.approx(0.4 * 3128 / 6255.698, rel=1e-6)  # 5 epochs of 1,281,167 / 1,024 steps
    changes = [(37_534, 0.4, 0.04), (75_068, 0.04, 0.004), (100_091, 0.004, 0.0004)]
    assert [(step, rate(step), rate(step + 1)) for step, _, _ in changes] == [
        (step, pytest.approx(before), pytest.approx(after)) for step, before, after in changes
    ]
    assert rate(STEPS - 1) == pytest.approx(0.0004)
    assert round(EPOCHS, 1) == 102.3


def test_the_extended_schedule_has_half_as_many_epochs_more_in_its_third_stretch():
    task = resnet50.extended()[0].task
    assert (task.batch_size, round(task.epochs, 2), resnet50.extended()[0].steps) == (4096, 153.46, 48_000)
    assert [round(milestone, 2) for milestone in task.milestones] == [30.0, 111.15, 131.15]
    assert task.learning_rate(0.1) == pytest.approx(1.6)


@pytest.mark.parametrize("random", [False, True])
def test_weight_decay_reaches_kernels_alone(random):
    model = TINY.model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sparsifier = ow.sparsify(model, ow.VariationalDropout(ow.Constant(0.0)), select=ow.matching("layer*"))
    task = ImageNetResNet(decay_random=random)
    decayed, rest = task.optimizer(model, sparsifier).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"], decayed["nesterov"]) == (1e-4, 0.0, True)
    found = {names[id(parameter)] for parameter in decayed["params"]}
    kernels = {name for name, p in TINY.model().named_parameters() if p.dim() > 1}
    assert found == (kernels if random else {"conv1.weight", "fc.weight"})
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_the_loss_smooths_labels_and_leaves_out_what_could_not_be_decoded(pictures):
    task = ImageNetResNet("pictures", classes=3, size=16, label_smoothing=0.3)
    batch = next(TINY.batches(0, 0, CPU)).batches[0]
    batch.labels[:] = torch.tensor([2, 0, -100, 1])

    class Same(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 0.0, 1.0]] * 2 + [[9.0, 0.0, 0.0]] + [[0.0, 0.0, 1.0]])

    log_z = torch.log(torch.tensor(2 + torch.e)).item()
    # -sum of target * log p: the label has 0.7 + 0.1, each other class 0.1; log p = x - log_z
    expected = [log_z - 0.8, log_z - 0.1, log_z - 0.1]
    assert float(task.loss(Same(), batch)) == pytest.approx(sum(expected) / 3, rel=1e-5)


# --- the grids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "count"),
    [
        ("magnitude", 324),
        ("random_pruning", 324),
        ("variational_dropout", 180),
        ("l0", 324),
        ("scratch_and_lottery", 228),
        ("other_schedules", 270),
        ("extended", 4),
        ("published", 21),
    ],
)
def test_the_grids_have_the_papers_runs(function, count):
    runs = getattr(resnet50, function)()
    assert len(runs) == len({run.id for run in runs}) == count


def test_published_runs_are_in_the_grids():
    grids = (resnet50.magnitude, resnet50.random_pruning, resnet50.variational_dropout, resnet50.extended)
    ids = {run.id for grid in grids for run in grid()}
    assert {run.id for run in resnet50.published()} <= ids


def test_l0s_coefficients_are_those_of_the_published_table():
    by_rate = {}
    for run in resnet50.l0():
        assert isinstance(run.technique, L0)
        by_rate.setdefault(run.technique.dropout, set()).add(run.technique.coefficient.final)
    found = {rate: (len(values), min(values), max(values)) for rate, values in by_rate.items()}
    assert found == {
        0.01: (20, pytest.approx(3.278261148e-3), pytest.approx(3.426563438e-3)),
        0.05: (21, pytest.approx(6.94679148e-4), pytest.approx(7.102899154e-4)),
        0.1: (20, pytest.approx(3.122153474e-4), pytest.approx(3.863664924e-4)),
        0.3: (20, pytest.approx(1.24886139e-4), pytest.approx(1.39716368e-4)),
    }


def test_extended_pruning_reaches_the_published_sparsities_of_the_whole_model():
    from openwork.core.masks.threshold import keep_count

    shapes = {name: p.numel() for name, p in ImageNetResNet().model().named_parameters() if p.dim() > 1}
    found = []
    for run in resnet50.extended():
        target = run.technique.schedule.final
        kept = {n: size if n == "conv1.weight" else keep_count(size, target) for n, size in shapes.items()}
        kept["fc.weight"] = keep_count(shapes["fc.weight"], 0.8)
        found.append(round(1 - sum(kept.values()) / sum(shapes.values()), 4))
    assert found == [0.7997, 0.9008, 0.9468, 0.9652]


def test_the_comparison_on_cifar10_has_every_technique_at_five_points_and_three_seeds():
    runs = cifar10_resnet.comparison()
    assert len({run.id for run in runs}) == len(runs) == 78
    assert Counter(run.seed for run in runs) == {0: 26, 1: 26, 2: 26}
    assert Counter(run.name for run in runs) == {
        "dense": 3,
        "GradualMagnitude": 15,
        "GradualMagnitude, extended": 15,
        "RandomPruning": 15,
        "VariationalDropout": 15,
        "L0": 15,
    }


def test_the_network_on_cifar10_keeps_the_first_convolution_dense_where_it_should(monkeypatch):
    rates = [Cifar10ResNet().learning_rate(progress) for progress in (0, 0.025, 1 / 3, 0.5, 2 / 3, 1)]
    assert rates == pytest.approx([0, 0.05, 0.075, 0.05, 0.025, 0], rel=2e-3)
    run = cifar10_resnet.extended()[0]
    names = [weight.name for weight in ow.sparsify(run.task.model(), run.technique, select=run.select).weights]
    assert len(names) == 53
    assert "conv1.weight" not in names


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_interrupted_in_an_epoch_ends_with_the_same_bits(pictures, tmp_path):
    technique = ow.VariationalDropout(ow.Constant(1e-4), log_sigma2=-4.0)
    run = Run(TINY, technique, steps=6)  # 4 batches an epoch
    whole = execute(run, tmp_path / "whole", evaluations=3)
    assert {"accuracy", "top5", "loss", "unreadable"} <= whole.after.keys()

    class StopError(Exception):
        pass

    def stop(step: int) -> None:
        if step == 5:
            raise StopError

    with pytest.raises(StopError):
        execute(run, tmp_path / "parts", evaluations=3, progress=stop)
    again = execute(run, tmp_path / "parts", evaluations=3)
    assert again.after == whole.after
    files = [(tmp_path / folder / run.id / "model.safetensors").read_bytes() for folder in ("whole", "parts")]
    assert files[0] == files[1]


def test_a_run_that_goes_to_nan_says_where(pictures, tmp_path):
    result = execute(Run(ImageNetResNet(**{**vars(TINY), "rate": 1e30}), None, steps=4), tmp_path, evaluations=4)
    assert result.status == "diverged"
    assert result.step < 4


@pytest.mark.parametrize("write", [write_folders, write_tars])
def test_other_forms_of_the_images_train_too(tmp_path, monkeypatch, write):
    monkeypatch.setenv("OPENWORK_WORKERS", "2")
    for split, count in (("train", 16), ("val", 5)):
        write(tmp_path / "here", split, images(count))
    task = ImageNetResNet(**{**vars(TINY), "source": str(tmp_path / "here")})
    assert execute(Run(task, None, steps=3), tmp_path / "runs", evaluations=1).status == "finished"


def test_evaluation_counts_unreadable_images_as_wrong(pictures, tmp_path):
    content = [(b"" if n == 2 else data, label) for n, (data, label) in enumerate(images(13))]
    write_parquet(pictures, "validation", content)

    class Right(torch.nn.Module):
        """Says the label of each image of the split, in order."""

        def __init__(self):
            super().__init__()
            self.labels = iter([label for _, label in content])

        def forward(self, x):
            labels = torch.tensor(list(itertools.islice(self.labels, len(x))))
            return 50.0 * torch.nn.functional.one_hot(labels, 3)

    with pytest.warns(UserWarning, match="row 2 in row group 0"):
        found = TINY.evaluate(Right(), CPU)
    counts = {"unreadable": 1, "images": 13}
    assert found == {"accuracy": 12 / 13, "top5": 12 / 13, "loss": pytest.approx(0.0), **counts}


# --- the command line ------------------------------------------------------------------------------------------------


def test_eval_takes_weights_of_others_and_other_images(pictures, tmp_path):
    torch.manual_seed(0)
    model = TINY.model()
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, ours)
    save_file({name: t.contiguous() for name, t in to_hugging_face(model.state_dict()).items()}, theirs)

    def answer(*arguments: str) -> list[dict[str, float]]:
        result = CliRunner().invoke(app, ["eval", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["evaluated"]

    found = [answer(str(path), "--task", "tests.study.test_imagenet:dense") for path in (ours, theirs)]
    assert found[0] == found[1]
    assert found[0][0]["accuracy"] == TINY.evaluate(model, CPU)["accuracy"]
    write_parquet(tmp_path / "others", "validation", images(3))  # and no training images
    others = answer(str(ours), "--task", "tests.study.test_imagenet:dense", "--data", str(tmp_path / "others"))
    assert others[0]["loss"] != found[0][0]["loss"]
    assert (found[0][0]["images"], others[0]["images"]) == (13, 3)

    result = execute(dense(), tmp_path / "runs", evaluations=1)
    folder = tmp_path / "runs" / dense().id
    assert answer(str(folder))[0]["top5"] == result.after["top5"] == 1.0  # three classes
    table = CliRunner().invoke(app, ["eval", str(folder)]).stdout
    assert {"top5", "images", "13"} <= set(table.split())
    assert "100.00%" in table


@pytest.mark.slow
def test_torchrun_trains_with_two_processes_and_one_prints(pictures, tmp_path):
    programs, runs = Path(sys.executable).parent, tmp_path / "runs"
    command = [programs / "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [programs / "openwork", "run", "tests.study.test_imagenet:dense", "--out", runs]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("Run directories in") == 1
    result = json.loads((runs / dense().id / "result.json").read_text())
    assert result["environment"]["processes"] == 2


def test_eval_says_what_does_not_fit(pictures, tmp_path):
    path = tmp_path / "small.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    for arguments, reason in (
        (
            [str(path), "--task", "tests.study.test_imagenet:dense"],
            "does not fit the model of ResNet-18 x 0.125, pictures: Missing",
        ),
        ([str(path), "--task", "tests.study.test_imagenet:TINY"], "tests.study.test_imagenet:TINY must return one Run"),
        ([str(path), "--task", "tests.study.test_imagenet:dense", "--threshold", "1"], "--task a file of weights"),
    ):
        error = CliRunner().invoke(app, ["eval", *arguments]).exception
        assert isinstance(error, ValueError)
        assert reason in str(error)


def test_images_of_imagenet_are_counted():
    assert IMAGES == 1_281_167
