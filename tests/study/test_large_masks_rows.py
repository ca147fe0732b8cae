"""What the page of the large half says of masks and of what fails is what its rows say."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from openwork.study.experiments import large_transformer as module
from tests.study.study_script import script

RESULTS = Path(__file__).parents[2] / "results"
script("large")  # whose folder the other modules lie in
large = importlib.import_module("large_study")


@pytest.fixture(scope="module")
def page():
    return " ".join((RESULTS / "large" / "README.md").read_text(encoding="utf-8").split())


def test_what_the_page_says_of_masks(page):
    assert "So far there is one network of each kind for a mask of the Transformer at 80 and 90 %" in page
    seeds = {}
    for row in large.rows():
        if row["experiment"] == "Transformer, masks" and row["technique"] != "magnitude":
            seeds.setdefault((row["technique"], row["setting"]), []).append(int(row["seed"]))
    assert len(seeds) == 12
    assert all(sorted(own) == [100, 200, 300] for (_, setting), own in seeds.items() if setting != "0.5")
    found = {(one.label, one.level): one for one in large.families()["Transformer, masks"]}
    assert len(found) == 18
    assert "p is over all 18 comparisons, those at 50 % included, which are left" in page
    assert {key[1] for key, one in found.items() if not one.difference} == {0.5}
    assert "scratch-e is shown to be worse than magnitude pruning, and scratch-b to be better than scratch-e" in page
    tickets = []
    for level in (0.8, 0.9):
        worse, better, ticket = (
            found[label, level]
            for label in ("scratch-e less magnitude", "scratch-b less scratch-e", "lottery ticket less magnitude")
        )
        assert max(worse.p, better.p) < 0.05 < ticket.p
        assert worse.difference.mean < 0 < better.difference.mean
        tickets.append(f"{ticket.difference.mean:.2f}")
    assert f"their means are higher**, by {tickets[0]} and {tickets[1]} BLEU; in the paper they are lower" in page
    answered = importlib.import_module("answers").kept_masks()
    assert "joint 24.65; ticket 23.47, scratch-e 22.70, scratch-b 22.66" in answered
    assert "joint 23.26; ticket 21.77, scratch-e 20.67, scratch-b 21.07" in answered
    assert "in the paper's means it has less than scratch-e at 80 %, 22.66 and 22.70" in page.lower()
    assert "Scratch-b is shown to be worse than magnitude pruning at 90 % only" in page
    both = [found["scratch-b less magnitude", level] for level in (0.8, 0.9)]
    assert [one.p < 0.05 for one in both] == [False, True]
    assert both[1].difference.mean < 0


def test_what_the_page_says_of_joint_training_as_long_as_a_ticket_and_its_mask(page):
    schedule, steps = module.mask(0.8, 0).technique.schedule, module.MASK_STEPS
    assert (steps, steps - schedule.end, 2 * steps) == (5_000, 1_000, module.SMALL_STEPS)
    assert "a ticket has all of its zeros for 5,000 steps, magnitude pruning for the last 1,000" in page
    joint = [np.mean([*large.at(large.BOTH, "magnitude", s).values()]) for s in (0.8, 0.9)]
    more = [mean - np.mean([*large.of_masks("Transformer", "lottery ticket", s).values()])
            for mean, s in zip(joint, (0.8, 0.9), strict=True)]  # fmt: skip
    said = "magnitude pruning of as many steps, 10,000, has {:.2f} and {:.2f} BLEU, {:.2f} and {:.2f} more than tickets"
    assert said.format(*joint, *more) in page
    answered = importlib.import_module("answers").kept_masks()
    for each in more:
        assert f"a ticket is trained twice; magnitude pruning of as many steps in all has a mean {each:.2f} higher" in (
            answered
        )
    assert answered.count("one network of each kind for a mask") == 2


def test_figure_6_has_our_masks_and_the_published_ones():
    values = importlib.import_module("draw_large").masks("Transformer")
    found = {(each["by"], each["kind"], each["sparsity"]): each for each in values}
    ours = list(large.of_masks("Transformer", "lottery ticket", 0.9).values())
    one = found["openwork", "lottery ticket", 90]
    assert [one["lowest"], one["highest"]] == [min(ours), max(ours)]
    assert one["mean"] == pytest.approx(np.mean(ours))
    assert found["published", "magnitude", 90]["mean"] == 23.26
    assert found["published", "lottery ticket", 90]["mean"] == 21.772
