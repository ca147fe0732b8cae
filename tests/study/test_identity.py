"""One run has one id, and two runs have two: which values a description tells apart, and which it refuses."""

import dataclasses
import enum
import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

import openwork as ow
from openwork.study.runs.config import canonical, from_plain, inside, to_plain
from openwork.study.runs.names import name_of
from openwork.study.runs.run import Run
from tests.helpers import raises
from tests.study.tinylab import Tiny


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A field for each kind of number, and some for several."""

    real: float = 1.0
    whole: int = 1
    flag: bool = True
    reals: tuple[float, ...] = (0.5, 1.0)
    named: "Mapping[str, float] | None" = None
    anything: Any = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    """A value of which only the first field takes part in comparisons."""

    seen: int = 0
    unseen: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True)
class Outer:
    """Holds such a value."""

    inner: Inner = Inner()


@dataclasses.dataclass(frozen=True)
class Typed:
    """Has a field by a name that descriptions use."""

    type: int = 0


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    ONE = "one"


def twice():
    return 1


first_twice = twice


def twice():
    return 2


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (Numbers(real=2), Numbers(real=2.0), '"real":2.0'),
        (Numbers(real=-0.0), Numbers(real=0.0), '"real":0.0'),
        (Numbers(real=True), Numbers(real=1), "{"),
        (Numbers(whole=2.0), Numbers(whole=2), '"whole":2'),
        (Numbers(flag=0), Numbers(flag=False), '"flag":false'),
        (Numbers(reals=(0, 1)), Numbers(reals=(0.0, 1.0)), '"reals":[0.0,1.0]'),
        (Numbers(named={"a": 1}), Numbers(named={"a": 1.0}), '"named":{"a":1.0}'),
        (Numbers(anything=(2.0, -0.0)), Numbers(anything=(2, 0)), '"anything":[2,0]'),
        (Numbers(anything=True), Numbers(anything=1.0), "{"),
    ],
)
def test_equal_numbers_are_described_alike(one, other, text):
    assert one == other
    assert canonical(one) == canonical(other)
    assert text in canonical(one)
    assert from_plain(to_plain(one), ["tests"]) == one


def test_runs_that_are_equal_have_one_id():
    for one, other in [
        (ow.L0(ow.Constant(1)), ow.L0(ow.Constant(1.0))),
        (ow.VariationalDropout(ow.Constant(0.5), threshold=2), ow.VariationalDropout(ow.Constant(0.5), threshold=2.0)),
        (
            ow.VariationalDropout(ow.Constant(0.5), threshold=-0.0),
            ow.VariationalDropout(ow.Constant(0.5), threshold=0.0),
        ),
    ]:
        assert Run(Tiny(), one, steps=3).id == Run(Tiny(), other, steps=3).id


def test_a_default_is_left_out_by_its_description():
    assert to_plain(Numbers(reals=[0.5, 1])) == {"type": f"{__name__}:Numbers"}  # a list where the default is a tuple
    outer = Outer(Inner(unseen=3))
    assert outer == Outer()  # but another value
    assert to_plain(outer)["inner"] == {"type": f"{__name__}:Inner", "unseen": 3}
    assert inside(outer) == "inner=Inner(unseen=3)"


def test_a_large_whole_number_keeps_its_digits():
    assert canonical(Numbers(real=2**53 + 1)) != canonical(Numbers(real=2**53))


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (Numbers(named={1: 0.5}), ("a mapping with the key 1 cannot be part of a run; use strings but not 'type' or",)),
        (Numbers(named={"import": 0.5}), ("a mapping with the key 'import' cannot be part of a run",)),
        ({"type": "Run"}, ("a mapping with the key 'type' cannot be part of a run",)),
        (Typed(), ("a field named 'type' cannot be part of a run, whose description uses it; rename it",)),
        (Numbers(real=math.nan), ("nan cannot be part of a run; use a finite number",)),
        (Numbers(anything=(-math.inf,)), ("-inf cannot be part of a run; use a finite number",)),
        (Numbers(whole=Level.LOW), ("of the type Level, cannot be part of a run; use dataclasses", "Python's own")),
        (Numbers(anything=Word.ONE), ("of the type Word, cannot be part of a run",)),
    ],
)
def test_what_would_lose_its_meaning_is_refused(value, parts):
    with raises(ValueError, *parts):
        to_plain(value, defaults=True)


def test_a_name_must_find_the_same_value_again(monkeypatch):
    assert name_of(twice) == f"{__name__}:twice"
    made = dataclasses.make_dataclass("Made", ["field"])
    for value in (first_twice, made):
        with raises(ValueError, "names no or another object; give it that name at the top of its module"):
            name_of(value)
    program = ModuleType("__main__")
    program.Local = type("Local", (Tiny,), {"__module__": "__main__"})
    monkeypatch.setitem(sys.modules, "__main__", program)
    with raises(ValueError, "Local is of the program itself, where no other finds it; move it to a module and import"):
        name_of(program.Local)
