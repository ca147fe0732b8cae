"""What the page of the large half says of masks is what its rows say."""

import importlib

import numpy as np
import pytest

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.published.rows import table as published
from openwork.study.tasks.imagenet import EPOCHS
from tests.processes import ROOT
from tests.study.study_script import script, words

KEPT = ("lottery ticket", "scratch-e", "scratch-e, augmented", "scratch-b")
OTHERS = tuple(f"scratch-b, {name}" for name in ("final rate kept", "decay goes on", "decay from the start"))
script("large")  # whose folder the other modules lie in
large, answers = map(importlib.import_module, ("large_study", "answers"))


@pytest.fixture(scope="module")
def page():
    return words("large")


def networks(network):
    """How many networks of a kind each mask has, by level: the fewest and the most."""
    found = {}
    for row in large.rows():
        if row["experiment"] == f"{network}, masks" and row["technique"] != "magnitude":
            key = row["technique"], int(row["seed"]) // 100
            own = found.setdefault(row["setting"], {})
            own[key] = own.get(key, 0) + 1
    return {level: sorted(own.values()) for level, own in found.items()}


def compared(network):
    return {(one.label, one.level): one for one in large.families()[f"{network}, masks"]}


def shown(network):
    """What is shown, and whether it is higher."""
    return {key: one.difference.mean > 0 for key, one in compared(network).items() if one.p < 0.05}


def means(network, kind, levels):
    return [np.mean([*large.of_masks(network, kind, level).values()]) for level in levels]


