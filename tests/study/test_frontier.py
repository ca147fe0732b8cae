import math

import pytest

from openwork.study.results.frontier import (
    by_seed,
    connected,
    difference,
    frontier,
    hypervolume,
    score_at,
)
from tests.study.studies import diverged, results, row


def test_the_frontier_holds_what_no_pair_beats():
    pairs = [(0.5, 10), (0.5, 9), (0.9, 8), (0.8, 8), (0.95, 2), (0.95, 2)]
    assert frontier(pairs) == [(0.5, 10), (0.9, 8), (0.95, 2)]  # (0.8, 8) is less sparse than (0.9, 8) and no better
    assert frontier([]) == []


def test_a_diverged_score_must_be_said_as_a_number():
    with pytest.raises(ValueError, match="give diverged runs the worst score"):
        frontier([(0.9, math.nan)])


def test_scores_are_read_between_neighbours_and_not_beyond_the_ends():
    pairs = [(0.5, 10.0), (0.9, 2.0), (0.7, 1.0)]  # the last is beaten
    assert score_at(pairs, 0.7) == pytest.approx(6.0)  # half way from 0.5 to 0.9
    assert score_at(pairs, 0.9) == 2.0
    assert score_at(pairs, 0.49) is None
    assert score_at(pairs, 0.91) is None
    assert score_at([(0.9, 2.0)], 0.9) == 2.0
    assert score_at([(0.9, 2.0)], 0.8) is None


def test_a_sparser_model_that_beats_all_measured_below_stands_for_what_lies_there():
    pairs = [(0.6, 7.0), (0.8, 6.0), (0.983, 8.0), (0.99, 5.0)]  # the frontier begins at 0.983
    assert (score_at(pairs, 0.98), score_at(pairs, 0.6), score_at(pairs, 0.983)) == (8.0, 8.0, 8.0)
    assert score_at(pairs, 0.59) is None  # nothing was measured there
    found = difference({0: pairs, 1: [(0.98, 8.0)]}, {0: [(0.98, 7.0)], 1: [(0.98, 7.0)]}, 0.98)
    assert (found.mean, found.n) == (1.0, 2)


def test_the_hypervolume_is_the_area_below_the_frontier():
    # 0.5 wide and 1 high, then 0.4 wide and 0.5 high
    assert hypervolume([(0.5, 1.0), (0.9, 0.5), (0.4, 0.9)]) == pytest.approx(0.7)
    # from (0.5, 0.25): nothing of the first, 0.4 · 0.25 of the second
    assert hypervolume([(0.5, 1.0), (0.9, 0.5)], reference=(0.5, 0.25)) == pytest.approx(0.1)
    assert hypervolume([]) == 0


def test_techniques_are_compared_seed_by_seed():
    ours = {0: [(0.85, 5.0), (0.95, 3.0)], 1: [(0.9, 6.0)], 2: [(0.9, 9.0)], 7: [(0.9, 99.0)]}
    theirs = {0: [(0.9, 3.0)], 1: [(0.9, 4.0)], 2: [(0.5, 9.0)]}  # seed 2 does not reach 0.9, nobody pairs with seed 7
    found = difference(ours, theirs, 0.9)
    assert (found.mean, found.seeds) == (pytest.approx(1.5), (0, 1))  # 4 - 3 and 6 - 4
    half = 12.7062 / 2  # t(0.975, 1) · s / √2 with s = 1 / √2
    assert found.interval() == pytest.approx((1.5 - half, 1.5 + half), abs=1e-4)
    assert difference(ours, {}, 0.9) is None
    alone = difference({0: ours[0]}, theirs, 0.9)
    assert (alone.interval(), alone.n) == (None, 1)


def test_nothing_is_read_between_points_that_are_no_curve():
    jump = [(0.1, 9.0), (1.0, 1.0)]
    assert (score_at(jump, 0.5), score_at(jump, 0.1), score_at(jump, 1.0)) == (None, 9.0, 1.0)
    assert difference({0: jump}, {0: [(0.5, 3.0)]}, 0.5) is None
    assert connected((0.0, 1.0), (0.9, 1.0))  # a tenth is left
    assert connected((0.9, 1.0), (0.99, 1.0))
    assert not connected((0.0, 1.0), (0.91, 1.0))


def test_pairs_that_others_beat_were_seen_in_between():
    # 99.5 % is by luck better than 90 and 97 %: the frontier has a twentieth of the weights left from one to the next.
    seen = [(0.8, 9.0), (0.9, 7.0), (0.97, 6.0), (0.995, 8.0)]
    assert frontier(seen) == [(0.8, 9.0), (0.995, 8.0)]
    assert score_at(seen, 0.9) == pytest.approx(9 - 0.1 / 0.195)  # on the line, as of neighbours that are nearer
    assert score_at([(0.8, 9.0), (0.995, 8.0)], 0.9) is None
    assert score_at([(0.8, 9.0), (0.81, 7.0), (0.995, 8.0)], 0.9) is None  # from 81 % on nothing was seen


def test_runs_are_grouped_by_technique_and_seed_and_a_seed_that_only_diverged_has_none():
    rows = [row("A", "a", 0, 0.9, 0.5), row("A", "b", 0, 0.8, 0.6), row("dense", sparsity=0.0), diverged("A", seed=9)]
    rows += [diverged("A", "c", 0), diverged("dense", seed=1)]
    assert by_seed(results(rows)) == {"A": {0: [(0.9, 0.5), (0.8, 0.6)], 9: []}}
