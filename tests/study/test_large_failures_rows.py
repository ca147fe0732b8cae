"""What the page of the large half says of what fails is what its rows say: L0 on ResNet-50, the first convolution."""

import importlib

import numpy as np
import pytest

from openwork.study.experiments import large_probes, large_resnet50
from openwork.study.tasks.imagenet import BATCH, STEPS
from tests.study.study_script import script, words

script("large")  # whose folder the other modules lie in
large, answers, failures = map(importlib.import_module, ("large_study", "answers", "large_failures"))


@pytest.fixture(scope="module")
def page():
    return words("large")


def l0(experiment):
    """Rows by the factors of the rate on gates and of 1/N."""
    found = {}
    for row in large.rows():
        if row["experiment"] == experiment:
            rate, weight = map(float, row["setting"].split("/"))
            found.setdefault((rate, weight), []).append(row)
    return found


def percents(rows, name):
    return [100 * float(row[name]) for row in rows]


def test_what_the_page_says_of_l0_is_what_its_rows_say(page):
    finals = l0("ResNet-50, L0")
    slow = [own for (rate, _), own in sorted(finals.items()) if rate == 1]
    zeros = [np.mean(percents(own, "sparsity")) for own in slow]
    new = [np.mean(percents(own, "recalibrated")) for own in slow]
    assert f"sparsity goes from none to {zeros[-1]:.1f} % while λ grows by 5 %, alike in all seeds (n = 3)" in page
    weights = [weight for rate, weight in finals if rate == 1]
    assert f"{100 * max(weights) / min(weights) - 100:.0f}" == "5"
    assert zeros[0] < 0.001
    assert max(np.ptp(percents(own, "sparsity")) for own in slow) < 0.05
    assert {row["accuracy"] for own in slow for row in own} == {"0.1000"}
    assert (
        f"accuracy falls from {new[0]:.2f} % without zeros to {new[3]:.2f} % with {zeros[3]:.2f} %, and is at chance "
        f"at {zeros[4]:.2f} % and above" in page
    )
    assert new[4:] == [10, 10]
    (fast,) = [own for (rate, _), own in finals.items() if rate > 1]
    best, left = np.mean(percents(fast, "recalibrated")), np.mean(percents(fast, "sparsity"))
    dense = np.mean([*large.at(large.SHORT, "dense", 0.0).values()])
    assert (
        f"{best:.1f} % with {left:.1f} % zeros and new statistics (n = 3), where the dense network has {dense:.2f} %"
        in page
    )
    pilots = {key: own[0] for key, own in l0("ResNet-50, L0, pilots").items()}
    assert len(pilots) == 12
    fastest = percents([row for (rate, _), row in pilots.items() if rate == 1_000], "recalibrated")
    assert len(fastest) == 4
    assert f"all four pilots with this rate have {min(fastest):.0f} to {max(fastest):.0f} % (n = 1)" in page
    assert "no coefficient between 1,500 and 2,000 was tried with the higher rates" in page
    assert {weight for _, weight in pilots} == {1_500, 2_000, 3_000, 6_000}
    assert "Four of them [were added](#what-the-plan-did-not-foresee) to the plan and are left" in page
    added = large_resnet50.BETWEEN[1_000.0]
    assert (len(added), min(added), max(added)) == (4, 1_600, 1_900)
    assert not any((1_000, weight) in finals for weight in added)
    assert "none between two neighbouring pilots was tried" in answers.failures()  # true until these have rows
    reproduced = importlib.import_module("large_reproduced").reproduced()
    assert "one setting with nearly all zeros trains, none with 50, 80 or 90 % was found" in reproduced
    ends = [f"{percents([pilots[1_000, weight]], 'sparsity')[0]:.4g} % " for weight in (1_500, 2_000)]
    assert f"have {ends[0]}zeros at 1,500 and {ends[1]}at 2,000" in page
    every = sorted(percents(pilots.values(), "sparsity"))
    few = sum(each < 50 for each in every)
    assert f"no pilot has between {every[few - 1]:.1f} and {every[few]:.2f} % zeros" in page


