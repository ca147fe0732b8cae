"""What is held out: which images a run trains on, is watched on and is judged on, and what its row says of that."""

import json
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import pytest
import torch

import openwork as ow
from openwork.study.data.batches import shuffled_batches, shuffled_indices
from openwork.study.data.digits import SCALE, digits
from openwork.study.data.images import Images, centered
from openwork.study.data.splits import Splits, splits
from openwork.study.evaluation.metric import ACCURACY, BLEU
from openwork.study.results.result import parsed
from openwork.study.results.score import metric_of
from openwork.study.results.store import flat, read_results
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import LotteryTicket, Pretrained, Scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.check import try_evaluation
from openwork.study.tasks.classification import ImageClassification, measure
from openwork.study.tasks.lenet import DigitsLeNet300100, MnistLeNet300100
from openwork.study.tasks.wmt import TextTranslation
from tests.helpers import raises
from tests.study.studies import results, row
from tests.study.tinylab import Tiny

CPU = torch.device("cpu")
PRUNE = ow.GradualMagnitude(ow.OneShot(0.5, at=2))


def levels(values, labels=None):
    """Images of one pixel with these values; by default labelled 0 and 1 in turn."""
    labels = [n % 2 for n in range(len(values))] if labels is None else labels
    return Images(torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels))


def minus_mean(train, others):
    """Both as float32 less the mean of the first."""
    return centered(train, others, 1.0)


def pixels(data):
    return data.images.flatten().tolist()


# --- the images -----------------------------------------------------------------------------------------------------


def test_the_last_images_are_held_out_and_prepared_by_those_that_are_trained_on():
    found = splits(levels([1, 3, 9, 7]), levels([2, 4]), 2, minus_mean)  # the mean of 1 and 3 is 2
    assert (pixels(found.train), pixels(found.validation), pixels(found.test)) == ([-1, 1], [7, 5], [0, 2])
    assert (found.train.labels.tolist(), found.validation.labels.tolist()) == ([0, 1], [0, 1])


def test_with_nothing_held_out_training_is_watched_on_the_test_images():
    found = splits(levels([1, 3, 9, 7]), levels([2, 4]), 0, minus_mean)  # the mean of all is 5
    assert (pixels(found.train), pixels(found.test)) == ([-4, -2, 4, 2], [-3, -1])
    assert found.validation is found.test


@pytest.mark.parametrize("held_out", [4, 5])
def test_some_images_must_be_left_to_train_on(held_out):
    with raises(
        ValueError, "held_out must be below 4, the number of training images, got", f"{held_out}; hold out fewer"
    ):
        splits(levels([1, 2, 3, 4]), levels([1]), held_out, minus_mean)


def test_images_sorted_by_class_are_not_split_into_classes():
    with raises(ValueError, "the last 2 training images show class 1 and the others do not; shuffle the file, or"):
        splits(levels([1, 2, 3, 4], [0, 0, 1, 1]), levels([1]), 2, minus_mean)
    assert splits(levels([1, 2, 3, 4], [0, 1, 0, 0]), levels([1]), 2, minus_mean).validation.labels.tolist() == [0, 0]


def test_digits_without_the_last_437_are_centered_by_the_first_1000():
    found = DigitsLeNet300100(held_out=437).data(CPU)
    assert [len(data.labels) for data in found] == [1000, 437, 360]
    raw = digits("train")
    mean = (raw.images[:1000].sum(0).double() / (1000 * SCALE)).float()
    assert torch.equal(found.train.images, raw.images[:1000] / SCALE - mean)
    assert torch.equal(found.validation.images, raw.images[1000:] / SCALE - mean)
    assert torch.equal(found.test.images, digits("test").images / SCALE - mean)


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"held_out": -1}, ("held_out must be at least 0, got -1",)),
        ({"order": -2}, ("order must be at least 0, got -2; None is the run's own seed",)),
        ({"judged_on": "validation"}, ("judged_on='validation' needs images", "got held_out=0; hold out some")),
    ],
)
def test_fields_that_make_no_sense_are_refused_when_the_task_is_made(fields, parts):
    with raises(ValueError, *parts):
        DigitsLeNet300100(**fields)


