"""The history of a run's training: a row for each evaluation, and snapshots of its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openwork.study.files import is_there, unreadable, write_atomically
from openwork.study.results.result import is_number
from openwork.words import count


@dataclass(frozen=True)
class Evaluation:
    """What a run measured at one step of its training.

    Args:
        step: After how many optimizer steps.
        layers: The sparsity of each layer by name; none of a dense run.
        measured: The other numbers by name, such as ``sparsity`` and ``expected_density``.
    """

    step: int
    layers: Mapping[str, float]
    measured: Mapping[str, float]

    def has(self, field: str) -> bool:
        """Whether it measured the number of that name or, for ``layers``, the layers' sparsities."""
        return bool(self.layers) if field == "layers" else field in self.measured


def read_metrics(folder: Path) -> list[Evaluation]:
    """The evaluations of a run's metrics.jsonl in the order of their steps; none where it has not been evaluated yet.

    Raises:
        ValueError: If the file is damaged; names it.
    """
    path = folder / "metrics.jsonl"
    if not is_there(path):
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # broken JSON and broken UTF-8 alike
        raise ValueError(f"{path} cannot be read ({error}); delete the run's folder and train it again") from error
    if not all(map(_is_row, rows)):
        raise ValueError(
            f"{path} has a row without a step that is a whole number, or with layers that have no numbers; delete the "
            "run's folder and train it again"
        )
    return [
        Evaluation(row["step"], row.get("layers") or {}, {k: v for k, v in row.items() if k not in ("step", "layers")})
        for row in rows
    ]


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and isinstance(layers := row.get("layers") or {}, dict)
        and all(map(is_number, layers.values()))
    )


@dataclass(frozen=True)
class Snapshot:
    """The selected weights of a run at one step, in a file that is read tensor by tensor.

    Args:
        step: After how many optimizer steps.
        path: The file.
        shapes: Of the weights by name, in the model's order.
    """

    step: int
    path: Path
    shapes: dict[str, tuple[int, ...]]

    def weight(self, name: str) -> Tensor:
        """The weight with its zeros, on the CPU."""
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def milestones(steps: int, evaluations: int, snapshots: int) -> tuple[int, set[int]]:
    """The steps between two evaluations of a run, and those at which to keep snapshots.

    Args:
        steps: Steps of the run.
        evaluations: How often to evaluate, over the whole run.
        snapshots: As `snapshot_steps` takes it.

    Raises:
        ValueError: If there are no evaluations, or more snapshots.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}; the run's last step needs one")
    every = max(steps // evaluations, 1)
    return every, snapshot_steps(steps, every, snapshots)


def snapshot_steps(steps: int, every: int, snapshots: int) -> set[int]:
    """The steps at which to keep snapshots: 0 and the evaluations nearest to evenly spread steps; none for 0 snapshots.

    Args:
        steps: Steps of the run.
        every: Steps between evaluations; there is one at the last step, too.
        snapshots: How many to keep besides that of step 0.

    Raises:
        ValueError: If there are fewer evaluations, and for a negative number.
    """
    evaluations = [*range(every, steps, every), steps]
    if not 0 <= snapshots <= len(evaluations):
        raise ValueError(
            f"snapshots must be from 0 to the {len(evaluations)} evaluations, got {snapshots}; keep fewer of a run of "
            f"{count(steps, 'step')}, or evaluate it more often"
        )
    wanted = [steps * number / snapshots for number in range(1, snapshots + 1)]
    return {0, *(min(evaluations, key=lambda step: abs(step - w)) for w in wanted)} if snapshots else set()


def snapshot_path(folder: Path, step: int) -> Path:
    """Where a run's folder has the snapshot of a step."""
    return folder / "snapshots" / f"{step}.safetensors"


def write_snapshot(folder: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Writes ``folder/snapshots/<step>.safetensors`` in one step, replacing it.

    Args:
        folder: The run's.
        step: The number of completed optimizer steps.
        weights: By name, in the model's order.

    Raises:
        OSError: If that fails.
    """
    path = snapshot_path(folder, step)
    path.parent.mkdir(exist_ok=True)
    # Clones: safetensors refuses tensors that share memory. It sorts names, so their order is kept separately.
    tensors = {name: weight.cpu().clone().contiguous() for name, weight in weights.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={"order": json.dumps([*tensors])}))


def read_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a run's folder by step; none where it kept none.

    Raises:
        ValueError: For a foreign file.
    """
    found = []
    for path in (folder / "snapshots").glob("[0-9]*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                order = json.loads(file.metadata()["order"])
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in order}
            found.append(Snapshot(int(path.stem), path, shapes))
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a snapshot of a run ({error}); delete it") from error
    return sorted(found, key=lambda snapshot: snapshot.step)
