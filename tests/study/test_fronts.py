"""The one rule of the frontier, and its data on a page."""

import random
from itertools import pairwise

from openwork.study.results.frontier import beats, frontier
from openwork.study.results.fronts import FEW, choices, fronts
from openwork.study.results.statistics import pareto, summarize
from tests.study.studies import diverged, results, row


def test_a_pair_beats_what_is_no_better_in_both_and_worse_in_one():
    assert beats((0.9, 0.5), (0.8, 0.5))
    assert beats((0.9, 0.6), (0.9, 0.5))
    assert not beats((0.9, 0.5), (0.9, 0.5))
    assert not beats((0.9, 0.4), (0.8, 0.5))


def test_the_frontier_is_what_a_comparison_of_all_pairs_keeps():
    draw = random.Random(0)
    for size in (0, 1, 2, 50):
        pairs = [(draw.randrange(8) / 8, draw.randrange(-4, 4)) for _ in range(size)]
        unbeaten = {pair for pair in pairs if not any(beats(other, pair) for other in pairs)}
        found = frontier(pairs)
        assert set(found) == unbeaten
        assert all(left[0] < right[0] and left[1] > right[1] for left, right in pairwise(found))


def test_every_choice_of_few_seeds_is_there_and_of_many_all_or_one():
    assert choices([1, 0, 1]) == [(0,), (1,), (0, 1)]
    assert len(choices(range(FEW))) == 2**FEW - 1
    assert choices(range(FEW + 1)) == [tuple(range(FEW + 1)), *((seed,) for seed in range(FEW + 1))]


ROWS = [
    row("A", "a", 0, 0.5, 0.8), row("A", "a", 1, 0.5, 0.6),
    row("A", "b", 0, 0.9, 0.7), row("A", "b", 1, 0.9, 0.7),
    row("B", "c", 0, 0.9, 0.75), row("B", "d", 1, 0.4, 0.65),
    row("dense", "", 0, 0.0, 0.99), diverged("B", "e", 0),
]  # fmt: skip


def test_a_line_goes_over_points_that_others_beat_and_not_over_a_gap():
    scores = {0.8: 0.9, 0.9: 0.7, 0.97: 0.6, 0.995: 0.8}
    seen = [row("A", f"s={s}", 0, s, score) for s, score in scores.items()]
    (line,) = fronts(results(seen)).values()
    assert [(p.sparsity, p.piece) for p in line] == [(0.8, 0), (0.995, 0)]
    (line,) = fronts(results([seen[0], seen[-1]])).values()
    assert [(p.sparsity, p.piece) for p in line] == [(0.8, 0), (0.995, 1)]


def test_a_point_says_which_techniques_beat_it():
    found = fronts(results(ROWS))
    assert found.keys() == {(0,), (1,), (0, 1)}
    assert {p.settings: (p.n, p.beaten_by) for p in found[0,]} == {"a": (1, ()), "b": (1, ("B",)), "c": (1, ())}
    # With seed 1 alone b is sparser and better than a, and better than d of the other technique.
    assert {p.settings: (p.n, p.beaten_by) for p in found[1,]} == {"b": (1, ()), "d": (1, ("A",))}
    both = {p.settings: (p.n, round(p.score, 6), p.beaten_by) for p in found[0, 1]}
    assert both == {"b": (2, 0.7, ("B",)), "c": (1, 0.75, ())}  # d is less sparse than c, which is better


def test_what_no_technique_beats_is_the_frontier_of_the_tables():
    draw = random.Random(1)
    rows = [
        row(name, f"n={number}", seed, draw.randrange(90, 99) / 100, draw.randrange(80, 90) / 100)
        for name in "ABC"
        for number in range(8)
        for seed in (0, 1, 2)
    ]
    for seeds, points in fronts(results(rows)).items():
        chosen = summarize(results(one for one in rows if one["seed"] in seeds))
        assert {p.settings + p.technique for p in points if not p.beaten_by} == {
            p.settings + p.name for p in pareto(chosen)
        }
        for name in "ABC":
            own = {p.settings for p in pareto(p for p in chosen if p.name == name)}
            assert {p.settings for p in points if p.technique == name} == own
