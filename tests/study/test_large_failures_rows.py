"""What the page of the large half says of what fails is what its rows say: L0 on ResNet-50, the first convolution."""

import importlib
from itertools import chain

import numpy as np
import pytest
from scipy.stats import binomtest

from openwork.study.experiments import large_probes, large_resnet50
from openwork.study.tasks.imagenet import BATCH, STEPS
from tests.study.study_script import RESULTS, script, words

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
            found.setdefault(l0_key(row["setting"]), []).append(row)
    return found


def l0_key(setting):
    """The two factors of a setting."""
    return tuple(map(float, setting.split("/")))


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
    fast = finals[1_000, 2_000]
    best, left = np.mean(percents(fast, "recalibrated")), np.mean(percents(fast, "sparsity"))
    dense = np.mean([*large.at(large.SHORT, "dense", 0.0).values()])
    assert f"{best:.1f} % with {left:.1f} % zeros (n = 3), where the dense network has {dense:.2f} %" in page
    pilots = {key: own[0] for key, own in l0("ResNet-50, L0, pilots").items()}
    assert len(pilots) == 12
    fastest = percents([row for (rate, _), row in pilots.items() if rate == 1_000], "recalibrated")
    assert len(fastest) == 4
    assert (
        f"all four pilots with this rate have {min(fastest):.0f} to {max(fastest):.0f} % on validation images (n = 1)"
        in page
    )
    assert {weight for _, weight in pilots} == {1_500, 2_000, 3_000, 6_000}
    ends = [f"{percents([pilots[1_000, weight]], 'sparsity')[0]:.4g} % " for weight in (1_500, 2_000)]
    assert f"have {ends[0]}zeros at 1,500 and {ends[1]}at 2,000" in page


def test_what_the_page_says_of_the_coefficients_that_were_added_between_two_pilots(page):
    finals, pilots = l0("ResNet-50, L0"), l0("ResNet-50, L0, pilots")
    added = large_resnet50.BETWEEN[1_000.0]
    assert (len(added), min(added), max(added)) == (4, 1_600, 1_900)
    own = [finals[1_000, weight] for weight in added]
    assert {len(each) for each in own} == {3}
    zeros, new, old = (
        [np.mean(percents(each, name)) for each in own] for name in ("sparsity", "recalibrated", "accuracy")
    )
    magnitude = np.mean([*large.at(large.SHORT, "magnitude", 0.98).values()])
    assert (
        f"between 1,500 and 2,000 have {min(zeros):.1f} to {max(zeros):.1f} % zeros, and {min(new):.1f} to "
        f"{max(new):.1f} % with new statistics (n = 3 for each), beside {magnitude:.2f} % of magnitude pruning with 98 "
        "% zeros" in page
    )
    assert f"With the statistics of training they have {min(old):.1f} to {max(old):.1f} %" in page
    (low,) = percents(pilots[1_000, 1_500], "sparsity")
    high = min(percents(finals[1_000, 1_600], "sparsity"))
    said = f"between {low:.1f} % zeros, at 1,500 (a pilot, n = 1), and {high:.1f} %, at 1,600 (n = 3, other seeds)"
    assert f"{said}: if zeros grow with λ, the jump lies within 7 % of it" in page
    tried = sorted({weight for found in (finals, pilots) for rate, weight in found if rate == 1_000})
    assert f"{100 * tried[1] / tried[0] - 100:.0f}" == "7"  # the lowest two, between which the jump lies
    assert tried[:2] == [1_500, 1_600]
    fast = [row for found in (finals, pilots) for (rate, _), rows in found.items() if rate == 1_000 for row in rows]
    assert not [each for each in percents(fast, "sparsity") if low < each < high]
    many = [row for key in finals if key[0] == 1_000 for row in finals[key]]
    assert min(percents(many, "sparsity")) >= 98
    means = [np.mean(percents(finals[key], "recalibrated")) for key in finals if key[0] == 1_000]
    said = f"{min(means):.1f} to {max(means):.1f} % (n = 3); one of these 15 networks has "
    assert (
        f"five settings with 98 % zeros and more have means of {said}{max(percents(many, 'recalibrated')):.1f} %"
        in page
    )
    assert (len(means), len(many)) == (5, 15)
    assert "with 1,000 times the rate on gates none between 1,500 and 1,600 was tried" in answers.failures()
    reproduced = importlib.import_module("large_reproduced").reproduced()
    assert (
        "settings with 98 % zeros and more train, with new statistics, none with 50, 80 or 90 % was found" in reproduced
    )


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
    (chosen,) = set(map(l0_key, failures.chosen_gates(large.rows())))
    for level in (0.5, 0.8, 0.9):
        reach = {key: row for key, row in pilots.items() if 1 - float(row["sparsity"]) <= 1.05 * (1 - level)}
        assert max(reach, key=lambda key: float(reach[key]["recalibrated"])) == chosen


