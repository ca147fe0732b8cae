"""What n counts: one for each seed, and of networks that keep another run's zeros one for each of these runs."""

import csv
import json
import re
from dataclasses import replace
from statistics import fmean

import pytest

import openwork as ow
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.experiments.imp import iterative_pruning
from openwork.study.experiments.scratch import lottery_tickets, scratch
from openwork.study.published.overlay import own_bands
from openwork.study.report.layers import _mean_layers
from openwork.study.report.page import write_report
from openwork.study.results.claims import as_good_as
from openwork.study.results.frontier import at_levels, by_seed
from openwork.study.results.fronts import fronts
from openwork.study.results.matched import match
from openwork.study.results.paired import paired_results
from openwork.study.results.result import Result
from openwork.study.results.seeds import settings_without_seeds
from openwork.study.results.statistics import pareto, summarize, tried, without_parts, write_points
from openwork.study.results.store import read_results
from openwork.study.results.student import bounded_interval
from openwork.study.results.tuning import choose, tuned
from openwork.study.runs.config import to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import LotteryTicket, Retrained, Rewound, Scratch
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.helpers import raises
from tests.study.studies import diverged, results, row, study

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
DENSE = Run(TASK, None, steps=20)
SPARSE = replace(DENSE, technique=ow.GradualMagnitude(ow.OneShot(0.75, at=10)))
SEEDS = (0, 1, 2)


def kept(kind, mask, seed, accuracy, *, sparsity=0.9, status="finished"):
    """A network that keeps the zeros of the run of seed ``mask``."""
    made = diverged if status == "diverged" else row
    zeros = {"steps": 10, "technique": {"type": "L0"}, "seed": mask}
    settings = f"steps=10, origin={kind}(L0(steps=10, seed={mask}))"
    found = made(kind, settings, seed, sparsity=sparsity, accuracy=accuracy)
    run = {"steps": 10, "technique": None, "seed": seed, "origin": {"type": kind, "run": zeros}}
    return {**found, "run": run}


# Two masks, three tickets of each, of which one has the seed of its mask, as `lottery_tickets` makes them.
SCORES = {(0, 0): 0.90, (0, 1): 0.92, (0, 2): 0.94, (1, 0): 0.80, (1, 1): 0.81, (1, 2): 0.82}
REPLICAS = [kept("LotteryTicket", mask, seed, accuracy) for (mask, seed), accuracy in SCORES.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a study of all kinds of networks that keep zeros, with three seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for seed in SEEDS:
        dense, sparse = replace(DENSE, seed=seed), replace(SPARSE, seed=seed)
        runs += iterative_pruning(dense, 2, step=5, fraction=0.5)
        runs += iterative_pruning(dense, 2, step=5, fraction=0.5, rewind="learning rate")
        runs += [sparse, *scratch(sparse, 1)]
    for run in with_prerequisites(runs):
        execute(run, folder, evaluations=1)
    return folder


def test_each_round_of_iterative_pruning_is_one_point_over_its_seeds(trained):
    points = [point for point in summarize(read_results(trained)) if not point.dense]
    assert sorted((point.name, round(point.sparsity, 2), point.n, point.runs) for point in points) == [
        ("GradualMagnitude", 0.75, 3, 3),
        ("Retrained", 0.5, 3, 3),
        ("Retrained", 0.75, 3, 3),
        ("Rewound", 0.5, 3, 3),
        ("Rewound", 0.75, 3, 3),
        ("Scratch", 0.75, 3, 3),
    ]
    assert all(point.interval for point in points)
    assert not any("seed=" in point.settings for point in points)
    rewound, _ = (point for point in points if point.name == "Rewound")
    assert rewound.settings.endswith(
        "origin=Rewound(dense(steps=20, task.peak_learning_rate=0.005), pruned=0.5, step=5)"
    )


def test_networks_that_keep_zeros_are_paired_with_the_run_that_found_them(trained):
    found: dict[str, list[Result]] = {}
    for result in read_results(trained):
        name = "second round" if (origin := result.run.get("origin")) and "origin" in origin["run"] else result.name
        found.setdefault(name, []).append(result)
    assert [result.seed for result in found["Scratch"]] == [1, 2, 3]
    masks = {result.seed: result.score for result in found["GradualMagnitude"]}
    for name, shift in (("Scratch", 1), ("Rewound", 0)):
        scores = {result.seed - shift: result.score for result in found[name]}
        difference = paired_results(found[name], found["GradualMagnitude"])
        assert difference.seeds == SEEDS
        assert difference.values == tuple(scores[seed] - masks[seed] for seed in SEEDS)
    techniques = by_seed(read_results(trained))
    assert techniques.keys() == {"GradualMagnitude", "Retrained", "Rewound", "Scratch"}
    assert all(sorted(seeds) == [0, 1, 2] for seeds in techniques.values())


def test_the_report_counts_and_filters_by_the_seed_of_the_mask(trained, tmp_path):
    text = write_report(trained, tmp_path / "out").read_text()
    points = json.loads(re.search(r"^const packed = (.*);$", text, re.M).group(1))["points"]
    assert set(points["n"]) == {3}
    filters = json.loads(re.search(r"^const filters = (.*);$", text, re.M).group(1))
    assert filters["hiddenSeeds"]["choices"] == [0, 1, 2]
    assert "counts under that run's seed" in text.replace("&#x27;", "'")
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["n"], line["runs"]) for line in lines} == {("3", "3")}
    assert all(line["interval_low"] for line in lines)


