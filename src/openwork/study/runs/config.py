"""Values as JSON and back: what identifies a run, and what its directory says about it."""

import ast
import dataclasses
import importlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Set
from functools import cache
from inspect import formatannotation
from types import FunctionType
from typing import Any

from openwork.study.exits import exits_are_errors
from openwork.study.results.result import canonical as text
from openwork.study.runs.names import name_of, named

TRUSTED = ("torch",)
"""The packages that a description may always name, beside openwork."""

_WORDS = {"true": True, "false": False, "none": None}
_SIMPLE = {"bool", "int", "float", "str", "tuple"}
_RESERVED = ("type", "import")
_NUMBERS = frozenset({"bool", "int", "float"})
_EXACT = 2**53  # up to here each int is a float


def to_plain(value: Any, *, defaults: bool = False) -> Any:
    """Dataclasses, functions, classes, sequences and mappings as JSON values, the same for equal values.

    Args:
        value: The value.
        defaults: Include the fields of a dataclass that equal their defaults, for readers. Without them, a field can be
            added and no id changes.

    Raises:
        ValueError: If the value is, or holds, anything else, or a number that is NaN or infinite.
    """
    return _plain(value, frozenset(), defaults)


def _plain(value: Any, kinds: Set[str], defaults: bool) -> Any:
    """`to_plain` of a value in a field whose annotation names these kinds of numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = _settable(value) if defaults else _changed(value)
        return {
            "type": name_of(type(value)),
            **{f.name: _of_field(f, getattr(value, f.name), defaults) for f in fields},
        }
    if isinstance(value, FunctionType | type):
        return {"import": name_of(value)}
    if isinstance(value, tuple | list):
        return [_plain(item, kinds, defaults) for item in value]
    if isinstance(value, Mapping):
        if wrong := [key for key in value if type(key) is not str or key in _RESERVED]:
            raise ValueError(
                f"a mapping with the key {wrong[0]!r} cannot be part of a run; use strings but not 'type' or 'import'"
            )
        return {key: _plain(item, kinds, defaults) for key, item in value.items()}
    if type(value) in (bool, int, float):
        return _number(value, kinds)
    if value is None or type(value) is str:
        return value
    raise ValueError(
        f"{value!r}, of the type {type(value).__name__}, cannot be part of a run; use dataclasses, functions, Python's "
        "own numbers, strings and tuples"
    )


def _of_field(field: dataclasses.Field[Any], value: Any, defaults: bool = False) -> Any:
    """`to_plain` of a field's value."""
    if field.name in _RESERVED:
        raise ValueError(f"a field named {field.name!r} cannot be part of a run, whose description uses it; rename it")
    return _plain(value, _kinds(formatannotation(field.type)), defaults)


@cache
def _kinds(annotation: str) -> frozenset[str]:
    """The kinds of numbers that the annotation of a field names."""
    return _NUMBERS.intersection(re.findall(r"\w+", annotation))


def _number(value: Any, kinds: Set[str]) -> bool | int | float:
    """One of the numbers that equal ``value``: 1, 1.0 and True are equal, and so must be the texts of equal runs.

    It is a float in a field for floats alone, a bool in one for bools alone, and elsewhere a whole number is an int.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value!r} cannot be part of a run; use a finite number")
    if kinds == {"float"} and abs(value) <= _EXACT:
        return float(value) + 0.0  # -0.0 equals 0.0
    if kinds == {"bool"} and value in (0, 1):
        return bool(value)
    return int(value) if value == int(value) else value


def canonical(value: Any) -> str:
    """One JSON text for equal values."""
    return text(to_plain(value))


def from_plain(plain: Any, trusted: Collection[str] = TRUSTED) -> Any:
    """The value that `to_plain` turned into ``plain``; lists become tuples.

    It builds only dataclasses, as a file from somewhere else must not choose what code runs.

    Args:
        plain: JSON values.
        trusted: The packages whose names are imported, beside openwork's public ones.

    Raises:
        ValueError: If ``plain`` names anything else, or does not fit this version.
    """
    if isinstance(plain, list):
        return tuple(from_plain(item, trusted) for item in plain)
    if not isinstance(plain, dict):
        return plain
    if "import" in plain:
        return _find(plain["import"], trusted)
    if "type" in plain:
        kind = _find(plain["type"], trusted)
        if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
            raise ValueError(f"{plain['type']} is not a dataclass; the run's description is damaged")
        fields = {key: from_plain(item, trusted) for key, item in plain.items() if key != "type"}
        try:
            return kind(**fields)
        except TypeError as error:
            raise ValueError(f"the run's description does not fit this version's {plain['type']}: {error}") from error
    return {key: from_plain(item, trusted) for key, item in plain.items()}


def packages(plain: Any) -> set[str]:
    """The packages that `from_plain` must trust for ``plain``, which this program itself has described."""
    if isinstance(plain, list):
        return set().union(*map(packages, plain))
    if not isinstance(plain, dict):
        return set()
    places = [plain[key] for key in ("type", "import") if ":" in plain.get(key, "")]
    return {_package(place) for place in places}.union(*map(packages, plain.values()))


def describe(value: Any) -> str:
    """A value as a short text: a dataclass by its ``__str__``, or by the fields that differ from their defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__str__ is not object.__str__:
            return str(value)
        return f"{type(value).__name__}({inside(value)})"
    if isinstance(value, tuple):
        return f"({', '.join(describe(item) for item in value)})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value.__name__ if isinstance(value, FunctionType | type) else repr(value)


