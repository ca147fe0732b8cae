"""What computes for all runs of a fleet is the same in all of them, or they are trained one by one."""

import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from weakref import ref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import openwork as ow
from openwork.study.fleet import memory
from openwork.study.fleet.common import DiffersError, common
from openwork.study.fleet.execute import execute_fleet
from openwork.study.fleet.same import check_same, same
from openwork.study.fleet.training import Training
from openwork.study.models.lenet import LeNet300100
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.study import pythonlab
from tests.study.pythonlab import Cached, Coin, Counting, Decayed, Local, Net, Noisy, OfTwoSeeds, Wayward
from tests.study.test_fleet_alone import both, widths
from tests.study.tinylab import PRUNE

CPU = torch.device("cpu")


def runs(tasks, technique=PRUNE):
    """Of tasks that differ in the middle: the last run is as the first one, with another seed."""
    return [Run(task, technique, steps=12, seed=seed) for seed, task in enumerate(tasks)]


# Models.


@pytest.mark.parametrize("way", pythonlab.WAYS)
def test_a_model_whose_python_is_another_in_the_middle_is_trained_alone(way, tmp_path):
    ended, (sentence,) = both(runs([Wayward(way=way, scale=scale) for scale in (0.5, 2.0, 0.5)]), tmp_path)
    assert widths(ended) == [None] * 3
    assert ("has other tensors than" if way == "frozen" else "of model 1 is not that of the first one") in sentence


@pytest.mark.parametrize("way", pythonlab.WAYS)
def test_models_made_anew_of_the_same_python_are_a_fleet(way, tmp_path):
    ended, said = both(runs([Wayward(way=way, scale=0.5)] * 3), tmp_path)
    assert widths(ended) == [3] * 3
    assert not said


def test_an_activation_that_the_seed_decides_is_that_of_each_run(tmp_path):
    ended, (sentence,) = both(runs([Coin()] * 9), tmp_path)
    assert widths(ended) == [None] * 9
    assert "between of model" in sentence


def test_a_model_that_keeps_what_it_has_computed_once_is_a_fleet(tmp_path):
    ended, said = both(runs([Counting()] * 3), tmp_path)
    assert widths(ended) == [3] * 3
    assert not said


class WithNumber:
    """Equal to itself alone."""

    def __init__(self) -> None:
        self.number = 1


def test_what_is_none_in_one_model_may_have_been_made_since_but_nothing_inside_of_a_value():
    models = [Net(torch.relu) for _ in range(2)]
    models[0].made, models[1].made = WithNumber(), None
    models[0].kept, models[1].kept = [1], [1]
    check_same(models, trained=True)
    models[0].kept, models[1].kept = [WithNumber()], [None]
    with pytest.raises(ValueError, match=r"^kept of model 1"):
        check_same(models, trained=True)


def test_a_model_that_counts_its_steps_is_trained_alone(tmp_path):
    ended, (sentence,) = both(runs([Counting(counts=True)] * 3), tmp_path)
    assert widths(ended) == [None] * 3
    assert "between.passes of model 1 is not that of the first one" in sentence


def test_a_run_whose_memory_was_measured_is_as_it_was_before():
    live = prepare(Run(Counting(counts=True), None, steps=4), CPU)
    memory.bytes_of_a_run(live)
    assert (live.model.between.passes, live.model.between.kept, live.model.training) == (0, None, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(2, 3, num_layers=2),
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten()),
    ],
    ids=["lstm", "transformer", "weight norm", "orthogonal", "convolution"],
)
def test_torchs_own_layers_are_the_same(make):
    check_same([make() for _ in range(3)])


def test_random_weights_whose_numbers_differ_are_the_same():
    models = [nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 3)) for _ in range(3)]
    for number, model in enumerate(models):
        ow.sparsify(model, ow.VariationalDropout(ow.Constant(number / 10), threshold=1.0 + number))
    check_same(models)