def test_data_that_nobody_knows_are_refused_when_the_run_is_made():
    for name in ("judged_on", "watched_on"):
        task = type("Mine", (Tiny,), {name: "training"})()
        with raises(ValueError, f"{name} of Mine must be 'test' or 'validation', got 'training'; choose one"):
            Run(task, None, steps=5)
    with raises(ValueError, "judged_on of DigitsLeNet300100 must be 'test' or 'validation', got 'train'"):
        Run(DigitsLeNet300100(held_out=5, judged_on="train"), None, steps=5)


def test_more_held_out_than_there_is_is_refused_before_there_is_a_directory(tmp_path):
    with raises(ValueError, "held_out must be below 1437, the number of training images, got 1437; hold out fewer"):
        execute(Run(DigitsLeNet300100(held_out=1437), None, steps=5), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_was_not_asked_for_changes_no_id():
    assert Run(DigitsLeNet300100(held_out=0, judged_on="test", order=None), None, steps=5).settings == "steps=5"
    assert DigitsLeNet300100().title == "LeNet-300-100, digits 8x8"
    assert Run(MnistLeNet300100(), None, 120_000).id == "82c68cceec54be94"  # as in results/mnist


def test_titles_keep_what_is_measured_apart():
    assert MnistLeNet300100(held_out=10_000).title == "LeNet-300-100, MNIST, 10,000 held out"
    validation = MnistLeNet300100(held_out=10_000, judged_on="validation")
    assert validation.title == "LeNet-300-100, MNIST, 10,000 held out, validation"
    assert (validation.metric.name, validation.metric.title) == ("validation accuracy", "validation accuracy")
    assert MnistLeNet300100(held_out=10_000).metric == ACCURACY
    assert (BLEU.on("test"), BLEU.on("validation").title) == (BLEU, "validation BLEU")


def test_a_task_is_judged_on_data_that_it_has():
    task = DigitsLeNet300100(held_out=437)
    assert task.judge_on("validation") == DigitsLeNet300100(held_out=437, judged_on="validation")
    assert task.judge_on("validation").judge_on("test") == task
    with raises(ValueError, "judged_on='validation' needs images that are not trained on"):
        DigitsLeNet300100().judge_on("validation")
    assert Tiny().judge_on("test") == Tiny()
    with raises(ValueError, "tiny holds no validation data out; leave --on out"):
        Tiny().judge_on("validation")


@pytest.mark.parametrize("kind", [Pretrained, LotteryTicket, Scratch])
def test_a_run_does_not_start_from_one_that_has_seen_what_it_holds_out(kind):
    def start(held_out):
        return kind(Run(DigitsLeNet300100(held_out=held_out), PRUNE, steps=5))

    for fewer in (0, 436):
        with raises(
            ValueError, f"holds out 437 images and the one that it starts from {fewer}", "task.held_out=437, too"
        ):
            Run(DigitsLeNet300100(held_out=437), None, steps=5, origin=start(fewer))
    for more in (437, 500):
        assert Run(DigitsLeNet300100(held_out=437), None, steps=5, origin=start(more)).prerequisites


def test_a_translation_does_not_start_from_a_run_that_has_seen_its_sets():
    task = TextTranslation(training=("news",), development="mine")
    start = Pretrained(Run(task, None, steps=5))
    assert Run(task.judge_on("validation"), None, steps=5, origin=start).prerequisites
    with raises(ValueError, "is judged on other, and the one that it starts from does not leave its sentences out"):
        Run(replace(task, development="other"), None, steps=5, origin=start)


# --- the order of batches -------------------------------------------------------------------------------------------


def test_indices_are_what_batches_hold():
    data = levels([10, 11, 12, 13, 14])
    for start in (0, 1, 5):
        indices = list(islice(shuffled_indices(5, 2, seed=3, start=start), 4))
        batches = list(islice(shuffled_batches(data, 2, seed=3, start=start), 4))
        assert [[10 + n for n in index.tolist()] for index in indices] == [
            images.flatten().tolist() for images, _ in batches
        ]
    assert (indices[0].dtype, indices[0].shape, indices[0].device) == (torch.int64, (2,), CPU)


def test_runs_of_one_order_see_the_same_batches_whatever_their_seed():
    def images(order, seed):
        return next(DigitsLeNet300100(order=order).batches(seed, 7, CPU))[0]

    assert torch.equal(images(5, 0), images(5, 1))
    assert torch.equal(images(5, 0), images(None, 5))
    assert not torch.equal(images(None, 0), images(None, 1))


# --- measuring ------------------------------------------------------------------------------------------------------


def test_measuring_by_hand_one_model_and_three():
    data = Images(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 1]))
    log = torch.tensor([0.8, 0.2]).log()  # the first class with 0.8: right once, for ln 1/0.8, and wrong thrice

    def first(images):
        return log.expand(len(images), 2)

    expected = (-(torch.tensor(0.8).log()) - 3 * torch.tensor(0.2).log()) / 4
    for batch_size in (1, 3, 4):
        accuracy, loss = measure(first, data, batch_size=batch_size)
        assert (accuracy.shape, loss.shape, float(accuracy)) == ((), (), 0.25)
        torch.testing.assert_close(loss, expected.double(), atol=1e-7, rtol=0)

        def three(images):
            return torch.stack([log, log.flip(0), torch.zeros(2)])[:, None].expand(3, len(images), 2)

        accuracy, losses = measure(three, data, batch_size=batch_size)
        assert accuracy.tolist() == [0.25, 0.75, 0.25]
        assert losses[0] == loss


