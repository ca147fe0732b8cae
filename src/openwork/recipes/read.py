"""Reading a recipe: YAML alone or before a Markdown text, in stages or not, with variables; nothing is executed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openwork.recipes.expressions import value_of

_LIMIT = 1_000_000  # bytes; recipes are a few thousand
_KIND = "a modifier's kind"  # no key that a recipe has


@dataclass(frozen=True)
class Modifier:
    """One entry of a recipe.

    Args:
        kind: Its class, such as GMPruningModifier.
        fields: Its arguments by name, with the values of variables.
    """

    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """What is done in one training, or at once.

    Args:
        name: Its name; "" where the recipe has no stages.
        modifiers: Its entries in the recipe's order.
    """

    name: str
    modifiers: tuple[Modifier, ...] = field(default=())


def read_recipe(path: Path, variables: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of a recipe.

    Args:
        path: A .yaml file, or a .md file with YAML before its text.
        variables: Values that replace those of the recipe's own variables.

    Raises:
        ImportError: If PyYAML is missing.
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, has no modifiers, or lacks one of the ``variables``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}; give a .yaml file, or a .md file with one before its text")
    if path.stat().st_size > _LIMIT:
        raise ValueError(f"{path} is larger than {_LIMIT:,} bytes, which no recipe is; give another")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; give a .yaml file") from error
    if path.suffix == ".md":
        found = re.search(r"^(?:---|\+\+\+)\s*$(.*?)^(?:---|\+\+\+)\s*$", text, re.S | re.M)  # a licence may come first
        if not found:
            raise ValueError(f"{path} has no YAML between two lines of ---; give the .yaml file")
        text = found.group(1)
    content = _parsed(text, path)
    content = {"modifiers": content} if isinstance(content, list) else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no recipe: it holds {type(content).__name__}, not modifiers by name")
    own = {name: value for name, value in content.items() if isinstance(name, str)}
    if missing := [name for name in variables if name not in own]:
        known = [name for name, value in own.items() if "modifiers" not in name and not isinstance(value, dict)]
        raise ValueError(f"{path} has no variable {missing[0]!r}; it has {', '.join(known) or 'none'}")
    stages = tuple(_stages(own | dict(variables)))
    if not any(stage.modifiers for stage in stages):
        raise ValueError(f"{path} has no modifiers; give a recipe of SparseML or llm-compressor")
    return stages


def _parsed(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('a recipe needs PyYAML; pip install "openwork[recipes]"') from error

    def tagged(loader: Any, kind: str, node: Any) -> dict[str, Any]:
        fields = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
        return {_KIND: kind, **{str(name): value for name, value in fields.items()}}

    loader: Any = type("Loader", (yaml.SafeLoader,), {})  # of its own, since what it knows hangs on its class
    loader.add_multi_constructor("!", tagged)
    # YAML takes 2:4 for two minutes and four seconds.
    pair = ("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$"))
    resolvers = loader.yaml_implicit_resolvers
    loader.yaml_implicit_resolvers = resolvers | {digit: [pair, *resolvers[digit]] for digit in "0123456789"}
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a readable recipe ({reason}); nothing of it was executed") from error


def _stages(content: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages: mappings that have a key with "modifiers" in it, or the whole recipe."""
    shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
    inner = {name: value for name, value in content.items() if isinstance(value, dict)}
    staged = {name: value for name, value in inner.items() if any("modifiers" in str(key) for key in value)}
    if not staged:
        yield Stage("", tuple(_modifiers(content, content)))
    for name, value in staged.items():
        # A stage's variable may be made of the recipe's of the same name.
        own = {key: value_of(one, {**shared, **value, key: shared[key]}) for key, one in value.items() if key in shared}
        yield Stage(name, tuple(_modifiers(value, shared | value | own)))


def _modifiers(content: Mapping[str, Any], variables: Mapping[str, Any]) -> Iterator[Modifier]:
    for name, group in content.items():
        if "modifiers" not in str(name):
            continue
        entries = group if isinstance(group, list) else [group]
        for entry in entries:
            if not isinstance(entry, dict):
                raise ValueError(
                    f"{name} holds {str(entry)[:60]!r}, which is no modifier; give the class and its fields"
                )
            named = [(entry[_KIND], entry)] if _KIND in entry else list(entry.items())
            for kind, fields in named:
                if not isinstance(fields, dict | None):
                    raise ValueError(f"{kind} in {name} has {str(fields)[:60]!r} instead of fields by name")
                values = {key: value for key, value in (fields or {}).items() if key != _KIND}
                yield Modifier(str(kind), {key: value_of(value, variables) for key, value in values.items()})
