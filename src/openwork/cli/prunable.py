"""What `openwork prune` does: files to a model, the model pruned, and its zeros in a copy of the files."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openwork.cli.rewritten import Layer, Rewritten
from openwork.core.chosen import choose_weights
from openwork.core.layout import declare_layout, stored_layout
from openwork.core.masks.blockwise.result import PrunedLayer
from openwork.core.masks.one_shot import prune
from openwork.core.masks.technique import MaskTechnique
from openwork.core.names import fits
from openwork.core.selection import Excluding, Matching, Select, weight_matrices
from openwork.formats.rewrite import WeightFiles, differ, find_weight_files, rewrite
from openwork.inspect.kinds import taken_for, usually_dense
from openwork.inspect.names import is_matrix
from openwork.words import count

_WINDOW = 512
_CODES = (torch.int8, torch.uint8, torch.int32)
"""Dtypes of quantised weights."""
_MISSING = "the files do not have it"
_NAME_IT = "--select prunes it: name it there, with all else that is to be pruned"


@dataclass(frozen=True)
class Text:
    """Calibration text, and how to read it.

    Args:
        path: The text.
        tokenizer: The folder of the tokenizer.
        tokens: The length of a window; None for 512, or the longest that the model takes.
        samples: How many windows to take.
        batch: How many to run at once.
        seed: Chooses the windows.
    """

    path: Path
    tokenizer: Path
    tokens: int | None = None
    samples: int = 128
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class _Model:
    """A model of the files' weights.

    Args:
        module: The model.
        left: Why matrices are not pruned unless --select names them, by name.
        in_files: Gives the weights, as they are then, by their names in the files.
        known: Whether its modules say what their weights are.
    """

    module: nn.Module
    left: Mapping[str, str]
    in_files: Callable[[], Mapping[str, Tensor]]
    known: bool = True

    def layers(self, name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
        """The default selection: all matrices of layers that are not left."""
        return weight_matrices(name, parameter, owner) and name not in self.left


def pruned(
    source: Path,
    technique: MaskTechnique,
    out: Path,
    *,
    text: Text | None = None,
    select: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    seed: int = 0,
    keep_zeros: bool = False,
    walk: Mapping[str, Any] | None = None,
) -> Rewritten:
    """Writes the files of ``source`` to ``out`` with the zeros of a technique.

    Args:
        source: A Hugging Face folder, or a safetensors file.
        technique: One that prunes at once.
        out: The folder or file to create.
        text: For a technique that looks at inputs.
        select: Names of weights or layers to prune, instead of the default.
        exclude: Names of those to leave as they are.
        seed: Draws between equals.
        keep_zeros: Whether the zeros of the weights stay.
        walk: What else `openwork.prune` takes where it goes from block to block.

    Raises:
        FileNotFoundError: If there is no such file, or the folder holds no weights.
        FileExistsError: If there is something at ``out``.
        ValueError: If the weights cannot be read or loaded, the text does not fit, or nothing can be pruned.
    """
    files = find_weight_files(source)
    walk = dict(walk or {})
    runs = technique.evidence.inputs or bool(walk.get("reconstruct"))
    what = f"{technique!r} looks at the inputs of layers" if technique.evidence.inputs else "--reconstruct fits outputs"
    if runs and text is None:
        raise ValueError(f"{what}; give a text with --calibration")
    if runs and not (source / "config.json").is_file():
        raise ValueError(f"{what}, and {source} has no config.json that says of which model; give its folder")
    unused = [f"--{name}" for name, value in {"calibration": text, **walk}.items() if value and name != "progress"]
    if not runs and unused:
        raise ValueError(f"{technique!r} looks at no inputs, so that nothing runs; leave out {', '.join(unused)}")
    model = _in_a_model(files) if (source / "config.json").is_file() else _without_a_model(files, select)
    chosen: Select = Matching(tuple(select)) if select else model.layers
    chosen = Excluding(tuple(exclude), chosen) if exclude else chosen
    _check_weights(model, chosen)
    notes: tuple[str, ...] = ()
    if runs and text:
        walk["batches"], notes = _batches(text, model.module)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        found = prune(model.module, technique, select=chosen, seed=seed, keep_zeros=keep_zeros, **walk if runs else {})
    said = dict.fromkeys(str(one.message) for one in warned if issubclass(one.category, UserWarning))
    notes += tuple(f"warning: {text}" for text in said)
    skipped = {name: _why(name, reason, select, exclude, model.left) for name, reason in found.skipped.items()}
    copy = _Copy(model.in_files(), found.layers, model.known)
    left_out = rewrite(files, out, copy.change)
    return Rewritten(tuple(copy.layers), skipped, left_out, notes, found.minutes, found.peak_memory)


def _why(
    name: str, reason: str, select: Sequence[str] | None, exclude: Sequence[str] | None, left: Mapping[str, str]
) -> str:
    """Why a weight was not pruned, by the command's own options where these say so."""
    if exclude and any(fits(pattern, name) for pattern in exclude):
        return "--exclude names it"
    if select:
        return reason if any(fits(pattern, name) for pattern in select) else "--select does not name it"
    return left.get(name, reason)


def _check_weights(model: _Model, select: Select) -> None:
    """Raises ValueError if a selected weight is not in the files or has NaN or infinite values, or there is none."""
    for weight in choose_weights(model.module, select)[0]:
        if model.left.get(weight.name) == _MISSING:
            raise ValueError(f"{weight.name} is not in the files, so that nothing would keep its zeros; leave it out")
        if not bool(weight.parameter.isfinite().all()):
            raise ValueError(f"{weight.name} has values that are no finite numbers; give a checkpoint from before them")


