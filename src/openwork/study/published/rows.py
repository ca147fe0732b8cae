"""The published results: tables that ship with openwork, and the rows of the release where a user has its files.

Gale, Elsen & Hooker 2019, "The State of Sparsity in Deep Neural Networks", arXiv:1902.09574, released at
google-research/google-research, folder state_of_sparsity (Apache-2.0): a README with the checkpoints it offers, and
20 CSV files of all runs. The MNIST tables are that paper's and Molchanov et al. 2017's, arXiv:1701.05369.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

TABLES = ("baselines", "checkpoints", "mnist", "resnet50_l0", "scratch", "sparsevd")

# One name for each column, whatever a file calls it; compared in lower case, with "_" for anything between words.
_COLUMNS = {
    "sparsity": ("sparsity", "target_sparsity", "global_sparsity"),
    "score": ("moses_bleu", "accuracy", "top1"),
    "begin": ("begin", "begin_step", "begin_pruning_step", "dkl_loss_begin", "kl_begin_step"),
    "end": ("end", "end_step", "end_pruning_step", "dkl_loss_saturate", "kl_end_step"),
    "frequency": ("freq", "frequency", "pruning_frequency"),
    "coefficient": ("dkl_weight", "l0_norm_weight", "l0_norm_weight_label", "dkl_loss_coeff", "kl_coeff"),
    "schedule": ("dkl_weight_fn", "l0_norm_weight_fn", "schedule", "schedule_label"),
    "start": ("dkl_weight_start", "start", "start_label"),
    "duration": ("dkl_weight_diff", "diff"),
    "threshold": ("log_alpha_threshold",),
    "regularization": ("regularization",),
    "label_smoothing": ("label_smoothing",),
    "weight_decay": ("weight_decay",),
    "initial_log_alpha": ("initial_log_alpha",),
    "time": ("time_multiplier",),
    "init": ("init", "init_method", ""),  # two of the release's files leave this heading blank
    "experiment": ("experiment",),
}
_NAMES = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
_TECHNIQUES = ("magnitude_pruning", "random_pruning", "variational_dropout", "l0_regularization")
_SCRATCH = ("lottery_ticket", "scratchb", "scratche", "scratch_lr", "scratch_lotto_runs")

# The labels that went with the wrong rows: λ·N of 1, .7, .4, .1 with ramps that last 100,000 to 400,000 steps.
_COEFFICIENTS = (2.22e-7, 1.56e-7, 8.89e-8, 2.22e-8)
_SCHEDULES = ("linear", "cubic")
_STEPS = 500_000


@dataclass(frozen=True)
class Published:
    """One published run of one technique; for variational dropout, at one threshold."""

    model: str
    """``transformer`` or ``resnet50``."""
    technique: str
    """As the release calls it, such as ``magnitude_pruning`` or ``lottery_ticket``."""
    sparsity: float
    """0-1: the one that pruning was asked for, or that variational dropout and L0 were measured at."""
    score: float
    """BLEU of the Transformer, top-1 in % of ResNet-50."""
    settings: dict[str, float | str] = field(hash=False)
    """Names and values, repaired where the file is wrong."""
    printed: str
    """The labels as the file prints them, where they were repaired; otherwise empty."""
    file: str

    @property
    def picked(self) -> bool:
        """Whether it is from a file that holds only those rows of the release that somebody found good."""
        return Path(self.file).stem.endswith("_candidates")

    @property
    def text(self) -> str:
        """The settings as text: ``begin=0, end=500000``."""
        return written(self.settings)


def table(name: str) -> list[dict[str, str]]:
    """One of the tables that ship with openwork, a dict for each line; each has a column ``source``.

    ``checkpoints`` is the README's list of 49 models, ``baselines`` the dense runs, ``mnist`` Table 3, ``sparsevd``
    Molchanov et al.'s table, ``scratch`` means and extremes of scratch and lottery tickets (failures apart),
    ``resnet50_l0`` the best of each group of L0's runs.

    Args:
        name: One of `TABLES`.

    Raises:
        ValueError: For another name.
    """
    if name not in TABLES:
        raise ValueError(f"no published table {name!r}; there are {', '.join(TABLES)}")
    text = files(__package__).joinpath("tables", f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def checkpoints() -> list[Published]:
    """The README's models as results, their settings named as those of the rows; `sparsity` is the listed one."""
    return [_checkpoint(line) for line in table("checkpoints")]


def read(folder: Path) -> list[Published]:
    """The rows of the release's CSV files anywhere under ``folder``, in the order of the files' names.

    Columns that nothing here compares (the name of Tensor2Tensor's settings, threshold decay) are left out.
    Also reads files that were derived from them, with the same rows under other headings (``…_all.csv``,
    ``…_candidates.csv``, ``…_scratch_lotto_runs.csv``). Three errors of the release are repaired, and `printed` keeps
    what it prints: two headings of ResNet-50's L0 are exchanged, a block of the Transformer's L0 has the labels
    of other rows (see `relabelled`), and accuracies that are fractions become %.

    Raises:
        FileNotFoundError: Without such files.
        ValueError: For a file that cannot be read; names file and line.
    """
    found: list[Published] = []
    for path in sorted(folder.rglob("*.csv"), key=lambda p: p.name):
        if (kind := _kind(path.stem)) is not None:
            found += _read(path, *kind)
    if not found:
        raise FileNotFoundError(
            f"no published rows under {folder}; give the folder `results` of the release, "
            "google-research/state_of_sparsity/results"
        )
    return found


