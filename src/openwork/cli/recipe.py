"""The command recipe: a recipe of SparseML or llm-compressor as Python."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from openwork.cli.common import Json, error_console, print_json


def recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .yaml recipe, or a .md file that begins with one.")],
    variables: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Other values of the recipe's variables.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps in an epoch; by default the length of your loader.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the Python that does what the pruning modifiers of a SparseML or llm-compressor recipe do.

    The recipe is read, not executed. What has no equivalent is a comment with the reason, and exit code 4.
    """
    from openwork.recipes.read import read_recipe
    from openwork.recipes.translate import translate

    stages = read_recipe(file, dict(_setting(text) for text in variables or ()))
    found = translate(stages, source=file.name, steps_per_epoch=steps_per_epoch)
    if as_json:
        print_json("recipe", path=str(file), code=found.code, missing=list(found.missing))
    else:
        sys.stdout.buffer.write(found.code.encode())  # UTF-8, as Python reads it, whatever the terminal's encoding
        sys.stdout.buffer.flush()
    for sentence in found.missing:
        error_console.print(f"not translated: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if not found.pruning:
        error_console.print(f"{file} has no modifier that prunes here", markup=False, highlight=False, soft_wrap=True)
    if found.missing or not found.pruning:
        raise typer.Exit(4)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"a variable of the recipe is NAME=VALUE, such as num_epochs=20, got {text!r}")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            pass
    return name, value