def test_l0_with_a_hundred_times_the_rate_on_gates_is_not_what_the_plan_expected(page):
    found = sorted(
        percents([own[0]], "sparsity") + percents([own[0]], "recalibrated")
        for (rate, _), own in l0("ResNet-50, L0, pilots").items()
        if rate == 100
    )
    assert len(found) == 4
    assert f"one of four pilots has {found[0][0]:.1f} % zeros and {found[0][1]:.1f} % with new batch-norm" in page
    assert all(zeros > 99.9 for zeros, _ in found[1:])
    assert f"more than 99.9 % zeros and at most {max(right for _, right in found[1:]):.1f} % (n = 1)" in page
    assert not any(zeros >= 50 and right > 70 for zeros, right in found)


def test_l0s_final_setting_is_the_one_that_new_statistics_choose_at_every_level(page):
    pilots = {key: own[0] for key, own in l0("ResNet-50, L0, pilots").items()}
    assert "it is the same for all three" in page
    (chosen,) = [key for key in l0("ResNet-50, L0") if key[0] > 1]
    for level in (0.5, 0.8, 0.9):
        reach = {key: row for key, row in pilots.items() if 1 - float(row["sparsity"]) <= 1.05 * (1 - level)}
        assert max(reach, key=lambda key: float(reach[key]["recalibrated"])) == chosen


def test_what_the_page_says_of_the_first_convolution(page):
    rows = [row for row in large.rows() if row["experiment"] == "first convolution"]
    assert "None of these twelve runs diverges. **They do not test what the paper saw**" in page
    assert "at 98 % there, which prunes after the rate has fallen; the other 53 of its 54 settings diverged" in page
    assert answers.LOST["98 %"] == 53
    assert [row["status"] for row in rows] == ["finished"] * 12
    late = large_probes.first_convolution(early=False)
    assert {(row["technique"], row["setting"], int(row["seed"])) for row in rows} == {key[1:] for key in late}
    assert "Six runs that prune earlier [were added](#what-the-plan-did-not-foresee) to the plan and are left" in page
    assert len(large_probes.first_convolution(early=True)) == 6
    assert "8,000 to 68,000 in hundredths" in page
    assert large_probes.EARLY == (80, 680)
    assert "A run here has a hundredth of the paper's steps and an eighth of its images in a step" in page
    assert {row["step"] for row in rows} == {f"{STEPS // 100}"}
    assert BATCH == 8 * large_probes.IMAGES_OF_A_STEP


def row(experiment, setting, seed, zeros, right):
    """What is read of a row of L0."""
    key = {"experiment": experiment, "technique": "L0", "setting": setting, "seed": str(seed), "threshold": ""}
    return key | {"sparsity": str(zeros), "recalibrated": str(right)}


def test_what_is_said_of_l0_names_pilots_only_where_they_chose_the_best(monkeypatch):
    def said(*settings):
        rows = [row("ResNet-50, L0, pilots", f"1/{n}", 1000, 0.95, n / 100) for n in range(12)]
        rows += [
            row("ResNet-50, L0", setting, seed, zeros, right) for setting, zeros, right in settings for seed in range(3)
        ]
        monkeypatch.setattr(failures, "rows", lambda: rows)
        return failures.l0_said()

    assert said() == ""
    assert said(("1/1", 0.4, 0.7)) == "0 of 1 settings have at least 50 % zeros in every seed"
    best = "1 of 2 settings have at least 50 % zeros in every seed; of these 0 are at chance, also with new batch-norm"
    assert said(("1/1", 0.4, 0.7), ("1/11", 0.9, 0.6)).startswith(best)
    assert "; the best, chosen from 12 pilots, has at least 60.0 %" in said(("1/1", 0.4, 0.7), ("1/11", 0.9, 0.6))
    assert "; the best has at least 65.0 %" in said(("1/12", 0.9, 0.65), ("1/11", 0.9, 0.6))