def cells_of(rows):
    """Rows by whether the first convolution is dense, the rate, and whether they prune early."""
    found = {}
    for each in rows:
        name, early = each["technique"].removesuffix(", early"), each["technique"].endswith(", early")
        found.setdefault((name, each["setting"], early), []).append(each)
    return found


def test_what_the_page_says_of_the_first_convolution(page):
    rows = [row for row in large.rows() if row["experiment"] == "first convolution"]
    assert "None of these 18 runs diverges. Twelve have a hundredth of the intervals" in page
    assert "in the paper, which prunes after the rate has fallen; the other 53 of its 54 settings diverged" in page
    assert answers.LOST["98 %"] == 53
    assert [row["status"] for row in rows] == ["finished"] * 18
    late, early = (large_probes.first_convolution(early=early) for early in (False, True))
    assert (len(late), len(early)) == (12, 6)
    assert {(row["technique"], row["setting"], int(row["seed"])) for row in rows} == {key[1:] for key in late | early}
    assert (
        "no run diverges, with the first convolution sparse or dense, with either interval (n = 3 in each of six"
        in page
    )
    bounds = [100 * binomtest(0, n).proportion_ci(method="exact").high for n in (6, 3)]
    assert f"of {bounds[0]:.0f} %, and none of three one of {bounds[1]:.0f} % (95 %, Clopper and Pearson)" in page
    assert f"0 of 3 is compatible with a chance of up to {bounds[1]:.0f} % (95 %)" in answers.failures()
    right = {key: sorted(percents(own, "accuracy")) for key, own in cells_of(rows).items()}
    slow, fast, soon = (
        sorted(chain(*(own for key, own in right.items() if key[1:] == rest)))
        for rest in (("0.05", False), ("0.4", False), ("0.4", True))
    )
    assert f"right on {slow[0]:.1f} to {slow[-1]:.1f} % with the rate of 0.05, so that it has hardly learned" in page
    assert f"on {fast[0]:.1f} to {fast[-1]:.1f} % with 0.4, and on all of them when it prunes early" in page
    assert {*soon} == {100}
    assert "8,000 to 68,000 in hundredths" in page
    assert large_probes.EARLY == (80, 680)
    assert "A run here has a hundredth of the paper's steps and an eighth of its images in a step" in page
    assert {row["step"] for row in rows} == {f"{STEPS // 100}"}
    assert BATCH == 8 * large_probes.IMAGES_OF_A_STEP


def test_what_the_page_says_of_the_vgg_like_network(page):
    rows = [row for row in large.rows() if row["experiment"] == "VGG-like"]
    assert [row["technique"] for row in rows] == ["dense"] * 3
    assert "of 40 epochs on 50,000 images had 82.39 %, and 83.39 % with twice the width (n = 1)" in page
    older = (RESULTS / "cifar10" / "README.md").read_text(encoding="utf-8")
    assert "| 1 | 1, 1 | 82.39 %" in older
    assert "| 2 | 1, 1 | 83.39 %" in older
    held_out = percents(rows, "validation")
    assert f"Its three seeds have {min(held_out):.1f} to {max(held_out):.1f} % on validation data" in page
    assert failures.passes(large.rows()) is False
    assert "on whitened images without augmentation as theirs, but on 45,000 of the JPEG copy" in page
    assert large_resnet50.IMAGES == 45_000


def row(experiment, setting, seed, zeros, right):
    """What is read of a row of L0."""
    key = {"experiment": experiment, "technique": "L0", "setting": setting, "seed": str(seed), "threshold": ""}
    key |= {"accuracy": "0.2"}
    return key | {"sparsity": str(zeros), "recalibrated": str(right)}


def test_what_is_said_of_l0_is_said_of_all_settings_with_enough_zeros(monkeypatch):
    def said(*settings):
        rows = [
            row("ResNet-50, L0", setting, seed, zeros, right) for setting, zeros, right in settings for seed in range(3)
        ]
        monkeypatch.setattr(failures, "rows", lambda: rows)
        return failures.l0_said()

    assert said() == ""
    assert said(("1/1", 0.4, 0.7)) == "0 of 1 settings have at least 50 % zeros in every seed"
    half = "1 of 2 settings have at least 50 % zeros in every seed; of these "
    assert said(("1/1", 0.4, 0.7), ("1/11", 0.9, 0.1)) == f"{half}1 are at chance, also with new batch-norm statistics"
    text = "0 are at chance, also with new batch-norm statistics, and 1 has a mean of 60.0 % with them, "
    assert said(("1/1", 0.4, 0.7), ("1/11", 0.9, 0.6)) == f"{half}{text}20.0 % without, and 90.0 % zeros"
    text = "and 2 have means of 60.0 to 65.0 % with them, 20.0 % without, and 80.0 to 90.0 % zeros"
    assert said(("1/12", 0.8, 0.65), ("1/11", 0.9, 0.6)).endswith(text)
