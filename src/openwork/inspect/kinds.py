"""What the matrices of a state are, as far as names, shapes and a configuration tell without modules.

An embedding is looked up, not multiplied with, and a layer's rows are somebody's inputs. So a table is known by its
name, by the vocabulary's size, or by rows that no other tensor takes; the output's matrix looks the same.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from openwork.core.layout import stored_layout
from openwork.inspect.names import is_matrix

_EMBEDDING = re.compile(
    r"embed|(^|[._])(emb|embs|emb_\w+|wte|wpe|lut|vocab)(\.|$)|(^|\.)shared\.weight$", re.IGNORECASE
)
_OUTPUT = re.compile(r"(^|\.)lm_head(\.|$)", re.IGNORECASE)
_ROUTER = re.compile(r"(^|\.)(gate|router)(\.|$)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def called_embedding(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor has the name of an embedding, and neither a bias nor a kernel, which no embedding has."""
    is_layer = _is_weight(name) and (_bias_of(name) in tensors or tensors[name].dim() > 2)
    return bool(_EMBEDDING.search(name)) and not is_layer


def usually_dense(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The matrices that hardly anybody prunes, by name, and what they are taken for.

    Args:
        tensors: All tensors of the state by name.
        config: The model's ``config.json``, where there is one.
    """
    matrices = {name: tensor for name, tensor in tensors.items() if is_matrix(name, tensor, tensors)}
    vocabularies = {size for key, size in _numbers(config) if key in ("vocab_size", "n_vocab")}
    other_tables = {size for key, size in _numbers(config) if "vocab" in key or "position" in key or key == "n_ctx"}
    mixture = any("experts" in name.split(".") for name in tensors)
    taken = _taken_sizes(matrices, tensors)
    repeated = _repeated(matrices)
    found = {}
    for name, tensor in matrices.items():
        alone = _is_weight(name) and tensor.dim() == 2 and _bias_of(name) not in tensors
        rows, columns = tensor.shape[:2]
        if called_embedding(name, tensors):
            found[name] = "an embedding by its name"
        elif _OUTPUT.search(name):
            found[name] = "the output's matrix by its name"
        elif mixture and _ROUTER.search(name):
            found[name] = "a router of experts by its name"
        elif name in repeated or tensor.dim() != 2:
            continue
        elif rows in vocabularies or (alone and rows in other_tables):
            found[name] = f"an embedding or the output's matrix by config.json, which has its {rows} rows"
        elif alone and rows > columns and rows not in taken:
            found[name] = f"an embedding or the output's matrix by its {rows} rows, which no other tensor takes"
    return found


def taken_for(name: str, tensor: Tensor) -> str:
    """What a matrix that is pruned without a module is taken for."""
    layout = stored_layout(name, tensor.shape)
    axes = layout.axes if layout else ()
    return "a convolution" if "kernel" in axes else "experts" if "experts" in axes else "a linear layer"


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _bias_of(name: str) -> str:
    """The name of the bias beside a weight, also of a layer that is the whole file."""
    return name.removesuffix("weight") + "bias"


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    """The whole numbers of a configuration and of those inside it, with their keys."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if isinstance(value, int) and not isinstance(value, bool):
            yield key, value
        else:
            yield from _numbers(value)


def _taken_sizes(matrices: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> set[int]:
    """How many features somebody takes: a matrix on an axis behind its first, or a norm."""
    inputs = {size for tensor in matrices.values() for size in tensor.shape[1:]}
    return inputs | {len(one) for name, one in tensors.items() if one.dim() == 1 and not name.endswith("bias")}


def _repeated(matrices: Mapping[str, Tensor]) -> Collection[str]:
    """The names of matrices that differ from another one of their shape in numbers alone: those of equal blocks."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, tensor in matrices.items():
        groups.setdefault((_NUMBER.sub("#", name), tuple(tensor.shape)), []).append(name)
    return {name for names in groups.values() if len(names) > 1 for name in names}