def test_several_networks_of_one_mask_count_once_with_their_mean():
    (point,) = summarize(results(REPLICAS))
    assert (point.n, point.runs, point.diverged) == (2, 6, 0)
    assert point.score == pytest.approx(fmean([0.92, 0.81]))
    assert point.interval == pytest.approx(bounded_interval([0.92, 0.81], ACCURACY))
    assert (point.lowest, point.highest) == (0.80, 0.94)  # of runs
    assert point.settings == "steps=10, origin=LotteryTicket(L0(steps=10))"
    (alone,) = summarize(results(REPLICAS[:3]))
    assert (alone.n, alone.runs, alone.interval) == (1, 3, None)


def test_masks_weigh_the_same_however_many_networks_keep_each():
    (point,) = summarize(results([*REPLICAS[:3], REPLICAS[4]]))
    assert point.score == pytest.approx(fmean([0.92, 0.81]))


def test_a_diverged_network_is_in_no_mean_and_a_failure_of_its_mask_in_comparisons():
    rows = [*REPLICAS[:3], kept("LotteryTicket", 0, 7, 0.0, status="diverged")]
    (point,) = summarize(results(rows))
    assert (point.n, point.runs, point.diverged) == (1, 3, 1)
    assert tried([point])["LotteryTicket"] == [(pytest.approx(0.9), pytest.approx((3 * 0.92 + 0) / 4))]
    difference = paired_results(results(rows), results([row("L0", seed=0, accuracy=0.9)]))
    assert difference.diverged == (0,)
    assert difference.ours == (pytest.approx((0.90 + 0.92 + 0.94 + 0) / 4),)
    (lost,) = summarize(results(rows[3:]))
    assert (lost.n, lost.runs, lost.diverged) == (0, 0, 1)
    assert by_seed(results(rows[3:])) == {"LotteryTicket": {0: []}}


def test_a_diverged_network_counts_with_the_worst_score_in_the_mean_of_its_mask():
    rows = [*REPLICAS, kept("LotteryTicket", 1, 7, 0.0, status="diverged")]
    mean = (0.80 + 0.81 + 0.82 + 0) / 4
    assert by_seed(results(rows)) == {
        "LotteryTicket": {0: [(0.9, pytest.approx(0.92))], 1: [(0.9, pytest.approx(mean))]}
    }
    controls = [row("L0", seed=seed, accuracy=0.5) for seed in (0, 1)]
    difference = paired_results(results(rows), results(controls))
    assert difference.ours == (pytest.approx(0.92), pytest.approx(mean))  # as on a frontier


def test_a_frontier_is_of_means_and_not_of_the_luckiest_network():
    assert by_seed(results(REPLICAS)) == {
        "LotteryTicket": {0: [(0.9, pytest.approx(0.92))], 1: [(0.9, pytest.approx(0.81))]}
    }
    assert at_levels(results(REPLICAS), [0.9]) == [
        ("LotteryTicket", 0.9, 0, pytest.approx(0.92)),
        ("LotteryTicket", 0.9, 1, pytest.approx(0.81)),
    ]
    found = fronts(results(REPLICAS))
    assert found.keys() == {(0,), (1,), (0, 1)}
    assert [(p.n, round(p.score, 6)) for (p,) in found.values()] == [(1, 0.92), (1, 0.81), (2, 0.865)]
    (best,) = pareto(summarize(results(REPLICAS)))
    assert best.settings == found[0, 1][0].settings