def relabelled(settings: dict[str, float | str]) -> dict[str, float | str]:
    """The settings that a row of the Transformer's L0 was really trained with, given those that it prints.

    Among the rows with λ up to 2.22e-7 and ramps of 100,000 to 400,000 steps, the results stand in the order (λ, start,
    schedule), the labels in the order (schedule, λ, start): so sparsity rises with λ and falls with the start only
    after the labels are assigned again. This is inferred from the numbers; the release does not say so. Rows outside
    the block are returned as they are.
    """
    duration, coefficient = int(float(settings["duration"])), float(settings["coefficient"])
    if not 100_000 <= duration <= 400_000 or coefficient > 2.3e-7:
        return settings
    starts = range(0, _STEPS - duration + 1, 100_000)
    nearest = min(range(4), key=lambda i: abs(_COEFFICIENTS[i] / coefficient - 1))
    schedule, start = _SCHEDULES.index(str(settings["schedule"])), int(float(settings["start"]))
    place = (schedule * 4 + nearest) * len(starts) + starts.index(start)
    return {
        **settings,
        "coefficient": _COEFFICIENTS[place // (2 * len(starts))],
        "start": float(starts[place // 2 % len(starts)]),
        "schedule": _SCHEDULES[place % 2],
    }


def written(settings: dict[str, float | str]) -> str:
    """Settings as text: ``begin=0, end=500000``."""
    return ", ".join(
        f"{k}={v:g}" if isinstance(v, float) and v < 1 else f"{k}={_short(v)}" for k, v in settings.items()
    )


def _short(value: float | str) -> str:
    return f"{value:.12g}" if isinstance(value, float) else value


def _kind(stem: str) -> tuple[str, str] | None:
    """Model and technique of a file of rows; None for summaries, frontiers and foreign files."""
    model = {"transformer": "transformer", "rn50": "resnet50"}.get(stem.partition("_")[0])
    rest = re.sub("_(all|candidates)$", "", stem.partition("_")[2])
    if model is None or not (rest in _TECHNIQUES or rest.startswith(_SCRATCH)):
        return None
    return model, "" if rest == "scratch_lotto_runs" else rest


def _read(path: Path, model: str, technique: str) -> list[Published]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if not lines:
        raise ValueError(f"{path} is empty; get it again")
    header = [re.sub(r"[^a-z0-9.]+", "_", name.strip().lower()).strip("_") for name in lines[0]]
    results: list[Published] = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        try:
            results += _results(dict(zip(header, cells, strict=True)), model, technique, path.name)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: cannot be read as results ({error}); get it again") from error
    return _repaired(results, model, technique)


def _results(line: dict[str, str], model: str, technique: str, file: str) -> Iterator[Published]:
    """The results of one line: one, or one for each threshold or repetition that has columns of its own."""
    cells = {_NAMES[name]: _value(text) for name, text in line.items() if name in _NAMES and text.strip()}
    technique = str(cells.pop("experiment", technique))
    settings = {k: v for k, v in cells.items() if k not in ("sparsity", "score")}
    wide = [name for name in line if re.fullmatch(r"(moses_bleu_\d.*|run_\d+)", name) and line[name].strip()]
    if not wide:
        yield Published(model, technique, float(cells["sparsity"]), float(cells["score"]), settings, "", file)
    for name in wide:
        value = name.rpartition("_")[2]
        if name.startswith("run"):
            yield Published(model, technique, float(cells["sparsity"]), float(line[name]), settings, "", file)
        else:
            sparsity = float(line[f"sparsity_{value}"])
            threshold = {**settings, "threshold": float(value)}
            yield Published(model, technique, sparsity, float(line[name]), threshold, "", file)


def _repaired(results: list[Published], model: str, technique: str) -> list[Published]:
    if model == "resnet50" and results and max(r.score for r in results) <= 1:
        results = [replace(r, score=100 * r.score, printed=f"accuracy={r.score:g}") for r in results]
    if technique != "l0_regularization":
        return results
    if model == "transformer":
        pairs = [(r, relabelled(r.settings)) for r in results]
        return [r if new == r.settings else replace(r, settings=new, printed=r.text) for r, new in pairs]
    # Label smoothing is 0 or 0.1; any other number shows that its heading stands over the weight decay.
    if any(r.settings["label_smoothing"] not in (0.0, 0.1) for r in results):
        swap = {"label_smoothing": "weight_decay", "weight_decay": "label_smoothing"}
        return [
            replace(
                r, settings={swap.get(k, k): v for k, v in r.settings.items()}, printed="; ".join([r.text, r.printed])
            )
            for r in results
        ]
    return results


def _checkpoint(line: dict[str, str]) -> Published:
    technique, model = line["technique"], line["model"]
    names = {"begin": "begin_step", "end": "end_step_or_diff", "frequency": "frequency"}
    if technique in ("variational_dropout", "l0_regularization"):
        names = {"coefficient": "reg_coeff", "begin": "begin_step", "end": "end_step_or_diff"}
        if model == "transformer":
            names = {"coefficient": "reg_coeff", "schedule": "schedule", "start": "begin_step"}
            names |= {"duration": "end_step_or_diff", "threshold": "log_alpha_threshold"}
    settings = {name: _value(line[column].split(" (")[0]) for name, column in names.items() if line[column]}
    smooth = float(line["label_smoothing"])
    if model == "resnet50":
        settings["label_smoothing"] = smooth
    else:
        parts = [name for name, on in (("dropout", float(line["dropout"])), ("label_smoothing", smooth)) if on]
        settings["regularization"] = "+".join(parts) or "none"
    if settings.get("duration") == 1.0:
        settings["schedule"] = "constant"  # a ramp of one step, which the rows call by its effect
    return Published(model, technique, float(line["listed_sparsity"]), float(line["value"]), settings, "", "README.md")


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip().lower().replace(" ", "_")


def of(results: Sequence[Published], model: str, technique: str) -> list[Published]:
    """The results of one technique on one model."""
    return [r for r in results if (r.model, r.technique) == (model, technique)]
