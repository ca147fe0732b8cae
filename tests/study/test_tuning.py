import math

import pytest

from openwork.study.results.tuning import Choice, Tuned, check_equal_tuning, choose, tuned, tuning_runs
from tests.study.studies import diverged, results, row


def penalty(settings, sparsity, score, seed=0):
    return Tuned("L0", settings, seed, sparsity, score)


def magnitude(settings, level, score, seed=0, sparsity=None):
    return Tuned("Magnitude", settings, seed, level if sparsity is None else sparsity, score, level)


def chosen(runs, levels, **more):
    return [choice.settings for choice in choose(runs, levels, **more)]


def test_of_a_set_sparsity_the_best_validation_score_of_each_level_is_chosen():
    runs = [
        magnitude("a at 50", 0.5, 0.97), magnitude("b at 50", 0.5, 0.98),
        magnitude("a at 90", 0.9, 0.99), magnitude("b at 90", 0.9, 0.95),
    ]  # fmt: skip
    # a at 90 is better than b at 50 and sparser, and still no setting for 50 %
    assert chosen(runs, [0.5, 0.9]) == ["b at 50", "a at 90"]


def test_of_a_penalty_the_best_score_among_the_settings_that_reach_the_level_is_chosen():
    runs = [penalty("1", 0.60, 0.990), penalty("2", 0.91, 0.985), penalty("3", 0.95, 0.986), penalty("4", 0.99, 0.97)]
    # at 90 %: 3 is better than 2, and sparser than it has to be
    assert chosen(runs, [0.5, 0.9, 0.98]) == ["1", "3", "4"]
    assert choose(runs, [0.9]) == [Choice("L0", 0.9, "3", 0.95, 0.986, tried=4, reached=3)]


@pytest.mark.parametrize(
    ("sparsity", "tolerance", "reaches"),
    [
        (0.897, 0.003, True),
        (0.8969, 0.003, False),
        (0.9, 0.0, True),
        (0.89999, 0.0, False),
        (0.3 - 0.1, 0.7, True),  # 0.9 - 0.7 in floating point is more than 0.3 - 0.1
    ],
)
def test_a_level_is_reached_within_the_tolerance(sparsity, tolerance, reaches):
    assert chosen([penalty("a", sparsity, 0.9)], [0.9], tolerance=tolerance) == (["a"] if reaches else [None])


def test_a_set_sparsity_that_is_missed_is_not_reached():
    assert chosen([magnitude("a", 0.9, 0.99, sparsity=0.7), magnitude("b", 0.9, 0.95)], [0.9]) == ["b"]


def test_a_level_that_nothing_reaches_says_so():
    (choice,) = choose([penalty("1", 0.6, 0.99), penalty("2", 0.913, 0.95), penalty("3", None, None)], [0.95])
    assert choice == Choice("L0", 0.95, None, 0.913, None, tried=3, reached=0)
    assert str(choice) == "L0 at 95 %: none of 3 settings reaches it; the sparsest has 91.3 %"
    assert str(choose([penalty("3", None, None)], [0.95])[0]).endswith("none of 1 settings reaches it; all diverged")
    assert str(choose([magnitude("a", 0.5, 0.9)], [0.995])[0]) == "Magnitude at 99.5 %: none of 0 settings reaches it"


def test_a_choice_says_of_how_many_it_is_the_best():
    (choice,) = choose([penalty("λ = 1", 0.6, 0.99), penalty("λ = 2", 0.913, 0.95)], [0.9])
    assert str(choice) == "L0 at 90 %: λ = 2, the best of 1 that reach it, of 2 settings"


def test_seeds_of_one_setting_count_by_their_mean():
    runs = [
        penalty("lucky", 0.95, 0.99, seed=0), penalty("lucky", 0.95, 0.93, seed=1),  # 0.96
        penalty("steady", 0.95, 0.97, seed=0), penalty("steady", 0.95, 0.97, seed=1),
        penalty("sparse once", 0.96, 0.999, seed=0), penalty("sparse once", 0.80, 0.999, seed=1),  # 0.88
    ]  # fmt: skip
    assert chosen(runs, [0.9]) == ["steady"]


def test_settings_of_which_a_run_diverged_are_not_chosen():
    runs = [penalty("a", 0.9, 0.99, seed=0), penalty("a", None, None, seed=1), penalty("b", 0.9, 0.5)]
    assert chosen(runs, [0.9]) == ["b"]
    assert chosen([penalty("a", 0.9, math.nan), *runs[2:]], [0.9]) == ["b"]  # the score of a `Result` that diverged


