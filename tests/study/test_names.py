"""The names by which a run's description knows openwork's values, and the defaults that it leaves out."""

import dataclasses
import inspect
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import openwork as ow
from openwork.core.masks.allocations import Allocation
from openwork.core.masks.patterns import Pattern
from openwork.core.mechanism import Mechanism
from openwork.core.schedules import Schedule
from openwork.core.technique import Technique
from openwork.study import tasks
from openwork.study.runs.config import canonical, from_plain, to_plain
from openwork.study.runs.names import PLACES, name_of, named
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.study.released_defaults import defaults, names, written


def task_types():
    """Every dataclass of study/tasks that can be trained."""
    modules = [import_module(f"{tasks.__name__}.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)]
    classes = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return [
        kind
        for kind in classes
        if dataclasses.is_dataclass(kind) and hasattr(kind, "evaluate") and not inspect.isabstract(kind)
    ]


def test_every_task_has_a_public_name():
    assert len(task_types()) > 9
    assert all(named(name_of(kind)) is kind for kind in task_types())


def test_a_public_name_means_one_thing():
    assert not PLACES.keys() & set(ow.__all__)
    assert all(name_of(named(name)) == name for name in PLACES)
    values = (Technique, Schedule, Allocation, Pattern, ow.Matching)
    for name in ow.__all__:
        value = getattr(ow, name)
        if inspect.isfunction(value) or (isinstance(value, type) and issubclass(value, values)):
            assert named(name_of(value)) is value


def test_a_description_names_openwork_s_values_without_their_modules():
    run = Run(DigitsLeNet300100(), ow.L0(ow.Constant(0.5)), 3, select=ow.matching("*", among=ow.all_parameters))
    assert canonical(run) == (
        '{"select":{"among":{"import":"all_parameters"},"patterns":["*"],"type":"Matching"},"steps":3,'
        '"task":{"type":"DigitsLeNet300100"},'
        '"technique":{"coefficient":{"final":0.5,"type":"Constant"},"type":"L0"},"type":"Run"}'
    )


def test_a_description_for_readers_has_the_defaults_and_means_the_same():
    run = Run(DigitsLeNet300100(), ow.DynamicSurgery(ow.Splicing(7)), 3)
    full = to_plain(run, defaults=True)
    assert (full["task"]["batch_size"], full["technique"]["rate"], full["select"]) == (
        100, 1.0, {"import": "weight_matrices"},
    )  # fmt: skip
    assert "hidden" not in full["technique"]  # it is the technique's, not a setting
    assert from_plain(full) == run
    assert to_plain(from_plain(full)) == to_plain(run) != full


@dataclasses.dataclass(frozen=True)
class Made:
    """A default that is made for each value, and a field that nobody sets."""

    parts: tuple[int, ...] = dataclasses.field(default_factory=tuple)
    whole: int = dataclasses.field(default=1, init=False)


def test_what_equals_its_default_is_left_out_also_where_it_is_made():
    assert to_plain(Made()) == {"type": f"{__name__}:Made"}
    assert to_plain(Made((1,))) == {"type": f"{__name__}:Made", "parts": [1]}


def test_a_value_of_openwork_without_a_public_name_is_refused():
    with pytest.raises(ValueError, match=r"openwork\.core\.mechanism:Mechanism has no public name .*; add it to"):
        name_of(Mechanism)
    with pytest.raises(ValueError, match="the run uses Cubicle, which this openwork lacks; use the openwork that"):
        from_plain({"type": "Cubicle"})


def test_a_description_from_before_public_names_says_what_to_do():
    old = {"type": "openwork.study.runs.run:Run", "steps": 3}
    with pytest.raises(ValueError, match="from before format 2 of run directories; use the openwork that wrote it, or"):
        from_plain(old, ["openwork"])
    with pytest.raises(ValueError, match="3 is not the name of a value; the run's description is damaged"):
        from_plain({"type": 3})


def test_naming_a_run_imports_no_other_task_and_no_data_library():
    program = Path(__file__).with_name("naming_a_run.py")
    loaded = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout.split()
    assert "openwork.study.tasks.lenet" in loaded
    unwanted = {"pyarrow", "datasets", "sklearn", "altair", "ray", "openwork.study.tasks.imagenet"}
    assert not unwanted.intersection(loaded)


def test_a_changed_default_changes_what_old_ids_mean():
    for name, known in written().items():
        found = defaults(named(name))
        for field, default in known.items():
            assert found.get(field, "gone") == default, (
                f"{name}.{field}: a changed default changes what old ids mean; rename the field, or bump FORMAT in "
                "study/results/result.py and write the new default down in defaults.json"
            )
        assert not found.keys() - known.keys(), f"write down in defaults.json that {name} has {json.dumps(found)}"


def test_the_defaults_of_every_released_name_are_written_down():
    # A new technique touches no file of the study, so a name may lack its entry as long as it is unreleased.
    assert {"Run", "Scratch", "ImageNetResNet", "Cubic", "RigL", "Movement", "Wanda", "PerOutput"} <= written().keys()
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    if "(unreleased)" not in changelog.partition("\n## ")[2].partition("\n")[0]:
        missing = set(names()) - written().keys()
        assert not missing, f"run python -m tests.study.released_defaults, for the defaults of {', '.join(missing)}"