class _Copy:
    """Which tensors of the files change, and to what.

    Args:
        now: The weights by their names in the files.
        pruned: The pruned ones, by their names in the model.
        known: Whether modules say what weights are.
    """

    def __init__(self, now: Mapping[str, Tensor], pruned: Sequence[PrunedLayer], known: bool) -> None:
        self.now, self.known = now, known
        self.pruned = {layer.name: layer for layer in pruned}
        self.layers: list[Layer] = []

    def change(self, name: str, before: Tensor) -> Tensor | None:
        """The new value of a tensor; None where it stays. What pruning did not touch keeps its bits."""
        now = self.now.get(name)
        if now is None or before.dim() < 2 or not before.numel():
            return None
        now = now.detach().cpu()
        changed = differ(now, before.to(now.dtype))
        pruned = next((one for full, one in self.pruned.items() if full == name or full.endswith(f".{name}")), None)
        if pruned is None and not bool(changed.any()):
            return None
        value = torch.where(changed, now.to(before.dtype), before)
        value = torch.where(changed & (value == 0), torch.zeros_like(value), value)  # and not -0
        zeros, all_of_them = int((value == 0).sum()), value.numel()
        was = int((before == 0).sum()) / all_of_them
        error, remark = (pruned.error, pruned.remark) if pruned else (None, "")
        kind = "" if self.known else taken_for(name, value)
        self.layers.append(Layer(name, tuple(value.shape), zeros, was, zeros / all_of_them, error, kind, remark))
        return value


def _in_a_model(files: WeightFiles) -> _Model:
    """The model that transformers makes of a folder."""
    from openwork.integrations.pretrained import load_pretrained, names_in_files, usually_dense

    module, missing = load_pretrained(files.path)
    left = dict.fromkeys(missing, _MISSING)
    left |= {name: f"{what}; {_NAME_IT}" for name, what in usually_dense(module).items()}
    in_files = names_in_files(module, files.tensors)
    for name, now in in_files().items():
        before = files.tensors[name]
        if before.dim() > 1 and (before.shape != now.shape or bool(differ(before.to(now.dtype), now).any())):
            raise ValueError(
                f"transformers changes {name} when it loads it, so that it cannot be written back as it was; prune the "
                "file without its model, by magnitude"
            )
    return _Model(module, left, in_files)


def _without_a_model(files: WeightFiles, select: Sequence[str] | None) -> _Model:
    """The matrices of a file, on modules that say no more of them than names and shapes do."""

    def own_kind(name: str) -> nn.Module:
        """A module of a type of its own, which says how it stores its matrices; sentences have its name."""
        kind: type[nn.Module] = type(name, (nn.Module,), {})
        return kind()

    root, tensors = own_kind(files.path.absolute().name), files.tensors
    for name, tensor in tensors.items():
        layout = stored_layout(name, tensor.shape)
        if layout is None or not tensor.is_floating_point() or not is_matrix(name, tensor, tensors):
            continue
        *path, leaf = name.split(".")
        owner = root
        try:
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, own_kind("layer"))
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, nn.Parameter(tensor.clone(), requires_grad=False))
        except KeyError:  # to.weight, where modules have a method of that name; or a.b beside a
            raise ValueError(f"{files.path} holds {name}, which no module of PyTorch can hold; rename it") from None
        declare_layout(type(owner), {leaf: " ".join(layout.axes)})
    left = {name: f"{what}; {_NAME_IT}" for name, what in usually_dense(tensors, _config_of(files.path)).items()}
    if not (names := root.state_dict().keys()):
        codes = (f"{name} is {one.dtype}" for name, one in tensors.items() if one.dim() > 1 and one.dtype in _CODES)
        if code := next(codes, ""):
            raise ValueError(
                f"{files.path} holds no matrix of floats, and {code}; give the file from before it was quantised"
            )
        raise ValueError(f"{files.path} holds no matrix, so that there is nothing to prune; give a file of layers")
    if not select and names <= left.keys():
        name, why = next(iter(left.items()))
        raise ValueError(f"{files.path} holds nothing that is pruned by default: {name} is {why}")
    return _Model(root, left, root.state_dict, known=False)


def _config_of(path: Path) -> Any:
    """What the config.json beside a file says; None where there is none that can be read."""
    try:
        return json.loads((path.parent / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _batches(text: Text, model: nn.Module) -> tuple[list[dict[str, Tensor]], tuple[str, ...]]:
    """What the model is run on, and what to say about it."""
    from openwork.integrations.pretrained import longest_text, takes_pairs, vocabulary_size
    from openwork.integrations.texts import read_tokenizer, windows

    most, known = longest_text(model), vocabulary_size(model)
    tokens = text.tokens or min(_WINDOW, most or _WINDOW)
    if most and tokens > most:
        raise ValueError(f"--tokens is {tokens}, and the model takes texts of at most {most}; give no more")
    if known is None:
        raise ValueError(f"a {type(model).__name__} takes no tokens, so that a text cannot calibrate it; use ow.prune")
    tokenizer = read_tokenizer(text.tokenizer)
    ids = windows(tokenizer, text.path, known=known, tokens=tokens, samples=text.samples, seed=text.seed)
    few = f", all that {text.path} has of the {text.samples} that were asked for" if len(ids) < text.samples else ""
    notes = (f"calibrated with {count(len(ids), 'window')} of {count(tokens, 'token')}{few}",)
    names = ("input_ids", "decoder_input_ids") if takes_pairs(model) else ("input_ids",)
    return [dict.fromkeys(names, ids[first : first + text.batch]) for first in range(0, len(ids), text.batch)], notes
