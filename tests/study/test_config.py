import dataclasses

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.study.runs.config import canonical, describe, find, from_plain, inside, override, to_plain
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

RUN = Run(
    DigitsLeNet300100(),
    ow.GradualMagnitude(ow.Cubic(0.9, begin=5, end=20), allocation=ow.PerLayer({"fc3": 0.5})),
    steps=30,
    select=ow.excluding("fc1.*", among=ow.weights_of(nn.Linear)),
)


def test_a_run_survives_the_way_to_json_and_back():
    assert from_plain(to_plain(RUN)) == RUN
    assert canonical(from_plain(to_plain(RUN))) == canonical(RUN)


def test_identity_is_the_hash_of_everything():
    changed = [
        dataclasses.replace(RUN, seed=1),
        dataclasses.replace(RUN, steps=31),
        dataclasses.replace(RUN, technique=None),
        dataclasses.replace(RUN, task=DigitsLeNet300100(batch_size=50)),
        dataclasses.replace(RUN, select=ow.weight_matrices),
    ]
    assert len({run.id for run in (RUN, *changed)}) == 6
    assert dataclasses.replace(changed[0], seed=0).id == RUN.id
    assert len(RUN.id) == 16


def test_settings_say_all_but_task_and_seed():
    assert RUN.settings == (
        "schedule=Cubic(final=0.9, end=20, begin=5), allocation=PerLayer(targets=(('fc3', 0.5))), steps=30, "
        "select=excluding('fc1.*', among=weights_of(Linear))"
    )
    dense = Run(DigitsLeNet300100(batch_size=50), None, steps=7)
    assert (dense.name, dense.settings) == ("dense", "steps=7, task.batch_size=50")


def test_a_variant_is_part_of_name_and_identity():
    extended = dataclasses.replace(RUN, variant="extended")
    assert (extended.name, extended.settings) == ("GradualMagnitude, extended", RUN.settings)
    assert extended.id != RUN.id
    assert dataclasses.replace(extended, technique=None).name == "dense, extended"


def test_describe_leaves_out_defaults():
    assert describe(ow.VariationalDropout(ow.Constant(0.5))) == "VariationalDropout(coefficient=Constant(final=0.5))"
    assert inside(None) == ""


def test_override_sets_several_fields_at_once():
    run = override(
        RUN, ["seed=3", "technique.schedule.begin=50", "technique.schedule.end=90", "task.peak_learning_rate=1"]
    )
    assert (run.seed, run.technique.schedule) == (3, ow.Cubic(0.9, begin=50, end=90))
    assert run.task.peak_learning_rate == 1.0
    assert isinstance(run.task.peak_learning_rate, float)


@dataclasses.dataclass(frozen=True)
class Fields:
    flag: bool = False
    number: float | None = 1.0
    count: int = 1
    text: str = ""
    open: str | None = None
    size: int | None = None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("flag=true", True),
        ("flag=True", True),
        ("flag=FALSE", False),
        ("number=none", None),
        ("number=None", None),
        ("number=2", 2.0),
        ("text=none", "none"),  # a text cannot be None, so this is a word
        ("text=true", "true"),
        ("text=3", "3"),
        ("open=none", None),
        ("open=False", "False"),
        ("open='none'", "none"),
        ("size=7", 7),
    ],
)
def test_values_are_what_their_fields_can_hold(setting, value):
    found = getattr(override(Fields(), [setting]), setting.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "setting", ["flag=1", "flag=none", "count=true", "count=none", "count=1.5", "size=x", "number=x"]
)
def test_values_that_a_field_cannot_hold_are_refused(setting):
    with pytest.raises(ValueError, match=f"'{setting}' needs a value of type (bool|int|float)"):
        override(Fields(), [setting])


def test_a_technique_can_be_left_out_by_none():
    assert override(RUN, ["technique=none"]).technique is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "expected field=value, got 'seed'"),
        ("sed=1", "Run has no field 'sed'; it has task, technique, steps, seed, select"),
        ("technique.schedule.final.x=1", "float has no field 'x'; it has no fields"),
        ("origin.run=x", "'run' cannot be set, as what should hold it is None"),
        ("steps=many", "'steps=many' needs a value of type int"),
        ("technique.schedule.end=3", "0 <= begin < end, got begin=5, end=3"),
    ],
)
def test_wrong_overrides_say_what_is_there(setting, message):
    with pytest.raises(ValueError, match=message):
        override(RUN, [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["technique=none", "technique.schedule.end=9"],
            "'technique=none' and 'technique.schedule.end=9' exclude each",
        ),
        (["technique.schedule.end=9", "technique=none"], "'technique=none' and a setting of a field inside technique"),
        (["technique.schedule.end=9", "technique.schedule.end.x=1"], "exclude each other; leave one out"),
        (["seed=1", "seed=2"], "'seed=1' and 'seed=2' set one field; leave one out"),
        (["technique.schedule.end=9", "steps=3", "technique.schedule.end=9"], "set one field; leave one out"),
        (["technique.schedule=none"], "needs a value of type Cubic|GradualMagnitude needs a schedule"),
        (
            ["technique.schedule.final=" + "1" * 400],
            "final must be a number that a float can hold, got one of 400 digits",
        ),
    ],
)
def test_settings_that_no_field_can_take_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        override(RUN, settings)


def test_a_class_s_own_check_of_its_types_is_a_wrong_value():
    with pytest.raises(ValueError, match="VariationalDropout needs a coefficient, such as"):
        override(
            Run(DigitsLeNet300100(), ow.VariationalDropout(ow.Constant(1.0)), steps=1), ["technique.coefficient=none"]
        )


def test_what_has_no_stable_text_cannot_be_part_of_a_run():
    with pytest.raises(ValueError, match="cannot be part of a run"):
        to_plain(torch.zeros(2))
    with pytest.raises(ValueError, match="no importable name; define it at the top of a module"):
        to_plain(lambda: 0)


def test_a_description_cannot_choose_what_code_runs():
    with pytest.raises(ValueError, match="'os' is not trusted; pass --trust os"):
        from_plain({"import": "os:system"})
    with pytest.raises(ValueError, match="is not a dataclass"):
        from_plain({"type": "torch:load", "f": "x"})
    with pytest.raises(ValueError, match="does not fit this version's"):
        from_plain({"type": "Cubic", "gone": 1})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("openwork", "expected module:name, got 'openwork'"),
        (".lab:x", "expected module:name, got '.lab:x'"),
        ("..:x", "expected module:name, got '..:x'"),
        ("nowhere.at_all:x", "there is no module 'nowhere.at_all'"),
        ("openwork.study.experiments.mnist:nothing", "has no 'nothing'; it has dense, magnitude, best"),
    ],
)
def test_names_that_are_not_there(path, message):
    with pytest.raises(ValueError, match=message):
        find(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_finite_number_is_called_so(value):
    run = Run(DigitsLeNet300100(), ow.VariationalDropout(ow.Constant(1.0)), steps=3)
    with pytest.raises(ValueError, match=f"'technique.threshold={value}' needs a finite number"):
        override(run, [f"technique.threshold={value}"])
