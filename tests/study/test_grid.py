"""Settings with several values: seed=0,1,2."""

import re
from dataclasses import dataclass

import pytest

from openwork.study.runs.grid import grid


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    name: str = "a"


@dataclass(frozen=True)
class Outer:
    seed: int = 0
    sizes: tuple[int, ...] = (300, 100)
    inner: Inner = Inner()


def test_each_value_makes_one_and_the_last_setting_varies_first():
    found = grid(Outer(), ["seed=0,1", "inner.rate=0.5,2"])
    assert [(one.seed, one.inner.rate) for one in found] == [(0, 0.5), (0, 2.0), (1, 0.5), (1, 2.0)]


def test_one_value_or_none_makes_one():
    assert grid(Outer(), ["seed=4"]) == [Outer(seed=4)]
    assert grid(Outer(), []) == [Outer()]


def test_a_tuple_is_one_value_and_tuples_are_several():
    assert grid(Outer(), ["sizes=5,6"]) == grid(Outer(), ["sizes=(5,6)"]) == [Outer(sizes=(5, 6))]
    assert [one.sizes for one in grid(Outer(), ["sizes=(5,6),(7,)"])] == [(5, 6), (7,)]


def test_commas_in_quotes_and_brackets_divide_nothing():
    assert [one.inner.name for one in grid(Outer(), ["inner.name='a,b'"])] == ["a,b"]
    assert [one.inner.name for one in grid(Outer(), ["inner.name=a,b"])] == ["a", "b"]
    assert [one.inner.name for one in grid(Outer(), ["inner.name=f(1,2)"])] == ["f(1,2)"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("seed=0,", "has a comma and no value beside it; write seed=0,1,2"),
        ("seed=,1", "has a comma and no value beside it"),
        ("seed=1,1", "has a value twice; each value makes one run"),
        ("seed=0,x", "'seed=x' needs a value of type int"),
        ("sed=0,1", "Outer has no field 'sed'"),
        ("seed", "expected field=value, got 'seed'"),
    ],
)
def test_what_makes_no_grid_is_one_sentence(setting, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        grid(Outer(), [setting])
