"""The defaults that ids rely on; ``python -m tests.study.released_defaults`` adds those of new names and fields."""

import dataclasses
import json
from pathlib import Path

import openwork as ow
from openwork.study.runs.config import to_plain
from openwork.study.runs.names import PLACES, named

BASES = (ow.MaskTechnique, ow.Reparameterization, ow.Schedule, ow.Criterion, ow.Allocation, ow.Pattern)
SELECTIONS = (ow.Matching, ow.Excluding, ow.WeightsOf)
FILE = Path(__file__).with_name("defaults.json")


def written():
    """The defaults in the file, by public name and field."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def names():
    """The public names of all dataclasses of which a run may consist."""
    public = {name: getattr(ow, name) for name in ow.__all__}
    kinds = [
        name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, (*BASES, *SELECTIONS))
    ]
    return sorted([*(name for name in kinds if public[name] not in BASES), *PLACES])


def defaults(kind):
    """The default of each field that has one, also where nobody can set another, as a description would say it."""
    return {
        f.name: to_plain(f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(kind)
        if not f.default is f.default_factory is dataclasses.MISSING
    }


if __name__ == "__main__":
    old = written()
    known = old | {name: old.get(name, {}) | defaults(named(name)) | old.get(name, {}) for name in names()}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
