"""The command bench: dense beside sparse on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE

from openwork.cli.characters import SafeTable
from openwork.cli.checkpoints import run_in
from openwork.cli.common import Device, Json, Pattern, Trust, checked_device, error_console, out_console, print_json
from openwork.cli.techniques import named_technique
from openwork.words import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from openwork.core.masks.technique import MaskTechnique
    from openwork.inference.accelerated import Accelerated
    from openwork.inference.bench import Measured

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's directory, a file or folder of weights, or module:function that returns (model, sample)."
        ),
    ],
    more: Annotated[list[int] | None, typer.Argument(metavar="", hidden=True)] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, metavar="N...", help="Batch sizes, such as --batch 1 8 64.")
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Prune by magnitude first, before you train: 0.9.")
    ] = None,
    pattern: Pattern = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of a text, where a file of weights is prefilled.")] = 128,
    layers: Annotated[bool, typer.Option("--layers", help="Print a row for every layer, too.")] = False,
    dtype: Annotated[str | None, typer.Option(help=f"Convert first: {', '.join(_DTYPES)}.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default torch's own choice.")] = None,
    rounds: Annotated[int, typer.Option(min=4, help="How often to measure everything.")] = 20,
    graph: Annotated[bool, typer.Option("--graph", help="On a GPU, measure replays of CUDA graphs.")] = False,
    device: Device = "cpu",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Time a sparse model beside the dense one on this machine, by layer and end to end.

    Of a file of weights alone, each matrix is timed by itself, as a Linear layer. Of language models prefill, which
    reads whole texts, and decode, with one token a text, are apart. What is printed was measured, and holds for this
    machine, this batch and this number of threads.
    """
    import torch

    from openwork.inference.bench import bench_model, bench_weights
    from openwork.study.runs.environment import environment

    if more and not batch:
        raise ValueError(f"unexpected {more[0]}; give batch sizes with --batch {' '.join(map(str, more))}")
    batches = list(dict.fromkeys([*(batch or [1]), *(more or [])]))
    if min(batches) < 1:
        raise ValueError(f"--batch must be at least 1, got {min(batches)}")
    if dtype not in (None, *_DTYPES):
        raise ValueError(f"unknown --dtype {dtype!r}; give one of {', '.join(_DTYPES)}")
    place = checked_device(device)
    technique = named_technique("magnitude", sparsity, pattern) if sparsity or pattern else None
    if threads:
        torch.set_num_threads(threads)
    with error_console.status("reading"):
        found, kind = _model_or_weights(model, trust), getattr(torch, dtype) if dtype else None
    with error_console.status("measuring"):
        if isinstance(found, Mapping):
            weights = _ready_weights(found, place, kind, technique)
            measured = bench_weights(weights, batches, tokens=tokens, rounds=rounds, graph=graph)
        else:
            sparse, sample = _ready_model(*found, place, kind, technique)
            measured = bench_model(sparse, sample, batches, rounds=rounds, graph=graph)
    if as_json:
        results = [one.to_dict() for one in measured]
        print_json("bench", model=model, machine=environment(place), measured=results)
        return
    machine = environment(place)
    name = f"{machine['device'] if place.type == 'cuda' else machine['processor']}, torch {machine['torch']}"
    _print(measured, model, each_alone=isinstance(found, Mapping), machine=name, layers=layers)


def _model_or_weights(place: str, trust: list[str] | None) -> "tuple[nn.Module, Any] | dict[str, Tensor]":
    """A model and its sample; or the tensors of a file, by name."""
    import torch

    from openwork.core.chosen import check_model
    from openwork.formats.checkpoint import read_checkpoint
    from openwork.study.runs.config import find

    path = Path(place)
    if not path.exists() and ":" in place:
        made = find(place)
        made = made() if callable(made) else made
        if not isinstance(made, tuple) or len(made) != 2:
            raise ValueError(f"{place} must return (model, sample), got {type(made).__name__}")
        return check_model(made[0]), made[1]
    live, path = run_in(path, trust, with_model=True)
    if live is None:
        return read_checkpoint(path).tensors
    return live.finalized_copy(), live.run.task.example(torch.device("cpu"))


