"""Which tensors of a torch file's content are the model's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from openwork.formats.stand_ins import StandIn

# Under which key training programs put the model: the first that is there is taken.
_MODEL_KEYS = (
    *("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "params", "weights"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema"),
)
_PACKED, _PACKED_PARTS = "_packed_params._packed_params", ("weight", "bias")  # torch.ao's quantized Linear
_DEPTH = 64  # modules inside modules
_NAMES = 1_000_000  # a few kilobytes of dictionaries that share each other spell more names than anybody can read


@dataclass(frozen=True)
class Checkpoint:
    """What `read_checkpoint` found.

    Args:
        tensors: The model's tensors by name.
        left_out: The names of what else the file holds with tensors, such as an optimizer's state.
        unread: Name -> what it is, for parts of the model's state that are no tensors which can be read.
        notes: Which part of the file was read, and how, where there was a choice.
    """

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def model_tensors(content: Any, source: str) -> Checkpoint:
    """The model's tensors in what a torch file held: a state dict or pickled module, or one nested under a usual key.

    Without a usual key, all named tensors of nested dictionaries count, with dotted names; optimizers, known by their
    "param_groups", do not.

    Args:
        content: What the file held.
        source: The file's name, for the error.

    Raises:
        ValueError: If there are no named tensors, or more than a million names.
    """
    names = _Names(source)
    chosen, keys, left_out = content, [], []
    for _ in range(4):  # Lightning inside DeepSpeed, and no endless loop in a dictionary that holds itself
        entries = {} if isinstance(chosen, StandIn) and chosen.module else _entries(chosen)
        key = next((k for k in _MODEL_KEYS if isinstance(entries.get(k), Mapping)), None)
        if key is None or not any(isinstance(one, Tensor) for _, one in names.of(entries[key])):
            break
        left_out += [str(k) for k, v in entries.items() if k != key and _has_content(v)]
        keys.append(repr(key))
        chosen = entries[key]
    left_out += [str(k) for k, v in _entries(chosen).items() if isinstance(v, Mapping) and "param_groups" in v]
    found = dict(names.of(chosen))
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{source} holds no tensors by name; save a state_dict")
    unread = {k: f"an object of {v.of[:80]}, which is not read" for k, v in found.items() if isinstance(v, StandIn)}
    notes = (f"read is what lies under {' and there under '.join(keys)}",) if keys else ()
    return Checkpoint(tensors, tuple(left_out), unread, notes)


def _entries(content: Any) -> dict[Any, Any]:
    if isinstance(content, StandIn):
        return {key: value for part in content.parts for key, value in part.items()}
    return dict(content) if isinstance(content, Mapping) else {}


def _has_content(value: Any) -> bool:
    """Whether a part of a file may hold tensors."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping | Tensor)
    return isinstance(value, Mapping | Tensor)


class _Names:
    """Walks through nested dictionaries and stand-ins, up to a number of names.

    Args:
        source: The file's name, for the error.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.left = _NAMES

    def of(self, content: Any, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor | StandIn]]:
        """The tensors by dotted names, and the stand-ins that hold none.

        Args:
            content: A dictionary or stand-in.
            prefix: The name of the content, with a dot.
            above: The ids of what holds it.
        """
        parts = content.parts if isinstance(content, StandIn) else [content] if isinstance(content, Mapping) else []
        if len(above) > _DEPTH or id(content) in above or any("param_groups" in part for part in parts):
            return
        for part in parts:
            for key, value in part.items():
                self.left -= 1
                if self.left < 0:
                    raise ValueError(f"{self.source} spells more than {_NAMES:,} names; save a state_dict")
                if isinstance(key, str):
                    yield from self._entry(prefix + key, value, (*above, id(content)))

    def _entry(self, name: str, value: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor | StandIn]]:
        if isinstance(value, Tensor):
            yield name, value
        elif name.endswith(_PACKED) and isinstance(value, tuple):
            parts = zip(_PACKED_PARTS, value, strict=False)
            yield from ((name.removesuffix(_PACKED) + leaf, part) for leaf, part in parts if isinstance(part, Tensor))
        elif isinstance(value, StandIn) and not value.module:
            found = list(self.of(value, f"{name}.", above))
            yield from found if any(isinstance(one, Tensor) for _, one in found) else [(name, value)]
        else:
            yield from self.of(value, f"{name}.", above)
