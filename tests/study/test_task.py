"""What a task declares, and what it may leave out."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from openwork.study.evaluation.metric import ACCURACY, Metric
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.check import check_task, try_evaluation
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.measure import final_metrics, metrics
from openwork.study.tasks.task import Task
from tests.helpers import raises
from tests.study.tinylab import PRUNE, Tiny

CPU = torch.device("cpu")
ERROR = Metric("error", higher_is_better=False)


@dataclass(frozen=True)
class Undeclared(Tiny):
    """Says nothing about its metric."""

    metric = Task.metric


@dataclass(frozen=True)
class Misnamed(Tiny):
    """Is judged by what it does not measure."""

    metric = ERROR


@dataclass(frozen=True)
class Worded(Tiny):
    """Takes a word for a metric."""

    metric = "accuracy"


@dataclass(frozen=True)
class Unconverted(Tiny):
    """Returns a tensor."""

    def evaluate(self, model, device):
        return {"accuracy": torch.tensor(0.5)}


@dataclass(frozen=True)
class Percent(Tiny):
    """Counts to 100."""

    def evaluate(self, model, device):
        return {"accuracy": 50.0}


@dataclass(frozen=True)
class Final(Tiny):
    """Measures at the end what takes too long before."""

    metric = ERROR
    key: str = "error"

    def test(self, model, device):
        return {self.key: 0.25, "loss": 0.5}


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        (Undeclared(), ("Undeclared does not declare", "set `metric = ACCURACY`, or a Metric of your own")),
        (Misnamed(), ("tiny is judged by 'error', but its evaluate returns accuracy, loss; return it there",)),
        (Worded(), ("the metric of Worded must be a Metric such as ACCURACY, got 'accuracy'",)),
        (Unconverted(), ("'accuracy' of tiny must be a float, got tensor(0.5000) from its evaluate; convert it",)),
        (Percent(), ("'accuracy' of tiny must be in [0, 1], got 50.0 from its evaluate; return it so",)),
    ],
)
def test_a_task_without_a_usable_metric_is_refused_before_there_is_a_directory(tmp_path, task, parts):
    for run in (Run(task, None, steps=5), Run(Tiny(), PRUNE, steps=5, origin=Pretrained(Run(task, None, steps=5)))):
        with raises(ValueError, *parts):
            execute(run, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_checking_the_metric_draws_no_random_number():
    before = torch.get_rng_state()
    check_task(Tiny())
    try_evaluation(Tiny(), CPU)
    assert torch.equal(torch.get_rng_state(), before)


@dataclass(frozen=True)
class Counting(Tiny):
    """Counts its evaluations, as each makes a file in the folder."""

    folder: str = ""
    evaluates_quickly: bool = True

    def evaluate(self, model, device):
        (Path(self.folder) / str(len(list(Path(self.folder).iterdir())))).touch()
        return super().evaluate(model, device)


@pytest.mark.parametrize("quickly", [True, False])
def test_only_a_quick_evaluation_is_tried_and_only_where_nothing_is_there(tmp_path, quickly):
    marks = tmp_path / "marks"
    marks.mkdir()
    run = Run(Counting(folder=str(marks), evaluates_quickly=quickly), None, steps=4)
    for _ in range(2):
        execute(run, tmp_path / "runs", evaluations=2)
        assert len(list(marks.iterdir())) == 4 + quickly  # two on the way, and two of the result
    execute(replace(run, origin=Pretrained(run), steps=2), tmp_path / "runs", evaluations=1)
    assert len(list(marks.iterdir())) == (4 + quickly) + (3 + quickly)  # its start is there


@dataclass(frozen=True)
class SlowlyMisnamed(Misnamed):
    """Says that its evaluation is slow."""

    evaluates_quickly = False


def test_a_slow_evaluation_without_the_metric_is_refused_when_it_comes(tmp_path):
    with raises(ValueError, "tiny is judged by 'error', but its evaluate returns accuracy, loss; return it there"):
        execute(Run(SlowlyMisnamed(), None, steps=50), tmp_path, evaluations=25)
    assert not list(tmp_path.glob("*/checkpoint.pt"))  # it was the first evaluation


def test_imagenet_is_not_evaluated_before_its_training():
    assert not ImageNetResNet().evaluates_quickly


def test_a_task_with_a_test_of_its_own_is_checked_at_the_end():
    try_evaluation(Final(), CPU)  # its evaluate returns no error
    assert metrics(Final(), Final().model(), CPU).keys() == {"accuracy", "loss"}
    assert final_metrics(Final(), Final().model(), CPU) == {"error": 0.25, "loss": 0.5}
    with raises(ValueError, "tiny is judged by 'error', but its test returns mistakes, loss; return it there"):
        final_metrics(Final(key="mistakes"), Final().model(), CPU)


def test_what_a_task_cannot_do_it_refuses():
    task = Tiny()
    for ability in (lambda: task.with_images("x"), lambda: task.with_vocabulary("x"), task.translator):
        with raises(ValueError, "tiny"):
            ability()
    assert (task.metrics_note, task.weights_from({})) == ("", {})
    assert task.test(task.model(), CPU).keys() == {"accuracy", "loss"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"key": "top 5"}, ("a metric's key must be an identifier", "got 'top 5'")),
        ({"key": "sparsity"}, ("that a result does not use otherwise, got 'sparsity'; return the metric under",)),
        ({"full": 0.0}, ("full must be a positive value", "got 0.0 for mse; leave it out")),
        ({"full": 1.0, "higher_is_better": False}, ("full must be a positive value", "got 1.0 for mse")),
        ({"percent": True}, ("percent needs full",)),
    ],
)
def test_a_metric_that_contradicts_itself_is_refused(changes, parts):
    with raises(ValueError, *parts):
        Metric(**{"key": "mse", **changes})


def test_a_metric_without_bounds_is_a_score_by_its_sign():
    assert (ERROR.score(0.25), ERROR.value(-0.25), ERROR.worst_score) == (-0.25, 0.25, None)
    assert (ERROR.text(-0.01234), ERROR.range(-0.5, -0.25), ERROR.difference(0.01)) == ("0.0123", "0.25–0.5", "-0.01")
    assert ERROR.axis("error") == "error (lower is better)"
    assert (ACCURACY.worst_score, Metric("mse", higher_is_better=False, worst=2.0).worst_score) == (0.0, -2.0)


@pytest.mark.parametrize("metric", [ERROR, Metric("reward")])
def test_zero_has_no_sign_and_ranges_of_negative_values_are_not_joined_by_a_dash(metric):
    zero = metric.score(0)
    assert metric.text(zero) == "0"
    assert metric.range(zero, zero) == "0–0"
    assert metric.text(-0.0) == "0"
    ends = sorted((metric.score(-1.5), metric.score(-0.25)))
    assert metric.range(*ends) == "-1.5 to -0.25"
    assert metric.range(*sorted((metric.score(-1.5), metric.score(2)))) == "-1.5 to 2"
    assert metric.range(*sorted((metric.score(0), metric.score(2)))) == "0–2"


def returning(method, value):
    """A task whose method returns the value."""
    return dataclass(frozen=True)(type("Mine", (Tiny,), {method: lambda *_: value, "__module__": __name__}))()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "evaluate of tiny must return metrics by name, got None; return {'accuracy': value}"),
        (0.5, "evaluate of tiny must return metrics by name, got 0.5"),
        ({"accuracy": 0.5, "error": torch.tensor(0.5)}, "'error' of tiny must be a float, got tensor(0.5000)"),
        ({"accuracy": 0.5, "note": "good"}, "'note' of tiny must be a float, got 'good'"),
        (
            {"accuracy": 0.5, "step": 3},
            "evaluate of tiny returns step, which a run writes itself; give it",
        ),
    ],
)
def test_all_that_a_task_returns_is_checked_before_training(found, words):
    task = returning("evaluate", found)
    with raises(ValueError, words):
        try_evaluation(task, CPU)


@pytest.mark.parametrize("loss", [None, 0.5, torch.ones(4, requires_grad=True), torch.ones(())])
def test_a_loss_is_one_number_with_a_gradient(tmp_path, loss):
    run = Run(returning("loss", loss), None, steps=5)
    with raises(ValueError, "the loss of tiny must be a tensor of shape () with a gradient, got a "):
        prepare(run, CPU).objective((torch.ones(4, 2), torch.ones(4)))


@dataclass(frozen=True)
class Ending(Tiny):
    """Three batches."""

    def batches(self, seed, start, device):
        return iter([(torch.ones(4, 2), torch.ones(4).long())] * 3)


def test_batches_that_end_early_are_no_finished_run(tmp_path):
    run = Run(Ending(), None, steps=10)
    with raises(ValueError, "the batches of tiny end after 3 of 10 steps; make them endless"):
        execute(run, tmp_path)
    assert not (tmp_path / run.id / "result.json").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", Tiny),
        ("technique", type(PRUNE)),
        ("steps", "10"),
        ("steps", 10.5),
        ("seed", 1.5),
        ("seed", True),
        ("variant", 3),
        ("select", None),
    ],
)
def test_a_field_of_a_run_of_another_kind(field, value):
    with raises(ValueError, f"a run's {field} must be ", f"got {value!r}"):
        Run(**{"task": Tiny(), "technique": PRUNE, "steps": 5, field: value})