def test_a_module_that_its_model_does_not_know_is_compared_with_its_weights():
    models = [nn.Linear(2, 2) for _ in range(2)]
    for model in models:
        object.__setattr__(model, "unknown", [nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"^unknown of model 1 is not that of the first one"):
        check_same(models)
    models[1].unknown = models[0].unknown
    check_same(models)
    models[1].unknown = [models[1]]
    with pytest.raises(ValueError, match=r"^unknown of model 1"):
        check_same(models)
    models[0].unknown = [models[0]]
    check_same(models)


def test_models_of_other_modules_are_named():
    with pytest.raises(ValueError, match=r"^1 of model 1 is not"):
        check_same([nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU())])
    with pytest.raises(ValueError, match=r"^the class of model 2 is not"):
        check_same([nn.ReLU(), nn.ReLU(), nn.Tanh()])


def cyclic(number):
    kept = {"number": number}
    kept["itself"] = [kept, ref(nn.Module)]
    return kept


@dataclass(slots=True)
class Held:
    """Without a dictionary, and of a tensor, so that == raises."""

    tensor: torch.Tensor


def with_attribute(number):
    tensor = torch.ones(3)
    tensor.number = number
    return tensor


VALUES = {
    "numbers": lambda n: [n, float(n), complex(n), bool(n)],
    "an array": lambda n: np.full(3, n),
    "a tensor": lambda n: torch.full((3,), n),
    "a sparse tensor": lambda n: (n * torch.eye(3)).to_sparse(),
    "a dtype": lambda n: (torch.float32, torch.float64)[n],
    "a set": lambda n: {n, 7},
    "a range": lambda n: range(n),
    "a slice": lambda n: slice(n),
    "a cycle": cyclic,
    "a partial": lambda n: partial(max, n),
    "a generator": lambda n: torch.Generator().manual_seed(n),
    "an object": lambda n: Local(float(n)),
    "slots": lambda n: pythonlab.Slotted(float(n)),
    "a tensor in slots": lambda n: Held(torch.full((3,), n)),
    "a path, which keeps what it computed": lambda n: Path(str(n)),
    "a tensor with an attribute": with_attribute,
    "tensors in a deque": lambda n: deque([torch.full((3,), n)]),
    "a default": lambda n: defaultdict(lambda: n),
    "numpy's generator": np.random.default_rng,
    "Python's generator": Random,
    "functions": lambda n: [lambda: n, lambda x=n: x],
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_values_are_the_same_where_they_are_equal(make):
    assert same(make(0), make(0))
    assert same(make(1), make(1))
    assert not same(make(0), make(1))
    assert not same(make(0), None)


def test_numbers_that_are_no_numbers_are_the_same_and_other_kinds_of_number_are_not():
    assert same([float("nan")], [float("nan")])
    assert not same(1, 1.0)
    assert same(object(), object())  # what cannot be compared is left to the trial


def test_four_thousand_lenets_are_compared_in_less_than_a_second():
    models = [LeNet300100(inputs=64, classes=2) for _ in range(1_000)]
    began = time.process_time()
    check_same(models)
    assert time.process_time() - began < 1  # a quarter of 0.1 s, measured on an idle machine


# Tasks.


@pytest.mark.parametrize(
    ("kind", "where", "reader"),
    [
        (Decayed, "loss", "Decayed.loss reads l2"),
        (Decayed, "property", "Decayed.twice reads l2"),
        (Decayed, "evaluate", "Decayed.evaluate reads l2"),
        (Decayed, "test", "Decayed.test reads l2"),
        (Cached, "post init", "Cached.loss reads _made"),
        (Cached, "lazy", "Cached.lazy reads l2"),
        (Cached, "cache", "_of_task reads l2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_reads_a_number_that_differs_is_named_and_trained_alone(kind, where, reader, tmp_path):
    ended, (sentence,) = both(runs([kind(l2=l2, where=where) for l2 in (0.0, 0.5, 0.0)]), tmp_path)
    assert widths(ended) == [None] * 3
    assert f"{reader}, which differs between these runs, while one of them computes for all" in sentence
    assert f"leave it out of `varying` of {kind.__name__}" in sentence


@pytest.mark.parametrize("where", ["loss", "evaluate"])
def test_what_reads_a_number_that_is_the_same_in_all_runs_is_a_fleet(where, tmp_path):
    ended, said = both(runs([Decayed(l2=0.5, where=where)] * 3), tmp_path)
    assert widths(ended) == [3] * 3
    assert not said


@pytest.mark.parametrize("in_turn", [False, True])
def test_batches_that_read_a_number_that_differs_are_those_of_each_run(in_turn, tmp_path, monkeypatch):
    if in_turn:
        monkeypatch.setattr("openwork.study.fleet.memory.FULL", 0)
    tasks = [Noisy(noise=noise, order=3) for noise in (0.1, 0.8, 0.1)]
    ended, said = both(runs(tasks), tmp_path)
    assert widths(ended) == [3] * 3
    assert not said


def test_batches_that_depend_on_the_seed_although_their_own_is_the_same_are_those_of_each_run(tmp_path):
    tasks = [OfTwoSeeds(rate=rate) for rate in (0.1, 0.1, 0.2)]
    ended, said = both([Run(task, PRUNE, 12, seed) for task, seed in zip(tasks, (0, 1, 0), strict=True)], tmp_path)
    assert widths(ended) == [3] * 3
    assert not said


def test_batches_that_read_it_later_are_found_when_they_do(tmp_path):
    tasks = [Noisy(noise=noise, order=3, after=5) for noise in (0.1, 0.8, 0.1)]
    ended, (sentence,) = both(runs(tasks), tmp_path)
    assert widths(ended) == [None] * 3
    assert "Noisy.batches reads noise" in sentence


@pytest.mark.parametrize(
    ("tasks", "shared"),
    [
        ([Noisy(order=3, rate=rate) for rate in (0.1, 0.2)], True),
        ([Noisy(order=order) for order in (0, None)], False),  # of one seed of batches, by an order that differs
        ([DigitsLeNet300100(peak_learning_rate=rate, order=3) for rate in (0.1, 0.2)], True),
        ([DigitsLeNet300100(order=3, beginning=0.5 + n / 4, behind=n / 8, lasagne=bool(n)) for n in (0, 1)], True),
        ([DigitsLeNet300100(order=order) for order in (0, None)], False),
    ],
)
def test_runs_of_one_order_share_their_batches_where_these_read_nothing_that_differs(tasks, shared):
    lives = [prepare(Run(task, None, steps=4), CPU) for task in tasks]
    training = Training(lives)
    assert training._shared is shared
    training.step(next(training.batches()))


def test_built_in_tasks_compute_for_all_runs_whatever_differs(tmp_path):
    tasks = [
        DigitsLeNet300100(peak_learning_rate=1e-2, held_out=300),
        DigitsLeNet300100(peak_learning_rate=1e-3, held_out=300, order=5, lasagne=True, beginning=0.5, behind=0.25),
    ]
    found = execute_fleet([Run(task, PRUNE, steps=6) for task in tasks], tmp_path, evaluations=2)
    assert [result.environment.fleet for result in found.values()] == [2, 2]


def test_the_common_task_is_the_first_one_but_for_what_differs():
    first = Noisy(noise=0.1, rate=0.1)
    assert common([first, first, replace(first)]) is first
    task = common([first, replace(first, rate=0.2)])
    assert (type(task).__name__, task.noise, task.title, task.metric) == ("Noisy", 0.1, "tiny", first.metric)
    assert isinstance(task, Noisy)
    with pytest.raises(DiffersError, match=r"^Noisy.learning_rate reads rate, which differs between these runs"):
        task.learning_rate(0.0)
    assert first.learning_rate(0.0) == 0.1
