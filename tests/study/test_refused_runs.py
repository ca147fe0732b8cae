"""What makes no sense is refused before a run has a directory, and what a run is, its settings say."""

import dataclasses
import math
from dataclasses import dataclass, field, replace

import pytest

import openwork as ow
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import LotteryTicket, Origin, Pretrained, Rewound, Scratch
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Here, Options, sweep
from openwork.study.tasks.cifar10 import Cifar10Vgg, Cifar10WideResNet
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.lenet import DigitsLeNet300100, ImagesLeNet300100
from openwork.study.tasks.number_words import NumberWords
from openwork.study.tasks.task import Task
from openwork.study.tasks.wmt import TextTranslation
from tests.study.tinylab import PRUNE, Tiny


@dataclass(frozen=True)
class Rated(Tiny):
    """A learning rate of the user's own."""

    last: str = "0"

    def learning_rate(self, progress):
        return float(self.last) if progress > 0.5 else 0.1


@dataclass(frozen=True)
class Batched(Tiny):
    """A batch size that nobody uses."""

    batch_size: int = 4


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, 2**64, -(2**70)])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match=f"a run's seed must be from 0 to 4294967295, got {seed}; count seeds from 0"):
        Run(Tiny(), None, steps=1, seed=seed)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_every_other_seed_trains(tmp_path, seed):
    run = Run(DigitsLeNet300100(), ow.RandomPruning(ow.OneShot(0.5)), steps=2, seed=seed)
    assert execute(run, tmp_path, evaluations=1).finished


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "\u202ebackwards", "a \udcff"])
def test_names_that_a_terminal_obeys_are_refused_before_anything_is_trained(tmp_path, text):
    with pytest.raises(ValueError, match="a run's variant must be printable text in one line, got "):
        Run(Tiny(), PRUNE, steps=1, variant=text)
    runs = [Run(Tiny(), PRUNE, steps=1), Run(Tiny(title=text), PRUNE, steps=1)]
    with pytest.raises(ValueError, match="the title of Tiny must be printable text in one line, got "):
        Options().check(runs, tmp_path)
    with pytest.raises(ValueError, match="the title of Tiny must be printable text in one line, got "):
        sweep(runs, tmp_path, Here(tmp_path, Options()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [0, -1])
def test_a_run_has_a_step(steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        Run(Tiny(), None, steps=steps)


@pytest.mark.parametrize(
    ("task", "name", "value", "wanted"),
    [
        (DigitsLeNet300100(), "batch_size", 0, "more than 0"),
        (DigitsLeNet300100(), "batch_size", -4, "more than 0"),
        (DigitsLeNet300100(), "peak_learning_rate", -1e-3, "at least 0"),
        (DigitsLeNet300100(), "peak_learning_rate", math.nan, "a finite number"),
        (DigitsLeNet300100(), "peak_learning_rate", math.inf, "a finite number"),
        (Cifar10Vgg(), "l2", -1.0, "at least 0"),
        (Cifar10WideResNet(), "weight_decay", -1.0, "at least 0"),
        (Cifar10WideResNet(), "width", 0, "more than 0"),
        (NumberWords(), "rows", 0, "more than 0"),
        (NumberWords(), "hidden_dropout", 1.0, "below 1"),
        (NumberWords(), "label_smoothing", -0.1, "at least 0"),
        (NumberWords(), "warmup", math.nan, "a finite number"),
        (ImageNetResNet(), "rate", -0.1, "at least 0"),
        (Batched(), "batch_size", 0, "more than 0"),  # a user's own
    ],
)
def test_numbers_of_a_task_that_make_no_sense_are_refused(task, name, value, wanted):
    with pytest.raises(
        ValueError, match=f"{name} of {type(task).__name__} must be {wanted}, got {value}; change task."
    ):
        Run(replace(task, **{name: value}), None, steps=1)


@pytest.mark.parametrize("rate", ["-0.1", "nan", "inf"])
def test_a_learning_rate_that_makes_no_sense_is_refused_before_there_is_a_directory(tmp_path, rate):
    run = Run(Rated(last=rate), None, steps=4)
    with pytest.raises(
        ValueError, match=f"the learning rate of tiny must be finite and at least 0, got {rate} when 75%"
    ):
        execute(run, tmp_path / "runs")
    with pytest.raises(ValueError, match="the learning rate of tiny must be finite"):
        sweep([run], tmp_path / "runs", Here(tmp_path / "runs", Options()))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("evaluations", [0, -3])
def test_a_run_is_evaluated(tmp_path, evaluations):
    with pytest.raises(ValueError, match=f"evaluations must be at least 1, got {evaluations}"):
        execute(Run(Tiny(), None, steps=4), tmp_path / "runs", evaluations=evaluations)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("technique", [ow.L0(ow.Constant(math.nan)), ow.VariationalDropout(ow.Linear(math.inf, end=2))])
def test_a_technique_s_nan_is_refused_before_there_is_a_directory(tmp_path, technique):
    with pytest.raises(ValueError, match="cannot be part of a run; use a finite number"):
        execute(Run(DigitsLeNet300100(), technique, steps=4), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@dataclass(frozen=True)
class Earlier(Origin):
    """An origin as a user would add it, with a field of its own."""

    at: int = 0
    initial_seed: int | None = field(default=None, kw_only=True)

    @property
    def weights(self):
        return self.run

    @property
    def zeros(self):
        return None


DENSE, SPARSE = Run(Tiny(), None, steps=3), Run(Tiny(), PRUNE, steps=3)
PARTED = Run(DigitsLeNet300100(), PRUNE, steps=3)
VALUES = [
    DigitsLeNet300100(),
    ImagesLeNet300100(source="a"),
    Cifar10Vgg(),
    Cifar10WideResNet(),
    Cifar10ResNet(),
    ImageNetResNet(),
    NumberWords(),
    TextTranslation(training=("a", "b")),
    ow.GradualMagnitude(ow.Cubic(0.5, end=10)),
    ow.RigL(ow.Cubic(0.5, end=10)),
    ow.L0(ow.Constant(0.5)),
    ow.GroupL0(ow.Constant(0.5)),
    ow.VariationalDropout(ow.Constant(0.5)),
    ow.SoftWeightSharing(ow.Constant(0.5)),
    Pretrained(DENSE),
    LotteryTicket(SPARSE),
    Rewound(PARTED, 1),
    Scratch(SPARSE),
    Earlier(DENSE),
]


def others(value: object) -> list[object]:
    """The value with each of its fields changed, one after the other, where a changed one is accepted."""
    found = []
    for each in dataclasses.fields(value):
        old = getattr(value, each.name)
        if dataclasses.is_dataclass(old):
            candidates = others(old)
        else:
            candidates = [not old if isinstance(old, bool) else _more(old), _less(old), 7]
        for new in candidates:
            try:
                changed = replace(value, **{each.name: new})
                run_of(changed)
            except (ValueError, TypeError, AttributeError):
                continue
            if changed != value:
                found.append(changed)
                break
    return found


def _more(old):
    if isinstance(old, str):
        return old + "x"
    return old * 2 if isinstance(old, int | float) and old else old


def _less(old):
    return old * 0.3 if isinstance(old, float) else old


def run_of(value: object) -> Run:
    task = value if isinstance(value, Task) else Tiny()
    technique = value if isinstance(value, ow.MaskTechnique | ow.Reparameterization) else None
    return Run(task, technique, steps=3, origin=value if isinstance(value, Origin) else None)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_field_that_differs_appears_in_the_settings(value):
    changed = others(value)
    assert changed
    before = run_of(value)
    for other in changed:
        run = run_of(other)
        if run.id != before.id:
            assert run.settings != before.settings, other


def test_an_origin_of_the_user_s_shows_its_fields():
    run = Run(Tiny(), None, steps=1, origin=Earlier(DENSE, at=5, initial_seed=9))
    assert run.settings == "steps=1, origin=Earlier(dense(steps=3, seed=0), at=5, initial_seed=9)"