# --- a run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched(ImageClassification):
    """One pixel, whose sign is the class: all of training, all of validation but one, and no test image fits that."""

    benchmark = "sign"
    read: ClassVar[list[str]] = []

    def model(self):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))

    def data(self, device):
        sets = ([-1.0, 1.0] * 100, [-1.0, 1.0, -1.0, 2.0], [-1.0, 3.0])
        labels = ([0, 1] * 100, [0, 1, 0, 0], [1, 0])
        images = [torch.tensor(values).view(-1, 1, 1, 1) for values in sets]
        train, validation, test = (Images(x, torch.tensor(y)) for x, y in zip(images, labels, strict=True))
        return Splits(train, validation if self.held_out else test, test)

    def logits(self, model, images):
        if len(images) < 100:
            self.read.append({4: "validation", 2: "test"}[len(images)])
        return super().logits(model, images)


@pytest.fixture
def read():
    """The sets that a run has read, in order."""
    Watched.read.clear()
    yield Watched.read
    Watched.read.clear()


def watched(**fields):
    return Run(Watched(peak_learning_rate=0.1, **fields), PRUNE, steps=60)


def test_a_split_s_test_set_is_read_once_by_the_model_that_is_reported(tmp_path, read):
    result = execute(watched(held_out=4), tmp_path, evaluations=3)
    # Tried before there is a directory, three times in training, and of the model before it was made plain.
    assert read == ["validation"] * 5 + ["test"]
    assert (result.before["accuracy"], result.after["accuracy"]) == (0.75, 0.0)
    assert (result.watched_on, result.judged_on) == ("validation", "test")
    rows = [json.loads(line) for line in (tmp_path / result.id / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["accuracy"] == 0.75
    assert result == read_results(tmp_path)[0]


def test_a_run_that_settings_are_chosen_by_reads_no_test_image(tmp_path, read):
    result = execute(watched(held_out=4, judged_on="validation"), tmp_path, evaluations=3)
    assert read == ["validation"] * 6
    assert (result.score, result.task) == (0.75, "sign, 4 held out, validation")
    assert (flat(result)["watched_on"], flat(result)["judged_on"]) == ("validation", "validation")


def test_without_a_split_training_is_watched_on_the_test_set(tmp_path, read):
    result = execute(watched(), tmp_path, evaluations=3)
    assert read == ["test"] * 6
    assert (flat(result)["watched_on"], flat(result)["judged_on"]) == ("test", "test")


def test_an_evaluation_is_tried_before_training_though_the_task_has_a_test_of_its_own(read):
    try_evaluation(Watched(held_out=4), CPU)
    assert read == ["validation"]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_a_result_without_these_words_was_measured_on_the_test_set():
    assert "judged_on" not in row()
    assert (parsed(row()).judged_on, parsed(row()).watched_on) == ("test", "test")
    assert parsed({**row(), "watched_on": "validation"}).watched_on == "validation"
    with raises(ValueError, "judged_on is 'training', neither 'test' nor 'validation'"):
        parsed({**row(), "judged_on": "training"})


def test_scores_on_two_sets_under_one_title_are_not_compared():
    with raises(ValueError, "is judged on test data and run", "on validation data; compare those of one kind"):
        metric_of(results([row(), {**row(seed=1), "judged_on": "validation"}]))
