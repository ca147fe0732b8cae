import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import openwork as ow

DOCS = Path(__file__).parents[1] / "docs" / "api.md"
# The only argument of functions whose first line says all about it.
ONE_LINE = {
    "MaskTechnique.exchange": "step",
    "Pattern.group": "shape",
    "Pattern.group_scores": "scores",
    "Pattern.misfit": "shape",
    "ReparameterizedWeight.effective": "weight",
    "ReparameterizedWeight.expected_nonzero": "weight",
    "ReparameterizedWeight.penalty": "weight",
    "Schedule.__call__": "step",
    "Schedule.due": "step",
    "Sparsifier.load_state_dict": "state",
    "weights_of": "types",
}
SELECTIONS = {"Excluding.__call__", "Matching.__call__", "WeightsOf.__call__"}  # called as `weight_matrices` is


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, and the public methods of public classes but for those that override one of openwork's."""
    for name in ow.__all__:
        value = getattr(ow, name)
        if not inspect.isclass(value):
            yield name, value
            continue
        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("openwork.")]
        for method, function in vars(value).items():
            public = not method.startswith("_") or method == "__call__"
            if inspect.isfunction(function) and public and not any(method in vars(base) for base in bases):
                yield f"{name}.{method}", function


FUNCTIONS = dict(public_functions())
DATACLASSES = [name for name in ow.__all__ if is_dataclass(getattr(ow, name))]


def described(value: object) -> set[str]:
    """The names in the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(value.__doc__ or ""), re.MULTILINE)
    return set(re.findall(r"^    (\w+): \S", section[1], re.MULTILINE)) if section else set()


def test_public_names_are_sorted_and_exist():
    # the linter's order: capitals, classes, functions
    assert ow.__all__ == sorted(ow.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(set(ow.__all__)) == len(ow.__all__)
    assert all(hasattr(ow, name) for name in ow.__all__)


def test_every_public_name_is_documented():
    text = DOCS.read_text()
    for name in ow.__all__:
        assert f"`{name}" in text, f"{name} is missing in docs/api.md"
        assert getattr(ow, name).__doc__


def test_every_public_method_of_a_sparsifier_has_a_docstring():
    members = {name: member for name, member in vars(ow.Sparsifier).items() if not name.startswith("_")}
    assert {"attach", "penalty", "finalize"} <= members.keys()
    assert [name for name, member in members.items() if not member.__doc__] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_describes_its_arguments(name):
    function = FUNCTIONS[name]
    arguments = set(inspect.signature(function).parameters) - {"self"}
    if name in ONE_LINE:
        assert arguments == {ONE_LINE[name]}
        assert f"``{ONE_LINE[name]}``" in function.__doc__.splitlines()[0]
    elif name in SELECTIONS:
        assert arguments == described(ow.weight_matrices)
    else:
        assert described(function) == arguments


def test_the_exceptions_are_public_functions():
    assert ONE_LINE.keys() | SELECTIONS <= FUNCTIONS.keys()


@pytest.mark.parametrize("name", DATACLASSES)
def test_a_public_dataclass_describes_its_settings(name):
    kind = getattr(ow, name)
    settings = {field.name for field in fields(kind) if field.init and field.name[0] != "_"}
    assert settings & inspect.get_annotations(kind).keys() <= described(kind) <= settings
    # A reader sees public bases, and no private one.
    visible = set().union(*(described(base) for base in kind.__mro__ if base.__name__ in ow.__all__))
    private = [inspect.get_annotations(base) for base in kind.__mro__ if base.__name__.startswith("_")]
    assert settings & set().union(*private) <= visible
