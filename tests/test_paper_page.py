"""docs/paper.md: every name that it gives is there, and functions return as many runs as it says."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from openwork.cli.common import runs_of

PAGE = (Path(__file__).parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(openwork[\w.]*:[\w.]+)`", PAGE)))
COUNTS = re.findall(r"^\|[^|]*\| (\d+) \| `([\w.]+):(\w+)`", PAGE, re.M)


def named(name):
    """What a name of the page names; of a class's field the class must have it."""
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_the_page_names_what_there_is():
    assert len(NAMES) > 50
    for name in NAMES:
        assert named(name) is not None, name


@pytest.mark.parametrize(("count", "module", "function"), COUNTS, ids=[name for *_, name in COUNTS])
def test_a_function_returns_as_many_runs_as_the_page_says(count, module, function):
    assert len(named(f"{module}:{function}")()) == int(count)


@pytest.mark.parametrize("name", ["mnist:recipes", "large_probes:first_convolution", "cifar10:wide_resnet"])
def test_functions_without_arguments_are_experiments_of_the_command_line(name):
    name = f"openwork.study.experiments.{name}"
    assert name in NAMES
    assert len(runs_of(name, [])) == len(named(name)())


def test_every_experiment_of_the_paper_has_a_line():
    grids = ("transformer", "resnet50", "cifar10", "mnist", "large_resnet50", "large_transformer", "large_probes")
    for name in grids:
        assert f"`openwork.study.experiments.{name}:" in PAGE, name
    assert len(COUNTS) == 16
