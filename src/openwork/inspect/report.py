"""Counting what a model or a checkpoint really holds, in the tensors themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openwork.core.selection import Selection
from openwork.core.sparsifier import Sparsifier
from openwork.inspect.counts import Counts
from openwork.inspect.flops import CONVENTION
from openwork.inspect.table import markdown_table, text_table

_LEFT_OUT = "not part of the model's state"
NO_FLOPS = "not counted: pass report(model, example=...) an input; a file has no module to run"


@dataclass(frozen=True)
class Report(Counts):
    """What `report` counted; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "sparsity": {"selected": self.sparsity, "all": self.sparsity_all},
            "parameters": self.parameters,
            "zeros": self.zeros,
            "accidental": self.accidental,
            "not_finite": {name: found._asdict() for name, found in self.not_finite.items()},
            "bytes": vars(self.size),
            "flops": self._flops(),
            "skipped": self.skipped,
            "notes": list(self.notes),
        }

    def _flops(self) -> dict[str, Any]:
        if self.flops is None:
            return {"dense": None, "sparse": None, "reason": NO_FLOPS}
        return {
            "dense": self.flops.dense,
            "sparse": self.flops.sparse,
            "by_weight": {name: {"dense": d, "sparse": s} for name, (d, s) in self.flops.weights.items()},
            "other": self.flops.other,
            "uncounted": self.flops.uncounted,
            "convention": CONVENTION,
        }

    def __str__(self) -> str:
        return text_table(self)

    def to_markdown(self) -> str:
        """The table in Markdown, with a row for every layer."""
        return markdown_table(self)


def report(
    source: "nn.Module | Sparsifier | Mapping[str, Any] | str | Path",
    *,
    select: Selection | None = None,
    example: Any = None,
) -> Report:
    """What a model or a checkpoint holds, per weight and in total: zeros, their patterns, bytes and FLOPs.

    The ``layers`` of a module are the weights that ``select`` picks, tied ones once. A file or state dict knows no
    modules: its layers are the floating-point and int8 tensors of two or more dimensions that are no norms, biases or
    bare tables of positions, tied ones once where they share memory; every floating-point tensor but batch-norm
    statistics and masks is a parameter, and ``skipped`` names the rest. A weight that another library keeps as several
    tensors counts as the value that runs, and ``notes`` says whose layout it is.
    All processes must call this for a model that FSDP2 shards.

    Args:
        source: A module; a `Sparsifier`, for its model as evaluation computes with it now; a state dict; a checkpoint
            file or Hugging Face folder.
        select: Picks the weights of a module, as in `sparsify`; by default `weight_matrices`, or all matrices where
            that finds none.
        example: An input of the module, a tuple of arguments or a mapping of keyword arguments, to count FLOPs for.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the source is something else.
        ValueError: If the file cannot be read, a tensor has no values or codes that do not say which weights are zero,
            or the weights of a module are random variables.
    """
    from openwork.formats.checkpoint import read_checkpoint  # not before it is called: reading has 30 modules
    from openwork.formats.model_part import model_tensors
    from openwork.inspect.from_model import count_model, is_random
    from openwork.inspect.from_state import count_state

    masks: dict[str, Tensor] = {}
    if isinstance(source, Sparsifier):
        if select is not None:
            raise ValueError("a sparsifier has its own selection; leave select out, or report on its model")
        source.masks()  # raises where a weight is no longer in the model
        then = {id(weight.parameter): weight.name for weight in source.weights}
        # A weight may have another name by now, inside a module that was put around its own.
        names = {name: then[id(p)] for name, p in source.model.named_parameters() if id(p) in then}
        saved = source.state_dict().get("masks", {})
        masks = {now: saved[name] for now, name in names.items() if name in saved}
        chosen = lambda name, parameter, module: name in names  # noqa: E731
        model = source.finalized_copy() if is_random(source.model) else source.model
        return _report(count_model(model, chosen, example, masks))
    if isinstance(source, nn.Module):
        return _report(count_model(source, select, example, masks))
    if not isinstance(source, Mapping | str | Path):
        raise TypeError(f"report counts a module, a Sparsifier, a state dict or a file, got {_short(source)}; give one")
    if select is not None or example is not None:
        raise ValueError("a checkpoint knows no modules, which select and example need; load it into its model first")
    if isinstance(source, Mapping):
        found, where = model_tensors(source, "the mapping"), ""
    else:
        found, where = read_checkpoint(source), f"{source}: "
    try:
        return _report(count_state(found.tensors, dict.fromkeys(found.left_out, _LEFT_OUT) | found.unread, found.notes))
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def reports(models: Sequence[nn.Module], select: Selection, stacked: Mapping[str, Tensor]) -> list[Report]:
    """What `report` returns for each of several models that differ in the values of their tensors alone.

    Args:
        models: The models.
        select: Picks the weights, as in `sparsify`.
        stacked: Their parameters by name, (N, *shape).
    """
    from openwork.inspect.alike import count_alike

    return [_report(counts) for counts in count_alike(models, select, stacked)]


def _report(counts: Counts) -> Report:
    return Report(**vars(counts))


def _short(source: object) -> str:
    text = repr(source)
    return text if len(text) < 80 and "\n" not in text else f"a {type(source).__name__}"
