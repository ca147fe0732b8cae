"""The runs of results/large/PLAN.md: what is compared differs in nothing else, and choices see no test data."""

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import openwork as ow
from openwork.study.experiments import large_probes, large_resnet50, large_transformer, resnet50
from openwork.study.experiments.scratch import SCHEMES, scheme
from openwork.study.runs.run import with_prerequisites
from openwork.study.runs.unfinished import unfinished_schedules

ROWS = Path(__file__).parents[2] / "results" / "translation" / "rows.csv"
PAPER = {"warm_up": 5.0, "milestones": (30.0, 60.0, 80.0), "length": 102.0, "every": 30.0}


def resnets():
    """All runs of ResNet-50 on CIFAR-10, with some choices."""
    found = [large_resnet50.compared(20), large_resnet50.compared(30), large_resnet50.narrow()]
    found += [large_resnet50.pilots_beyond(), large_resnet50.between(), large_resnet50.pilots_of_gates()]
    found += [large_resnet50.beyond([("magnitude", "extended/76"), ("variational dropout", "-10/5")])]
    found += [large_resnet50.gates(["100/2000", "100/2000", "10/1500"])]
    found += [large_resnet50.masks(level, number, range(3)) for level in (0.95, 0.8) for number in range(3)]
    return {key: run for runs in found for key, run in runs.items()}


def test_the_schemes_of_scratch_b_by_hand():
    assert [scheme(name, **PAPER) for name in SCHEMES] == [
        (10.0, (60.0, 120.0, 160.0)),
        (5.0, (30.0, 60.0, 80.0)),
        (5.0, (30.0, 60.0, 80.0, 110.0, 140.0, 170.0, 200.0)),
        (0.0, (30.0, 60.0, 90.0, 120.0, 150.0, 180.0)),
    ]
    assert scheme(SCHEMES[3], **PAPER | {"length": 30.0})[1] == (30.0,)  # the end is no milestone
    with pytest.raises(ValueError, match=r"the scheme must be one of stretched, final rate kept, .*, got 'linear'"):
        scheme("linear", **PAPER)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"every must be positive, got .*; the paper's is 30 epochs"):
            scheme(SCHEMES[2], **PAPER | {"every": wrong})


def test_on_imagenet_the_other_schemes_have_their_rates_at_their_epochs():
    runs = resnet50.other_schedules()
    assert Counter(run.variant for run in runs) == dict.fromkeys(SCHEMES[1:], 90)
    whole = 2 * resnet50.EPOCHS
    rates = {
        run.variant: [run.task.learning_rate(epoch / whole) for epoch in (1, 31, 85, 111, 204)] for run in runs[::90]
    }
    assert rates == {
        "final rate kept": pytest.approx([0.08, 0.04, 0.0004, 0.0004, 0.0004]),
        "decay goes on": pytest.approx([0.08, 0.04, 0.0004, 0.00004, 4e-8]),
        "decay from the start": pytest.approx([0.4, 0.04, 0.004, 0.0004, 4e-7]),
    }


def test_every_cell_has_three_seeds_and_all_runs_differ():
    runs = resnets()
    assert len({run.id for run in runs.values()}) == len(runs)
    cells = Counter(key[:3] for key in runs if "pilots" not in key[0] and "masks" not in key[0])
    assert set(cells.values()) == {3, 5}
    assert {key[0] for key, n in cells.items() if n == 5} == {"ResNet-50 x 0.25"}
    assert unfinished_schedules(with_prerequisites(runs.values())) == []


def test_pilots_never_read_the_test_set_and_nothing_trains_on_held_out_images():
    for key, run in resnets().items():
        assert run.task.held_out == 5_000
        assert run.task.judged_on == ("validation" if "pilots" in key[0] else "test")
        assert (run.seed == 1_000) == ("pilots" in key[0])


def test_techniques_of_a_level_differ_in_the_technique_alone():
    for epochs in (20, 30):
        runs = [run for key, run in large_resnet50.compared(epochs).items() if key[3] == 0]
        assert {run.steps for run in runs} == {epochs * 175}
        assert {replace(run.task, decay_random=False) for run in runs} == {runs[0].task}
        schedules = {run.technique.schedule for run in runs if isinstance(run.technique, ow.MaskTechnique)}
        assert len({(each.begin, each.end, each.every) for each in schedules}) == 1


def test_the_penalty_of_l0_moves_gates_alike_at_every_rate():
    runs = {**large_resnet50.between(), **large_resnet50.between(1_000.0), **large_resnet50.pilots_of_gates()}
    for (_, _, setting, _), run in runs.items():
        rate, weight = map(float, setting.split("/"))
        assert run.task.learned_rate == rate
        assert run.technique.coefficient.final * rate * 45_000 == pytest.approx(weight)


def test_networks_of_a_mask_have_its_task_and_twice_the_steps_only_in_scratch_b():
    for module, level in ((large_resnet50, 0.9), (large_transformer, 0.8)):
        runs = module.masks(level, 1, range(2))
        masked = next(run for key, run in runs.items() if key[1] == "magnitude")
        assert {run.kept_zeros.id for run in runs.values() if run is not masked} == {masked.id}
        for (_, kind, _, seed), run in runs.items():
            assert run.steps == (2 if kind.startswith("scratch-b") else 1) * masked.steps
            assert seed == masked.seed == 1 or seed in (200, 201)


def test_scratch_b_of_the_transformer_has_the_rate_of_the_step():
    runs = large_transformer.masks(0.5, 0, [0])
    once, twice = (runs["Transformer, masks", kind, "0.5", 100] for kind in ("scratch-e", "scratch-b"))
    for step in (500, 1_000, 4_000):
        assert twice.task.learning_rate(step / twice.steps) == pytest.approx(once.task.learning_rate(step / once.steps))


def test_seed_0_of_the_transformer_is_in_the_rows_of_translation():
    with ROWS.open(newline="", encoding="utf-8") as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    runs = [run for name in ("dense", "magnitude", "random") for run in large_transformer.told(name).values()]
    assert {replace(run, seed=0).id for run in runs} <= ids
    assert len(runs) == 2 * 15


def test_the_first_convolution_is_dense_in_half_of_its_runs():
    runs = large_probes.first_convolution(early=False) | large_probes.first_convolution(early=True)
    names = ("all layers sparse", "first convolution dense")
    late = {(name, rate): 3 for name in names for rate in ("0.4", "0.05")}
    assert Counter((key[1], key[2]) for key in runs) == late | {(f"{name}, early", "0.4"): 3 for name in names}
    layer = nn.Conv2d(3, 4, 7, bias=False)
    for (_, name, rate, _), run in runs.items():
        assert run.task.learning_rate(0.1) == pytest.approx(float(rate))
        assert run.select("conv1.weight", layer.weight, layer) == name.startswith("all layers sparse")
        assert run.technique.schedule(run.steps) == 0.98
        falls = next(step for step in range(run.steps) if run.task.learning_rate(step / run.steps) < 0.99 * float(rate)
                     and step > run.steps // 10)  # fmt: skip
        assert (run.technique.schedule(falls) > 0.8) == name.endswith("early")
        assert run.technique.schedule(falls) == 0 or name.endswith("early")