def test_what_the_page_says_of_the_networks_of_a_mask(page):
    assert "means over the networks of a kind for each mask, of which each has three" in page
    assert networks("ResNet-50") == {"0.95": [3] * 21, "0.9": [3] * 21, "0.8": [3] * 21}
    assert networks("Transformer") == {"0.9": [3] * 12, "0.8": [3] * 12, "0.5": [3] * 12}
    assert "p is over all 18 comparisons of the Transformer, or all 27 of ResNet-50" in page
    assert "The three levels share three seeds" in page
    for network in ("Transformer", "ResNet-50"):
        own = [row for row in large.rows() if row["experiment"] == f"{network}, masks"]
        assert {int(row["seed"]) for row in own if row["technique"] == "magnitude"} == {0, 1, 2}
        assert {int(row["seed"]) // 100 for row in own if row["technique"] != "magnitude"} == {1, 2, 3}
    assert [len(compared(network)) for network in ("Transformer", "ResNet-50")] == [18, 27]
    assert answers.kept_masks().count("alone, 3 planned networks of each kind for a mask") == 2 * 3


def test_what_the_page_says_of_masks_of_the_transformer(page):
    found, levels = compared("Transformer"), (0.5, 0.8, 0.9)
    assert "Nine of the Transformer's 18 differences are shown (n = 3 masks)" in page
    assert len(shown("Transformer")) == 9
    assert "Tickets are shown to be ahead of scratch-e at all three levels, which is all that is shown at 50 %" in page
    assert [label for label, level in shown("Transformer") if level == 0.5] == ["lottery ticket less scratch-e"]
    assert all(shown("Transformer")["lottery ticket less scratch-e", level] for level in levels)
    theirs = [scratch("transformer", "lottery", s, "original") - scratch("transformer", "scratch-e", s) for s in levels]
    said = f"by {theirs[1]:.2f} and {theirs[2]:.2f} BLEU, and behind it by {-theirs[0]:.2f} at 50 %"
    assert f"tickets are ahead of scratch-e at these two levels too, {said}" in page
    assert "At 80 and 90 % scratch-e is shown to be behind magnitude pruning and behind scratch-b" in page
    assert "scratch-e is shown to be worse than magnitude pruning, and scratch-b to be better than scratch-e" in page
    for level in (0.8, 0.9):
        assert not shown("Transformer")["scratch-e less magnitude", level]
        assert shown("Transformer")["scratch-b less scratch-e", level]
    tickets = [found["lottery ticket less magnitude", level] for level in levels]
    assert all(one.p > 0.05 for one in tickets)
    text = "their means are higher**, by {:.2f}, {:.2f} and {:.2f} BLEU; in the paper they are lower"
    assert text.format(*(one.difference.mean for one in tickets)) in page
    answered = answers.kept_masks()
    assert "joint 24.65; ticket 23.47, scratch-e 22.70, scratch-b 22.66" in answered
    assert "joint 23.26; ticket 21.77, scratch-e 20.67, scratch-b 21.07" in answered
    assert "in the paper's means it has less than scratch-e at 80 %, 22.66 and 22.70" in page.lower()
    assert "Scratch-b is shown to be worse than magnitude pruning at 90 % only" in page
    both = [found["scratch-b less magnitude", level] for level in levels]
    assert [one.p < 0.05 for one in both] == [False, False, True]
    assert both[-1].difference.mean < 0


def test_what_the_page_says_of_joint_training_as_long_as_a_ticket_and_its_mask(page):
    schedule, steps = large_transformer.mask(0.8, 0).technique.schedule, large_transformer.MASK_STEPS
    assert (steps, steps - schedule.end, 2 * steps) == (5_000, 1_000, large_transformer.SMALL_STEPS)
    assert "a ticket has all of its zeros for 5,000 steps, magnitude pruning for the last 1,000" in page
    levels = (0.5, 0.8, 0.9)
    joint = [np.mean([*large.at(large.BOTH, "magnitude", s).values()]) for s in levels]
    more = np.subtract(joint, means("Transformer", "lottery ticket", levels))
    said = (
        "magnitude pruning of as many steps, 10,000, has {:.2f}, {:.2f} and {:.2f} BLEU, {:.2f}, {:.2f} and {:.2f} "
        "more than tickets"
    )
    assert said.format(*joint, *more) in page
    answered = answers.kept_masks()
    for each in more:
        assert f"a ticket is trained twice; magnitude pruning of as many steps in all has a mean {each:.2f} higher" in (
            answered
        )


def test_what_the_page_says_of_masks_of_resnet50(page):
    found, levels = compared("ResNet-50"), (0.8, 0.9, 0.95)
    assert "**All 27 differences of ResNet-50 are shown, in an order that is not the paper's** (n = 3 masks;" in page
    assert len(shown("ResNet-50")) == len(found) == 27
    order = ("scratch-b", "lottery ticket", "scratch-e", "magnitude")
    assert "The means of the other three schemes of scratch-b lie between tickets and scratch-e" in page
    assert "Scratch-b is most accurate, followed by tickets, scratch-e and magnitude pruning" in page
    assert "the opposite is shown, tickets and scratch-e are better than magnitude pruning of 8 epochs** at all" in page
    for level in levels:
        scores = [means("ResNet-50", kind, [level])[0] for kind in order]
        assert scores == sorted(scores, reverse=True)
        others = [means("ResNet-50", kind, [level])[0] for kind in OTHERS]
        assert scores[1] > max(others) > min(others) > scores[2]
        assert means("ResNet-50", "scratch-e, augmented", [level])[0] < scores[3]
        for label in ("scratch-b less scratch-e", "lottery ticket less scratch-e", "scratch-e less magnitude"):
            assert shown("ResNet-50")[label, level]
    mask = large_resnet50.mask(0.8, 0)
    assert "falls to a tenth after 29 % of the steps, when magnitude pruning has two thirds of its zeros" in page
    assert f"{100 * mask.task.milestones[0]:.0f}" == "29"
    assert mask.task.milestones[0] == 30 / EPOCHS
    zeros = mask.technique.schedule(int(mask.steps * mask.task.milestones[0])) / 0.8
    assert 0.64 < zeros < 0.69
    assert "it prunes until 59 %" in page
    assert f"{100 * mask.technique.schedule.end / mask.steps:.0f}" == "59"


def networks_alone(network, monkeypatch, *, first):
    """The comparisons of a network with the first network of each mask and kind alone, or with the others alone."""
    kept = [row for row in large.rows() if row["experiment"] == f"{network}, masks"]
    some = [row for row in kept if row["technique"] == "magnitude" or (int(row["seed"]) % 100 == 0) == first]
    assert len(some) < len(kept)
    with monkeypatch.context() as patched:
        patched.setattr(large, "rows", lambda: some)
        return large.families.__wrapped__()[f"{network}, masks"]


def test_what_the_first_network_of_each_mask_alone_shows(page, monkeypatch):
    assert "with the first network of each mask alone 26, without ticket less scratch-e at 95 %" in page
    own = [one for one in networks_alone("ResNet-50", monkeypatch, first=True) if one.p >= 0.05]
    assert [(one.label, one.level) for one in own] == [("lottery ticket less scratch-e", 0.95)]
    own = {(one.label, one.level) for one in networks_alone("Transformer", monkeypatch, first=True) if one.p < 0.05}
    assert (
        "With the first network of each mask alone it is nine as well, with augmented less plain scratch-e at 80 % and "
        "without tickets less scratch-e at 50 % (p 0.070; with the other two networks alone 0.074)" in page
    )
    ticket = "lottery ticket less scratch-e", 0.5
    for one, p in ((True, "0.070"), (False, "0.074")):
        found = {(each.label, each.level): each.p for each in networks_alone("Transformer", monkeypatch, first=one)}
        assert f"{found[ticket]:.3f}" == p
    assert own - shown("Transformer").keys() == {("scratch-e, augmented less scratch-e", 0.8)}
    assert shown("Transformer").keys() - own == {("lottery ticket less scratch-e", 0.5)}


def test_what_the_page_says_of_joint_training_of_resnet50_for_longer(page):
    levels = (0.8, 0.9, 0.95)
    assert "A mask and its ticket take 16 epochs together, a mask and scratch-b 24" in page
    assert [2 * large_resnet50.SHORT, 3 * large_resnet50.SHORT] == [16, 24]
    joint = [np.mean([*large.at(large.SHORT, "magnitude", s).values()]) for s in levels]
    assert "magnitude pruning has {:.2f}, {:.2f} and {:.2f} % at 80, 90 and 95 %".format(*joint) in page
    scratch, ticket = (np.subtract(joint, means("ResNet-50", kind, levels)) for kind in ("scratch-b", "lottery ticket"))
    assert (
        f"{min(ticket):.2f} to {max(ticket):.2f} points more than tickets, {min(scratch):.2f} to {max(scratch):.2f} "
        "more than scratch-b" in page
    )
    answered = answers.kept_masks()
    for each in ticket:
        assert f"of 20 epochs, whose rate falls in another way, has a mean {each:.2f} higher" in answered


def scratch(model, kind, level, init="baseline", rate="lr_scaled"):
    """The paper's mean; its Transformer has no learning rate to tell apart."""
    (line,) = [
        line for line in published("scratch")
        if (line["model"], line["experiment"], line["init"]) == (model, kind, init)
        and float(line["sparsity"]) == level and line["learning_rate"] in ("", rate)
    ]  # fmt: skip
    return float(line["mean"])


def test_what_the_page_about_choosing_says_of_masks():
    page = " ".join((ROOT / "docs" / "choose.md").read_text(encoding="utf-8").split())
    found, plain = shown("Transformer"), "scratch-e less magnitude"
    assert "On the Transformer new weights are shown to be worse than magnitude pruning at 80 and 90 %" in page
    assert {level for label, level in found if label == plain} == {0.8, 0.9}
    assert "and worse than the ticket at 50 % too" in page
    assert {level for label, level in found if label == "lottery ticket less scratch-e"} == {0.5, 0.8, 0.9}
    assert "In eight epochs of ResNet-50 both are shown to be better than magnitude pruning" in page
    better = (plain, "lottery ticket less magnitude")
    assert all(shown("ResNet-50")[label, s] for label in better for s in (0.8, 0.9, 0.95))
    assert "than the mask's ticket and than new weights, on the Transformer and on ResNet-50, at all levels" in page
    for network, experiment, levels in (
        ("Transformer", large.BOTH, (0.5, 0.8, 0.9)),
        ("ResNet-50", large.SHORT, (0.8, 0.9, 0.95)),
    ):
        for level in levels:
            joint = np.mean([*large.at(experiment, "magnitude", level).values()])
            assert joint > max(means(network, kind, [level])[0] for kind in ("lottery ticket", "scratch-e"))


def test_what_the_page_says_of_other_rates_and_of_augmented_weights(page):
    levels = (0.8, 0.9, 0.95)
    plain = means("ResNet-50", "scratch-e", levels)
    more = [np.subtract(means("ResNet-50", kind, levels), plain) for kind in OTHERS]
    assert f"the means of the other three are {np.min(more):.2f} to {np.max(more):.2f} points higher" in page
    theirs = [
        scratch("resnet50", "scratch-b", s, rate="lr_constant_final") - scratch("resnet50", "scratch-e", s)
        for s in levels
    ]
    assert f"the mean with the final rate kept is {min(theirs):.2f} to {max(theirs):.2f} higher" in page
    rest = [
        scratch("resnet50", "scratch-e", s) - scratch("resnet50", "scratch-b", s, rate=rate)
        for s in levels
        for rate in ("lr_constant_decay", "lr_continual_decay")
    ]
    assert f"its other two, one run each (n = 1), are {min(rest):.2f} to {max(rest):.2f} lower" in page
    augmented = "scratch-e, augmented less scratch-e"
    assert (
        "are shown to be worse than those of a dense network, except on the Transformer at 50 and 80 %, where" in page
    )
    assert not any(shown("ResNet-50")[augmented, s] for s in levels)
    assert {s for label, s in shown("Transformer") if label == augmented} == {0.9}
    less = [-compared("Transformer")[augmented, s].difference.mean for s in (0.5, 0.8)]
    assert f"it is not shown, though the means are {less[0]:.2f} and {less[1]:.2f} BLEU lower (n = 3 masks)" in page
    own = {
        model: [scratch(model, "scratch-e", s) - scratch(model, "scratch-e", s, init="augmented") for s in at]
        for model, at in (("resnet50", levels), ("transformer", (0.5, 0.8, 0.9)))
    }
    assert f"at most {np.max(np.abs(own['resnet50'])):.2f} points on ResNet-50" in page
    assert f"by {min(own['transformer']):.2f} to {max(own['transformer']):.2f} BLEU on the Transformer" in page


def test_figure_6_has_our_masks_and_the_published_ones():
    values = importlib.import_module("draw_large").masks("Transformer")
    found = {(each["by"], each["kind"], each["sparsity"]): each for each in values}
    ours = list(large.of_masks("Transformer", "lottery ticket", 0.9).values())
    one = found["openwork", "lottery ticket", 90]
    assert [one["lowest"], one["highest"]] == [min(ours), max(ours)]
    assert one["mean"] == pytest.approx(np.mean(ours))
    assert found["published", "magnitude", 90]["mean"] == 23.26
    assert found["published", "lottery ticket", 90]["mean"] == 21.772


def test_reproductions_have_figure_6_of_both_networks():
    lines = importlib.import_module("large_reproduced").reproduced().splitlines()
    resnet, transformer = [line for line in lines if "(figure 6)" in line]
    assert "95 %: magnitude 70.59, scratch-b 64.55, lottery ticket 62.86, scratch-e 62.63" in resnet
    assert resnet.count("**not seen here**: higher is shown at 80 %, 90 % and 95 %") == 3
    values = [*large.of_masks("Transformer", "scratch-e", 0.9).values()]
    assert f"scratch-e {np.mean(values):.2f} ± " in transformer
    assert "lottery ticket less magnitude: nothing is shown; scratch-e less magnitude: lower is shown at 80 % and" in (
        transformer
    )


def test_networks_whose_masks_were_trained_again_are_named(page):
    again, whole, trainings = {}, {}, {}
    for network in ("Transformer", "ResNet-50"):
        own = [row for row in large.rows() if row["experiment"] == f"{network}, masks"]
        first = {(row["setting"], int(row["seed"])): row["commit"] for row in own if row["technique"] == "magnitude"}
        for row in own:
            if row["technique"] != "magnitude":
                key = row["setting"], int(row["seed"]) // 100 - 1
                whole.setdefault((network, row["setting"]), []).append(row)
                trainings.setdefault((network, *key), {first[key]}).add(row["commit"])
                if row["commit"] != first[key]:
                    again.setdefault((network, row["setting"]), []).append(row)
    levels = {"Transformer": ("0.5", "0.8", "0.9"), "ResNet-50": ("0.8", "0.9")}
    assert again.keys() == {(network, level) for network, own in levels.items() for level in own}
    many = {key: (len(again[key]), len(whole[key])) for key in again}
    assert (
        "{} of the Transformer's {} networks at 50 %, {} of its {} at 80 % and {} of its {} at 90 %, {} of ResNet-50's "
        "{} at 80 % and {} of its {} at 90 % have the zeros of another training".format(
            *many["Transformer", "0.5"],
            *many["Transformer", "0.8"],
            *many["Transformer", "0.9"],
            *many["ResNet-50", "0.8"],
            *many["ResNet-50", "0.9"],
        )
        in page
    )
    both = [sum(few for (name, _), (few, _) in many.items() if name == network) for network in levels]
    assert "{} of the Transformer's and {} of ResNet-50's".format(*both) in page
    answered = answers.kept_masks()
    for few, every in many.values():
        assert f", {few} of {every} with the zeros of a repeated training of their mask" in answered
    assert answered.count("with the zeros of a repeated training of their mask") == 5
    commits = {row["commit"] for rows in again.values() for row in rows}
    assert "At least four machines did so, by the commits of rows" in page
    assert len(commits) == 4
    assert max(map(len, trainings.values())) == 4
    kinds = {}  # and networks of one kind
    for (_, level), rows in whole.items():
        for row in rows:
            kinds.setdefault((level, row["technique"], row["seed"][0], row["experiment"]), set()).add(row["commit"])
    assert max(map(len, kinds.values())) == 3
    assert "so the networks of a mask are of up to four trainings of it, those of one kind of up to three" in page


def kept(kind, level):
    """Rows of a kind of network of the Transformer by mask and number, from 0."""
    own = [row for row in large.rows() if row["experiment"] == "Transformer, masks" and row["technique"] == kind]
    return {(int(r["seed"]) // 100 - 1, int(r["seed"]) % 100): r for r in own if float(r["setting"]) == level}


def test_what_the_page_says_of_differences_between_trainings_of_a_mask(page):
    tickets, scratch = ({(s, *key): row["commit"] for s in (0.5, 0.8, 0.9) for key, row in kept(kind, s).items()}
                        for kind in ("lottery ticket", "scratch-e"))  # fmt: skip
    several = sum(commit != scratch[key] for key, commit in tickets.items())
    assert f"{several} of the {len(tickets)} pairs of the Transformer's tickets and scratch-e" in page
    rows = kept("scratch-e, augmented", 0.8)
    for mask, name in enumerate(("first", "second", "third")):
        one, *others = (f"{float(rows[mask, number]['bleu']):.2f}" for number in range(3))
        assert f"| {name} mask | 1 + 2 | {one} | {', '.join(others)} |" in page
        first = kept("magnitude", 0.8)[-1, mask]["commit"]
        assert [rows[mask, number]["commit"] == first for number in range(3)] == [True, False, False]
    bleu = [[float(kept("scratch-e", 0.8)[mask, number]["bleu"]) for number in range(3)] for mask in range(3)]
    within = np.sqrt(np.mean(np.var(bleu, axis=1, ddof=1)))
    assert f"may be chance: its networks of one mask have a standard deviation of {within:.2f}" in page
