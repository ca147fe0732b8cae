"""What `openwork export --to onnx` does: a run's model, or weights in the model of a task, as an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING

from openwork.cli.checkpoints import run_in
from openwork.cli.weights import with_weights

if TYPE_CHECKING:
    from openwork.formats.onnx.export import Exported


def to_onnx(source: Path, out: Path, *, task: str | None = None, trust: list[str] | None = None) -> "Exported":
    """Writes the ONNX file, and returns what `export_onnx` returns.

    Args:
        source: A run's directory, its checkpoint, or with ``task`` a file of weights.
        out: The file to write.
        task: ``module:function`` of a Run whose task has the model of the weights.
        trust: Packages that the checkpoint's run may import.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds weights alone and no task is given, or `export_onnx` refuses the model.
    """
    import torch

    from openwork.formats.onnx.export import export_onnx

    if not source.exists():
        raise FileNotFoundError(f"there is no {source}; give a run's directory, its checkpoint or a file of weights")
    if task:
        run, model = with_weights(task, source)
    else:
        live, path = run_in(source, trust, with_model=True)
        if live is None:
            raise ValueError(
                f"{path} holds weights and no model; give --task MODULE:FUNCTION, a function that returns a Run with it"
            )
        run, model = live.run, live.finalized_copy()
    example = run.task.example(torch.device("cpu"))
    return export_onnx(model, example, out, dynamic=run.task.axes)