def test_claims_about_kinds_of_networks_have_as_many_pairs_as_masks():
    again = [kept("Scratch", mask, 100 + 10 * mask + seed, score - 0.05) for (mask, seed), score in SCORES.items()]
    difference = paired_results(results(REPLICAS), results(again))
    assert (difference.seeds, difference.values) == ((0, 1), pytest.approx((0.05, 0.05)))
    assert not as_good_as(difference, 0.1).holds  # no spread was seen
    some = paired_results(results(REPLICAS), results([*again[:5]]))  # one replica fewer of the second mask
    assert some.values == pytest.approx((0.05, 0.81 - 0.755))


def test_layers_are_means_over_masks():
    rows = [kept("LotteryTicket", 0, seed, 0.9, sparsity=0.8) for seed in SEEDS]
    found = results([*rows, kept("LotteryTicket", 1, 1, 0.9, sparsity=0.9)])
    (point,) = summarize(found)
    assert point.sparsity == pytest.approx(0.85)
    (layer,) = _mean_layers(point, found)
    assert (layer.nonzero, layer.sparsity) == (pytest.approx(15), pytest.approx(0.85))


def test_two_sweeps_are_matched_by_masks():
    second = [kept("LotteryTicket", mask, 50 + seed, score + 0.01) for (mask, seed), score in SCORES.items()]
    found = match(results(REPLICAS), results(second), [0.9])
    ((one, other, compared),) = found.cells
    assert (len(one), len(other), compared.value.seeds) == (6, 6, (0, 1))
    assert compared.value.values == pytest.approx((0.01, 0.01))
    assert found.levels[0.9, "LotteryTicket"].value.n == 2
    assert not found.changed


def test_the_same_network_twice_is_refused_and_sides_without_a_common_mask_say_why():
    with raises(ValueError, "with seed 1; say in the settings how they differ"):
        summarize(results([*REPLICAS, {**REPLICAS[1], "id": "again"}]))
    with raises(ValueError, "ours have seed 0 and theirs 0, 1, 2, where a network that keeps the zeros of another run"):
        paired_results(results(REPLICAS[:3]), results(row("L0", seed=seed) for seed in SEEDS))


def test_the_report_says_how_many_runs_a_seed_has(tmp_path):
    text = write_report(study(tmp_path, [row(sparsity=0.5), *REPLICAS]), tmp_path / "out").read_text()
    assert "2 (6 runs)" in text
    tables = json.loads(re.search(r"^const tables = (.*);$", text, re.M).group(1))
    assert ["runs", "runs", "number"] in tables["points"]["columns"]
    assert "several that keep those of one run count once" in text
    write_points(summarize(results(REPLICAS)), tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["n"], line["runs"]) == ("2", "6")


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: iterative_pruning(replace(DENSE, seed=seed), 3, step=5)[-1],
        lambda seed: iterative_pruning(replace(DENSE, seed=seed), 3, step=5, rewind="learning rate")[-1],
        lambda seed: scratch(replace(SPARSE, seed=seed), 1, augmented=True)[0],
        lambda seed: lottery_tickets(replace(SPARSE, seed=seed), 3)[2],
        lambda seed: replace(DENSE, seed=seed, origin=Rewound(replace(SPARSE, seed=seed), 5, shuffled=True)),
        lambda seed: replace(
            DENSE,
            seed=8,
            origin=LotteryTicket(replace(DENSE, seed=9, origin=Scratch(replace(SPARSE, seed=seed)))),
        ),
    ],
)
def test_seeds_of_masks_are_in_no_group_and_no_shared_settings(make):
    def result(seed):
        run = make(seed)
        said = {**row(seed=run.seed), "settings": run.settings, "run": to_plain(run)}
        return results([said])[0]

    one, other = result(3), result(4)
    assert (one.replicate, other.replicate) == (3, 4)
    assert one.group == other.group
    assert one.settings != other.settings
    assert one.shared_settings == other.shared_settings
    assert "seed=" not in one.shared_settings