def inside(value: Any, prefix: str = "", without: Collection[str] = ()) -> str:
    """The fields of a dataclass that differ from their defaults, as ``field=value, ...``; "" for anything else.

    Args:
        value: The dataclass.
        prefix: Put before each field's name.
        without: Fields to leave out.
    """
    if not dataclasses.is_dataclass(value):
        return ""
    changed = [(field.name, getattr(value, field.name)) for field in _changed(value) if field.name not in without]
    return ", ".join(f"{prefix}{name}={describe(item)}" for name, item in changed)


def override(value: Any, settings: Iterable[str]) -> Any:
    """A copy of the dataclass ``value`` with all settings.

    Args:
        value: The dataclass.
        settings: ``field=value`` or ``field.field=value``; the value is a Python literal, true, false or none in any
            case, or else text.

    Raises:
        ValueError: If a setting has no "=", names a field that does not exist, has another type than the field, or
            excludes another setting.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"expected field=value, got {setting!r}")
        *parents, field = path.split(".")
        node = changes
        for parent in parents:
            node = node.setdefault(parent, {})
            if isinstance(node, _Setting):
                raise ValueError(f"{node.whole!r} and {setting!r} exclude each other; leave one out")
        if isinstance(node.get(field), dict):
            raise ValueError(f"{setting!r} and a setting of a field inside {path} exclude each other; leave one out")
        if field in node:
            raise ValueError(f"{node[field].whole!r} and {setting!r} set one field; leave one out")
        node[field] = _Setting(setting, text)
    return _replaced(value, changes)


@dataclasses.dataclass(frozen=True)
class _Setting:
    whole: str
    text: str


def _replaced(value: Any, changes: dict[str, Any]) -> Any:
    """All changes of one dataclass at once: begin and end may only make sense together."""
    fields = {f.name: f for f in _settable(value)} if dataclasses.is_dataclass(value) else {}
    new = {}
    for name, change in changes.items():
        if name not in fields:
            if value is None:
                raise ValueError(
                    f"{name!r} cannot be set, as what should hold it is None, like the technique of a dense run; leave "
                    "such runs out"
                )
            has = f"it has {', '.join(fields)}" if fields else "it has no fields"
            raise ValueError(f"{type(value).__name__} has no field {name!r}; {has}")
        old = getattr(value, name)
        new[name] = _literal(old, change, fields[name]) if isinstance(change, _Setting) else _replaced(old, change)
    try:
        return dataclasses.replace(value, **new)
    except TypeError as error:  # a class's own check of what it is given
        raise ValueError(str(error)) from error


def _literal(old: Any, setting: _Setting, field: dataclasses.Field[Any]) -> Any:
    """The value of a setting, of the type of the old one or of another that the field's annotation names."""
    new: Any = _WORDS.get(setting.text.strip().lower(), setting)
    if new is setting:
        try:
            new = ast.literal_eval(setting.text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            new = setting.text
    named = set(re.findall(r"\w+", formatannotation(field.type)))
    wanted = (named & _SIMPLE) if old is None else {type(old).__name__}
    if type(new).__name__ in wanted or (new is None and "None" in named) or not wanted:
        return new
    if type(new) is int and "float" in wanted:
        try:
            return float(new)
        except OverflowError:
            raise ValueError(
                f"{field.name} must be a number that a float can hold, got one of {len(setting.text)} digits"
            ) from None
    if "str" in wanted:
        return setting.text
    if "float" in wanted and setting.text.strip("+-").lower() in ("nan", "inf", "infinity"):
        raise ValueError(f"{setting.whole!r} needs a finite number")
    raise ValueError(f"{setting.whole!r} needs a value of type {' or '.join(sorted(wanted))}")


def find(path: str) -> Any:
    """Imports what ``module:name`` names, and returns it.

    Raises:
        ValueError: If there is no such module or name.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or module_name.startswith(".") or not name:
        raise ValueError(f"expected module:name, got {path!r}, such as openwork.study.experiments.mnist:dense")
    try:
        with exits_are_errors():
            value = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module is there and misses something itself
        raise ValueError(
            f"there is no module {module_name!r} for {path!r}; is it spelled right and importable from here?"
        ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            public = [
                n for n, v in vars(value).items() if getattr(v, "__module__", None) == module_name and n[0] != "_"
            ]
            raise ValueError(f"{module_name} has no {name!r}; it has {', '.join(public) or 'nothing to call'}")
        value = getattr(value, part)
    return value


def _find(name: Any, trusted: Collection[str]) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is not the name of a value; the run's description is damaged")
    if ":" not in name:
        return named(name)
    if (package := _package(name)) == "openwork":
        raise ValueError(
            f"the run uses {name}, a name from before format 2 of run directories; use the openwork that wrote it, or "
            "train the run again in another folder"
        )
    if package not in trusted:
        raise ValueError(f"the run uses {name}, and {package!r} is not trusted; pass --trust {package} if it is yours")
    return find(name)


def _package(place: str) -> str:
    return place.partition(":")[0].partition(".")[0]


def _settable(value: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(value) if field.init]


def _changed(value: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass whose description is not that of their defaults, in their order."""
    return [field for field in _settable(value) if not _is_default(field, getattr(value, field.name))]


def _is_default(field: dataclasses.Field[Any], item: Any) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if item is default or default is dataclasses.MISSING:
        return item is default
    # As texts: what compares equal may be described otherwise, and what compares otherwise the same.
    return text(_of_field(field, item)) == text(_of_field(field, default))
