import pytest

import openwork as ow


def test_cubic_values_by_hand():
    schedule = ow.Cubic(0.9, begin=100, end=300)
    assert [schedule(t) for t in (0, 100, 300, 1000)] == pytest.approx([0, 0, 0.9, 0.9])
    assert schedule(200) == pytest.approx(0.9 - 0.9 * 0.5**3)
    assert ow.Cubic(0.9, begin=0, end=4, initial=0.5)(1) == pytest.approx(0.9 - 0.4 * 0.75**3)


def test_cubic_gives_the_published_sparsities_of_runs_that_end_before_their_last_update():
    # s(490000) for runs with end = 500000 and begin = 100000 ... 400000: the paper's CSVs
    published = {100_000: 0.499992, 200_000: 0.499983, 300_000: 0.499938, 400_000: 0.499499}
    for begin, sparsity in published.items():
        assert ow.Cubic(0.5, begin=begin, end=500_000)(490_000) == pytest.approx(sparsity, abs=2e-6)


def test_linear_values_by_hand():
    assert [ow.Linear(1.0, begin=5, end=20)(t) for t in (4, 5, 8, 20, 99)] == pytest.approx([0, 0, 0.2, 1, 1])


def due(schedule, until=40):
    return [t for t in range(until) if schedule.due(t)]


def test_masks_are_due_from_begin_each_every_steps_until_end():
    assert due(ow.Cubic(0.9, begin=10, end=30, every=5)) == [10, 15, 20, 25, 30]


def test_begin_before_the_first_interval_is_due_after_one_interval():
    # TensorFlow's last_update starts at 0, so nothing happens before step `every`
    assert due(ow.Cubic(0.9, begin=0, end=20, every=10)) == [10, 20]
    assert due(ow.Cubic(0.9, begin=4, end=20, every=10)) == [10, 20]


def test_end_is_always_due_so_that_the_target_is_reached():
    assert due(ow.Linear(0.9, begin=10, end=17, every=5)) == [10, 15, 17]
    assert due(ow.Linear(0.9, begin=0, end=3, every=100)) == [3]


def test_constant_and_one_shot():
    assert due(ow.Constant(0.5)) == [0]
    assert due(ow.Constant(0.5, every=15)) == [0, 15, 30]
    assert due(ow.OneShot(0.5, at=7)) == [7]
    assert [ow.OneShot(0.5, at=7)(t) for t in (6, 7)] == [0.0, 0.5]


@pytest.mark.parametrize(("begin", "end"), [(5, 5), (6, 5), (-1, 5)])
def test_begin_must_come_before_end(begin, end):
    with pytest.raises(ValueError, match=f"0 <= begin < end, got begin={begin}, end={end}"):
        ow.Cubic(0.9, begin=begin, end=end)


def test_intervals_must_be_positive():
    for make in (lambda: ow.Cubic(0.9, end=5, every=0), lambda: ow.Constant(0.9, every=0)):
        with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
            make()
    with pytest.raises(ValueError, match="at must be a step >= 0, got -1"):
        ow.OneShot(0.9, at=-1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90])
def test_sparsity_outside_its_range_asks_about_percentages(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got .*; did you pass a percentage\?"):
        ow.GradualMagnitude(ow.OneShot(sparsity))
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        ow.PerLayer({"fc": sparsity})


def test_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match=r"coefficient must be >= 0, got -1"):
        ow.L0(ow.Constant(-1.0))


def test_the_averaged_ramp_is_a_moving_average_of_the_cubic_one():
    ramp, averaged = ow.Cubic(2.0, begin=10, end=50), ow.AveragedCubic(2.0, begin=10, end=50)
    average = 0.0
    for step in range(120):
        average = 0.1 * ramp(step) + 0.9 * average
        assert averaged(step) == pytest.approx(average, abs=1e-12)
    assert averaged(0) == 0.0
    assert averaged(50) < 1.99 < averaged(1_000) == pytest.approx(2.0)
    assert ow.AveragedCubic(2.0, begin=10, end=50, decay=0.0)(33) == ramp(33)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        ow.AveragedCubic(2.0, end=5, decay=1.0)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: ow.OneShot(0.5, at=2.5),
        lambda: ow.Cubic(0.5, end=0.8 * 333),
        lambda: ow.Linear(0.5, begin=0.5, end=10),
        lambda: ow.Cubic(0.5, end=10, every=2.5),
        lambda: ow.Constant(0.5, every=1.5),
        lambda: ow.Constant(0.5, every=2, stop=4.5),
    ],
)
def test_a_step_that_never_comes_is_refused(schedule):
    with pytest.raises(ValueError, match=r"must be a whole number of steps, got [0-9.]+; round it"):
        schedule()