def test_only_the_seeds_of_masks_are_left_out_of_settings():
    run = {"seed": 5, "origin": {"type": "Scratch", "run": {"seed": 3}}}
    said = "a=Mine(b=1, seed=3), origin=Scratch(L0(c=Mine(b=1, seed=3), steps=10, seed=3), augmented=True)"
    assert settings_without_seeds(said, run) == said.replace(", seed=3), augmented", "), augmented")
    assert settings_without_seeds("a=Mine(b=1, seed=3), steps=10", {"seed": 3}) == "a=Mine(b=1, seed=3), steps=10"
    assert settings_without_seeds("of another kind", run) == "of another kind"


def test_tuning_runs_of_several_masks_are_one_setting():
    rows = [{**kept("Scratch", seed, seed + 1, 0.9), "judged_on": "validation"} for seed in SEEDS]
    (choice,) = choose(map(tuned, results(rows)), [0.9])
    assert (choice.settings, choice.tried) == ("steps=10, origin=Scratch(L0(steps=10))", 1)


def test_tuning_runs_of_replicas_are_told_apart_by_the_seed_of_their_mask():
    rows = [row | {"judged_on": "validation"} for row in REPLICAS]
    (choice,) = choose(map(tuned, results(rows)), [0.9])
    assert (choice.tried, choice.score) == (1, pytest.approx(fmean([0.92, 0.81])))
    (choice,) = choose(map(tuned, results([*rows[:3], rows[3]])), [0.9])  # each mask weighs the same
    assert choice.score == pytest.approx(fmean([0.92, 0.80]))
    with pytest.raises(ValueError, match=r"two tuning runs are LotteryTicket .* with seed \(0, 0\)"):
        choose(map(tuned, results([*rows, rows[0]])), [0.9])


def test_runs_from_a_sparse_pre_training_count_by_their_own_seeds():
    ticket = {"steps": 10, "technique": None, "origin": {"type": "LotteryTicket", "run": {"steps": 10, "seed": 4}}}
    rows = []
    for seed in SEEDS:
        made = row("L0", "steps=10", seed, sparsity=0.9, accuracy=0.9)
        origin = {"type": "Pretrained", "run": {**ticket, "seed": seed}}
        rows.append({**made, "run": {"steps": 10, "technique": {"type": "L0"}, "seed": seed, "origin": origin}})
    found = results(rows)
    assert [result.replicate for result in found] == [*SEEDS]
    (point,) = summarize(found)
    assert (point.n, point.runs) == (3, 3)
    other = {**ticket, "origin": {"type": "LotteryTicket", "run": {"steps": 10, "seed": 5}}}
    rows[0]["run"]["origin"]["run"] = {**other, "seed": 0}
    assert sorted(point.n for point in summarize(results(rows))) == [1, 2]  # of another mask: another setting


def test_a_band_weighs_masks_alike_and_takes_runs_of_several_settings_with_one_seed():
    other = kept("LotteryTicket", 0, 0, 0.80)
    other["run"] = {**other["run"], "steps": 20}  # another setting, with a seed that one of the first has
    (band,) = own_bands(results([*REPLICAS, other]))
    assert (band.mean, band.n) == (pytest.approx(100 * fmean([fmean([0.90, 0.92, 0.94, 0.80]), 0.81])), 7)


def test_where_all_runs_are_first_steps_they_are_the_models():
    parts = results([{**one, "run": {**one["run"], "task": {"beginning": 0.5}}} for one in REPLICAS])
    assert without_parts(parts) == parts
    assert without_parts([*parts, *results(REPLICAS[:1])]) == results(REPLICAS[:1])


def test_first_steps_are_no_models(trained, tmp_path):
    every = read_results(trained)
    parts = [result for result in every if result.run["task"].get("beginning", 1) < 1]
    assert len(parts) == len(SEEDS)
    assert {result.id for result in without_parts(every)} == {result.id for result in every} - {
        result.id for result in parts
    }
    page = write_report(trained, tmp_path / "report").read_text(encoding="utf-8")
    assert "3 more runs are the first steps of others: in results.csv alone" in page
    with (tmp_path / "report" / "summary.csv").open(newline="", encoding="utf-8") as file:
        assert [line["settings"] for line in csv.DictReader(file) if line["name"] == "dense"] == [
            "steps=20, task.peak_learning_rate=0.005"
        ]


def test_zeros_of_a_retrained_network_stay_where_they_are():
    with raises(ValueError, "Retrained keeps the run's zeros where they are, got shuffled=True; take Scratch for that"):
        Retrained(SPARSE, shuffled=True)
