"""The command prune: a trained model's files again, with zeros."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text as Line

from openwork.cli.common import Json, Pattern, Sparsity, checked_device, error_console, folder_option, print_json
from openwork.cli.techniques import ALLOCATIONS, TECHNIQUES, named_technique
from openwork.words import count, printable

if TYPE_CHECKING:
    from openwork.cli.rewritten import Rewritten
    from openwork.core.masks.technique import MaskTechnique


def prune(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A Hugging Face folder, or a .safetensors file without a model.")
    ],
    technique: Annotated[str, typer.Option(help=f"{', '.join(TECHNIQUES)}.", autocompletion=lambda: [*TECHNIQUES])],
    out: Annotated[Path, typer.Option(help="The folder to write, or the file; it must not exist.")],
    sparsity: Sparsity = None,
    pattern: Pattern = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            help=f"How the zeros are spread over the matrices: {', '.join(ALLOCATIONS)}.",
            autocompletion=lambda: [*ALLOCATIONS],
        ),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Fit the weights that stay to the dense outputs of their layer.")
    ] = False,
    keep_zeros: Annotated[
        bool, typer.Option("--keep-zeros", help="Keep the zeros that the weights hold; they count among the fraction.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="A text file; what its lines make of the inputs counts.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of a window of the text; by default 512.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many windows to take.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="How many windows to run at once.")] = 8,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder of the tokenizer, if it is not the model's.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Prune only weights or layers of this name; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave weights or layers of this name; repeatable.")
    ] = None,
    blocks: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="The blocks, if not those that the model repeats; repeatable."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where a block does its work, such as cuda; by default on the CPU.")
    ] = None,
    resume: Annotated[
        Path | None, folder_option("Keep finished blocks here, and go on from those that it has.", "FOLDER")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses windows, draws between equals.")] = 0,
    as_json: Json = False,
) -> None:
    """Prune a trained model once, without training, and write the same files with zeros in them.

    Files, names, dtypes, shards, configuration and tokenizer stay as they are, and so does every weight that is not
    pruned, to the last bit. Embeddings and the output's matrix are left as they are, unless --select names them.
    Of a file without its model these are known by names, config.json and shapes, and the table says what each matrix
    was taken for.
    """
    from openwork.cli.prunable import Text, pruned
    from openwork.formats.files import refuse_existing
    from openwork.study.results.directory import is_run

    refuse_existing(out)
    if is_run(source):
        raise ValueError(
            f"{source} is the directory of a run, whose other files would say what the pruned weights are not; give "
            f"{source / 'model.safetensors'}"
        )
    if source.is_file() and out.suffix not in ("", ".safetensors"):
        raise ValueError(f"{source} becomes another .safetensors file, got --out {out}; give it that ending")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} for --out; make it, or give another")
    text = None
    if calibration:
        text = Text(calibration, tokenizer or source, tokens=tokens, samples=samples, batch=batch, seed=seed)
    made = named_technique(technique, sparsity, pattern, allocation)
    walk: dict[str, Any] = {"blocks": blocks, "device": checked_device(device) if device else None}
    walk |= {"reconstruct": reconstruct, "resume": resume}
    with error_console.status("reading") as status:
        walk["progress"] = lambda line: status.update(Line(printable(f"pruned {line}")))
        found = pruned(
            source, made, out, text=text, select=select, exclude=exclude, seed=seed, keep_zeros=keep_zeros, walk=walk
        )
    if as_json:
        print_json("prune", path=str(source), out=str(out), technique=repr(made), **found.to_dict())
    else:
        _print(found, made, out)


def _print(found: "Rewritten", technique: "MaskTechnique", out: Path) -> None:
    rows = [("weight", "shape", "before", "now", "error", "")]
    for one in found.layers:
        error = "" if one.error is None else f"{one.error:.2e}"
        shape = "x".join(map(str, one.shape))
        remarks = "; ".join(filter(None, (one.taken_for and f"taken for {one.taken_for}", one.remark)))
        rows.append((printable(one.name), shape, f"{one.before:.2%}", f"{one.now:.2%}", error, remarks))
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:5], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:{widths[0]}}", *cells, row[5]]).rstrip())
    lines += [f"left as it is: {name} ({reason})" for name, reason in found.skipped.items()]
    lines += [f"left out: {name}, which has the old weights in another format" for name in found.left_out]
    lines += list(found.notes)
    memory = "" if found.peak_memory is None else f", {found.peak_memory / 1e9:.2f} GB at most"
    matrices = count(len(found.layers), "matrix", "matrices")
    lines.append(
        f"{out}: {found.zeros:,} of {found.weights:,} weights are zero in {matrices}, "
        f"{found.sparsity:.2%}; {technique!r}, {found.minutes:.1f} minutes{memory}"
    )
    sys.stdout.write("\n".join(map(printable, lines)) + "\n")
