"""Values as JSON and back: what identifies a run, and what its directory says about it."""

import ast
import dataclasses
import importlib
import json
from collections.abc import Collection, Iterable, Mapping
from types import FunctionType
from typing import Any

from openwork.study.runs.names import name_of, named

TRUSTED = ("torch",)
"""The packages that a description may always name, beside openwork."""


def to_plain(value: Any, *, defaults: bool = False) -> Any:
    """Dataclasses, functions, classes, sequences and mappings as JSON values.

    Args:
        value: The value.
        defaults: Include the fields of a dataclass that equal their defaults, for readers. Without them, a field can be
            added and no id changes.

    Raises:
        ValueError: If the value is, or holds, anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name), defaults=defaults) for f in _settable(value)}
        kept = fields if defaults else _changed(value)
        return {"type": name_of(type(value)), **{name: fields[name] for name in kept}}
    if isinstance(value, FunctionType | type):
        return {"import": name_of(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item, defaults=defaults) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, defaults=defaults) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{value!r} cannot be part of a run; use dataclasses, functions, numbers, strings and tuples")


def canonical(value: Any) -> str:
    """One JSON text for equal values."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


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
        if "__str__" in vars(type(value)):
            return str(value)
        return f"{type(value).__name__}({inside(value)})"
    if isinstance(value, tuple):
        return f"({', '.join(describe(item) for item in value)})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value.__name__ if isinstance(value, FunctionType | type) else repr(value)


def inside(value: Any, prefix: str = "") -> str:
    """The fields of a dataclass that differ from their defaults, as ``field=value, ...``; "" for anything else.

    Args:
        value: The dataclass.
        prefix: Put before each field's name.
    """
    if not dataclasses.is_dataclass(value):
        return ""
    return ", ".join(f"{prefix}{name}={describe(item)}" for name, item in _changed(value).items())


def override(value: Any, settings: Iterable[str]) -> Any:
    """A copy of the dataclass ``value`` with all settings.

    Args:
        value: The dataclass.
        settings: ``field=value`` or ``field.field=value``; the value is a Python literal, or else text.

    Raises:
        ValueError: If a setting has no "=", names a field that does not exist, or has another type than the field.
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
        node[field] = _Setting(setting, text)
    return _replaced(value, changes)


@dataclasses.dataclass(frozen=True)
class _Setting:
    whole: str
    text: str


def _replaced(value: Any, changes: dict[str, Any]) -> Any:
    """All changes of one dataclass at once: begin and end may only make sense together."""
    fields = [f.name for f in _settable(value)] if dataclasses.is_dataclass(value) else []
    new = {}
    for name, change in changes.items():
        if name not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has no fields"
            raise ValueError(f"{type(value).__name__} has no field {name!r}; {has}")
        old = getattr(value, name)
        new[name] = _literal(old, change) if isinstance(change, _Setting) else _replaced(old, change)
    return dataclasses.replace(value, **new)


def _literal(old: Any, setting: _Setting) -> Any:
    try:
        new = ast.literal_eval(setting.text)
    except (ValueError, SyntaxError):
        new = setting.text
    if isinstance(old, float) and type(new) is int:
        return float(new)
    if old is not None and type(new) is not type(old):
        raise ValueError(f"{setting.whole!r} needs a value of type {type(old).__name__}")
    return new


def find(path: str) -> Any:
    """Imports what ``module:name`` names, and returns it.

    Raises:
        ValueError: If there is no such module or name.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"expected module:name, got {path!r}, such as openwork.study.experiments.mnist:dense")
    try:
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


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that do not equal their defaults, in their order."""
    items = [(field, getattr(value, field.name)) for field in _settable(value)]
    return {field.name: item for field, item in items if item != _default(field)}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