def test_of_equal_scores_the_sparser_settings_are_chosen_and_then_the_first_by_name():
    runs = [penalty("c", 0.95, 0.9), penalty("b", 0.95, 0.9), penalty("a", 0.92, 0.9)]
    assert chosen(runs, [0.9]) == chosen(runs[::-1], [0.9]) == ["b"]


def test_levels_that_differ_by_rounding_are_one():
    assert chosen([magnitude("a", 1 - 0.05 - 0.05, 0.99)], [0.9]) == ["a"]


@pytest.mark.parametrize("wrong", [{"sparsity": 90.0}, {"sparsity": 0.9, "level": 90}, {"sparsity": -0.1}])
def test_a_percentage_is_no_sparsity(wrong):
    with pytest.raises(ValueError, match=r"(sparsity|level) of L0 a must be in \[0, 1\], got .*percentage"):
        Tuned("L0", "a", 0, score=0.9, **wrong)


def test_scores_may_be_negative():
    assert chosen([penalty("a", 0.9, -3.0), penalty("b", 0.9, -2.0)], [0.9]) == ["b"]  # errors of 3 and 2


def test_choices_come_by_technique_and_level():
    runs = [magnitude("a", 0.9, 0.9), penalty("b", 0.95, 0.9), magnitude("c", 0.5, 0.9)]
    found = [(choice.technique, choice.level, choice.settings) for choice in choose(runs, [0.9, 0.5])]
    assert found == [("L0", 0.5, "b"), ("L0", 0.9, "b"), ("Magnitude", 0.5, "c"), ("Magnitude", 0.9, "a")]


@pytest.mark.parametrize(
    ("runs", "levels", "message"),
    [
        ([penalty("a", 0.9, 0.9)], [90], r"a level must be in \[0, 1\), got 90; did you pass a percentage\?"),
        ([penalty("a", 0.9, 0.9)] * 2, [0.9], "two tuning runs are L0 a with seed 0; give each once"),
        ([magnitude("a", 0.9, 0.9), Tuned("Magnitude", "b", 0, 0.9, 0.9)], [0.9], "only some tuning runs of Magnitude"),
        ([magnitude("a", 0.9, 0.9), magnitude("a", 0.5, 0.9, seed=1)], [0.9], "Magnitude a ask for different levels"),
    ],
)
def test_runs_from_which_nothing_can_be_chosen_are_refused(runs, levels, message):
    with pytest.raises(ValueError, match=message):
        choose(runs, levels)


def test_tuning_runs_are_counted_by_technique_and_level():
    runs = [magnitude("a", 0.5, 0.9), magnitude("b", 0.9, 0.9), penalty("1", 0.7, 0.9), penalty("2", None, None)]
    assert tuning_runs(runs) == {"L0": {None: 2}, "Magnitude": {0.5: 1, 0.9: 1}}
    assert check_equal_tuning(runs) == 2  # a run that diverged was a run


def test_unequal_tuning_is_refused_with_the_numbers():
    runs = [magnitude("a", 0.5, 0.9), magnitude("b", 0.9, 0.9), penalty("1", 0.7, 0.9)]
    message = "different numbers of tuning runs: L0 1, Magnitude 2; give each 2"
    with pytest.raises(ValueError, match=message):
        check_equal_tuning(runs)
    with pytest.raises(ValueError, match="there is no tuning run"):
        check_equal_tuning([])


def test_levels_may_differ_by_the_run_that_is_left_over():
    runs = [magnitude(f"{level} {i}", level, 0.9) for level, n in ((0.5, 3), (0.9, 2)) for i in range(n)]
    assert check_equal_tuning(runs) == 5
    message = "Magnitude spread its tuning runs unequally: 4 at 50 %, 2 at 90 %; give each level as many"
    with pytest.raises(ValueError, match=message):
        check_equal_tuning([*runs, magnitude("one more", 0.5, 0.9)])


def test_results_that_were_judged_on_validation_data_are_tuning_runs():
    rows = [{**row("L0", "λ = 1", 3, 0.9, 0.97), "judged_on": "validation"}, {**diverged(), "judged_on": "validation"}]
    one, other = results(rows)
    assert tuned(one) == Tuned("L0", "λ = 1", 3, 0.9, 0.97)
    assert tuned(one, technique="L0, late", settings="4", level=0.9) == Tuned("L0, late", "4", 3, 0.9, 0.97, 0.9)
    assert tuned(other).diverged


def test_settings_are_not_chosen_on_the_test_set():
    (one,) = results([row()])
    with pytest.raises(ValueError, match=r"was judged on test data; .*judged_on=\"validation\""):
        tuned(one)
