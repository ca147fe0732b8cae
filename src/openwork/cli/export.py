"""The command export: any checkpoint as another kind of file."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openwork.cli.checkpoints import run_in
from openwork.cli.common import Json, Trust, error_console, found_run, print_json
from openwork.cli.to_onnx import to_onnx

if TYPE_CHECKING:
    from torch import Tensor

    from openwork.formats.sparse.save import Saved

_CODES = {"dense": "as they are", "all": "with coded exponents", "bits": "as bit masks", "gaps": "as gaps"}


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        tensors: The model's, by name.
        about: Texts by name: the run, its technique and its sparsities, where there is a run.
        notes: What to say about it.
    """

    tensors: Mapping[str, "Tensor"]
    about: Mapping[str, str]
    notes: tuple[str, ...] = ()


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors or .pt file, a Hugging Face folder, or a run.")
    ],
    to: Annotated[
        Literal["sparse", "dense", "onnx"],
        typer.Option(
            help="sparse: small and lossless, read by openwork. dense: plain safetensors, for everybody. onnx: a model "
            "for onnxruntime."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write, by default FILE's name with .sparse, .dense or .onnx.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="With --to onnx, for a file of weights alone, a Run with its model."
        ),
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Write the weights of any checkpoint to a small sparse file, those of one to a plain file, or a model to ONNX.

    --to onnx takes a run, or with --task a file of weights that fits the task's model.
    """
    checkpoint = found_run(checkpoint)
    if to == "onnx":
        with error_console.status("exporting"):
            exported = to_onnx(checkpoint, _target(checkpoint, out, to), task=task, trust=trust)
        if as_json:
            about = exported.to_dict() | {"path": str(checkpoint), "out": str(exported.path)}
            print_json("export", **about)
        else:
            sys.stdout.write(f"{exported}\n")
        return
    if task:
        raise ValueError(f"--task is for --to onnx, which needs a model; leave it out with --to {to}")
    kinds: dict[str, Callable[[Source, Path], Saved]] = {"sparse": _sparse, "dense": _dense}
    with error_console.status("exporting"):
        source = _read(checkpoint, trust)
        saved = kinds[to](source, _target(checkpoint, out, to))
    for note in source.notes:
        error_console.print(note, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        sizes = {"dense_bytes": saved.dense_bytes, "file_bytes": saved.file_bytes}
        print_json("export", path=str(checkpoint), out=str(saved.path), **sizes, codes=saved.counts())
        return
    ratio = saved.dense_bytes / saved.file_bytes
    codes = ", ".join(f"{count} {_CODES[code]}" for code, count in saved.counts().items())
    sys.stdout.write(
        f"{saved.path}: {saved.dense_bytes:,} bytes of tensors in a file of {saved.file_bytes:,}, {ratio:.2f} to 1\n"
        f"tensors: {codes}\n"
    )


def _sparse(source: Source, path: Path) -> "Saved":
    from openwork.formats.sparse.save import save

    return save(source.tensors, path, metadata=source.about)


def _dense(source: Source, path: Path) -> "Saved":
    from openwork.formats.sparse.dense import save_dense

    return save_dense(source.tensors, path)


def _read(path: Path, trust: list[str] | None) -> Source:
    from openwork.formats.checkpoint import read_checkpoint
    from openwork.study.results.store import read_result

    live, place = run_in(path, trust)
    if live:
        layers = live.sparsifier.layer_sparsity() if live.sparsifier else {}
        about = _about(live.run.id, live.run.name, live.run.settings, layers)
        return Source(live.finalized_copy().state_dict(), about)
    found = read_checkpoint(place)
    notes = [*found.notes, *(f"left out: {name}, not part of the model's state" for name in found.left_out)]
    notes += [f"left out: {name}, {what}" for name, what in found.unread.items()]
    result = place / "result.json"
    if not result.is_file():
        return Source(found.tensors, {}, tuple(notes))
    run = read_result(result)
    return Source(found.tensors, _about(run.id, run.name, run.settings, {x.name: x.sparsity for x in run.layers}))


def _about(run: str, technique: str, settings: str, layers: Mapping[str, float]) -> dict[str, str]:
    sparsity: dict[str, Any] = {name: round(value, 6) for name, value in layers.items()}
    return {"run": run, "technique": technique, "settings": settings, "sparsity": json.dumps(sparsity)}


def _target(path: Path, out: Path | None, to: str) -> Path:
    """Where to write. Raises ValueError if that is what is read."""
    if out is None:
        name = path.resolve().name
        for ending in (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".index", ".sparse", ".dense"):
            name = name.removesuffix(ending)  # and not what follows any dot: TensorFlow's are model.ckpt-1000
        suffix = to if to == "onnx" else f"{to}.safetensors"
        out = path.resolve().parent / f"{name}.{suffix}"
    if out.exists() and (out.samefile(path) or out.parent.samefile(path)):
        raise ValueError(f"{out} belongs to what is exported; give another --out")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} to; make it or give another --out")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file as --out")
    return out