def _ready_weights(
    tensors: "Mapping[str, Tensor]",
    device: "torch.device",
    dtype: "torch.dtype | None",
    technique: "MaskTechnique | None",
) -> "dict[str, Tensor]":
    """The matrices of a file that have zeros, moved and converted, and pruned where there is a technique."""
    matrices = {name: t.to(device, dtype) for name, t in tensors.items() if _is_layer(name, tensors)}
    if technique is not None:
        matrices = {name: _pruned(t, technique) for name, t in matrices.items()}
    sparse = {name: t for name, t in matrices.items() if not t.all()}
    if not sparse:
        has = f"{count(len(matrices), 'matrix', 'matrices')} without a zero" if matrices else "no matrix"
        raise ValueError(f"the file has {has}; give a sparse one, or --sparsity 0.9 to try how fast it would be")
    return sparse


def _ready_model(
    model: "nn.Module",
    sample: Any,
    device: "torch.device",
    dtype: "torch.dtype | None",
    technique: "MaskTechnique | None",
) -> "tuple[nn.Module, Any]":
    """The model and its sample, moved and converted; the model pruned where there is a technique."""
    from torch import Tensor
    from torch.utils._pytree import tree_map

    model = model.to(device, dtype)
    if technique is not None:
        _prune(model, technique)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype) if leaf.is_floating_point() else leaf.to(device)

    return model, tree_map(moved, sample)


def _is_layer(name: str, tensors: "Mapping[str, Tensor]") -> bool:
    """Whether a tensor of a file is taken for the weight of a Linear layer; only a model tells an embedding apart."""
    from openwork.inspect.kinds import called_embedding

    tensor = tensors[name]
    is_number = tensor.is_floating_point() and tensor.element_size() > 1  # others are codes, whose scale is elsewhere
    return tensor.dim() == 2 and is_number and not called_embedding(name, tensors)


def _prune(model: "nn.Module", technique: "MaskTechnique") -> None:
    from openwork.core.masks.check import DivergedError
    from openwork.core.masks.one_shot import prune

    try:
        prune(model, technique)
    except DivergedError as error:
        raise ValueError(
            "the weights have values that are no finite numbers; give a checkpoint from before them"
        ) from error


def _pruned(weight: "Tensor", technique: "MaskTechnique") -> "Tensor":
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    _prune(layer, technique)
    return layer.weight.detach()


def _print(measured: "list[Measured]", model: str, *, each_alone: bool, machine: str, layers: bool) -> None:
    first = measured[0].accelerated
    columns = ("phase", "batch", "dense", "now", "gain", "layers converted", "kernels", "bytes")
    table = SafeTable(*columns, title=model, box=SIMPLE)
    for one in measured:
        table.add_row(one.phase or "-", str(one.batch), *_cells(one.accelerated))
    out_console.print(table)
    if layers:
        for one in measured:
            out_console.print(f"{one.phase} batch {one.batch}".strip(), highlight=False)
            out_console.print(str(one.accelerated), markup=False, highlight=False, soft_wrap=True)
    gains = [one for one in measured if one.accelerated.speedup > 1]
    text = "" if gains else "No sparse kernel makes this faster here: these zeros save bytes in a file, and no time.\n"
    if each_alone:
        text += (
            "Each matrix by itself, as a Linear layer, without embeddings and convolutions; a whole model gains less.\n"
        )
    cpu = f" with {count(first.threads, 'thread')}" if first.device == "cpu" else ""
    text += f"Measured on {machine}{cpu}; another machine, batch or number of threads gives other times."
    out_console.print(text, highlight=False, soft_wrap=True)


def _cells(found: "Accelerated") -> tuple[str, ...]:
    from openwork.inference.accelerated import seconds_text

    converted = [layer.kernel for layer in found.layers if layer.kernel != "dense"]
    return (
        seconds_text(found.dense),
        seconds_text(found.now),
        f"{found.speedup:.2f} x",
        f"{len(converted)} of {len(found.layers)}",
        ", ".join(sorted(set(converted))) or "dense",
        f"{found.nbytes / max(1, found.dense_bytes):.0%}",
    )
