"""The command that imports the paper's published TensorFlow checkpoints: import-tf."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openwork.cli.common import Json, error_console, file_option, out_console, print_json
from openwork.words import count

if TYPE_CHECKING:
    from openwork.study.release.convert import Imported
    from openwork.study.release.technique import Count

_FEW = 12  # variables of one kind that are named, not counted


def import_tf(
    prefix: Annotated[
        Path, typer.Argument(metavar="PREFIX", help="A checkpoint such as model.ckpt-500000, or one of its files.")
    ],
    model: Annotated[Literal["transformer", "resnet50"], typer.Option(help="Whose weights they are.")],
    technique: Annotated[
        Literal["dense", "magnitude", "random", "variational-dropout", "l0"],
        typer.Option(help="How they were made sparse."),
    ],
    out: Annotated[Path, file_option("The .safetensors file to write.")],
    threshold: Annotated[float | None, typer.Option(help="On log alpha, for variational dropout.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="The Transformer's .subwords file, so that its weights refuse any other.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a TensorFlow checkpoint of the paper's release to weights that eval and translate take with --task.

    Masks, thresholds or gates are applied, so that the weights are plain, with zeros. Prints the weight sparsity as the
    release's script counts it, and what of the checkpoint was not used.
    """
    from openwork.study.release.convert import Model, read_release
    from openwork.study.release.technique import Technique
    from openwork.study.runs.checkpoint import write_weights

    if out.suffix != ".safetensors":
        raise ValueError(f"--out must be a .safetensors file, got {out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} for --out; make it, or give another")
    if vocabulary and model != "transformer":
        raise ValueError(f"--vocabulary is for a transformer, and {model} has none; leave it out")
    with error_console.status("reading"):
        found = read_release(prefix, Model(model), Technique(technique), threshold)
        if vocabulary:
            _mark(found, vocabulary)
        write_weights(found.model, out)
    if as_json:
        print_json("import-tf", **_plain(found, out))
    else:
        _print(found, out)


def _mark(found: "Imported", file: Path) -> None:
    """Writes into the model whose ids it knows."""
    from openwork.study.data.vocabulary import read_vocabulary
    from openwork.study.models.transformer import Transformer

    assert isinstance(found.model, Transformer)
    vocabulary, size = read_vocabulary(file), found.model.embedding.num_embeddings
    if vocabulary.size != size:
        raise ValueError(
            f"{file} has {vocabulary.size:,} ids, and the checkpoint's matrix {size:,}; give the vocabulary that it "
            "was trained with"
        )
    found.model.get_buffer("fingerprint").fill_(vocabulary.fingerprint)


def _plain(found: "Imported", out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "tensors": len(found.model.state_dict()),
        "release": _counts(found.release) if found.release else None,
        "own": _counts(found.own),
        "all": _counts(found.everything),
        "dense": list(found.dense),
        "unused": found.unused,
        "notes": list(found.notes),
    }


def _counts(count: "Count") -> dict[str, Any]:
    return {"zeros": count.zeros, "total": count.total, "sparsity": count.sparsity}


def _print(found: "Imported", out: Path) -> None:
    def say(text: str) -> None:
        out_console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{out}: {count(found.everything.total, 'parameter')}")
    if found.release:
        say(f"weight sparsity as the release's script counts it: {_share(found.release)}")
    say(f"zeros in the file, among the layers' weights: {_share(found.own)}")
    say(f"zeros in the file, among all parameters: {_share(found.everything)}")
    if found.dense:
        say(f"dense, as nothing beside them says what is zero: {', '.join(found.dense)}")
    for note in found.notes:
        say(f"note: {note}")
    say(f"not used: {'; '.join(_unused(found.unused)) or 'nothing'}")


def _unused(names: dict[str, list[str]]) -> list[str]:
    """What of the checkpoint is not in the file: the optimizer's state as one group, other variables by name."""
    from openwork.formats.tensorflow.state import is_optimizers

    state = {leaf: len(found) for leaf, found in names.items() if is_optimizers(leaf)}
    rest = [f"{len(found)} x {leaf}" if len(found) > _FEW else ", ".join(found)
            for leaf, found in names.items() if leaf not in state]  # fmt: skip
    kinds = ", ".join(f"{count} x {leaf}" for leaf, count in state.items())
    return [*([f"the optimizer's state ({kinds})"] if state else []), *rest]


def _share(count: "Count") -> str:
    return f"{count.sparsity:.5%} ({count.zeros:,} of {count.total:,})"
