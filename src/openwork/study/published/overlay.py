"""Published points beside openwork's runs: those of the tasks that the papers measured, under openwork's names."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from openwork.study.published.rows import table
from openwork.study.results.replicates import mean_pairs
from openwork.study.results.result import Result

# The classes of openwork for the techniques of the tables.
TECHNIQUES = {
    "magnitude_pruning": "GradualMagnitude",
    "magnitude_pruning_extended_nonuniform": "GradualMagnitude",
    "random_pruning": "RandomPruning",
    "variational_dropout": "VariationalDropout",
    "l0_regularization": "L0",
    "pruning": "PruneRetrain",
    "dynamic_network_surgery": "DynamicSurgery",
}


BANDS = ("lottery ticket", "scratch-e", "scratch-e, augmented", "scratch-b", "scratch-b, augmented")


@dataclass(frozen=True)
class Overlay:
    """One published point of a task."""

    technique: str
    """The name of openwork's class of that technique."""
    sparsity: float
    score: float
    """0-1; a BLEU of 26.3 is 0.263."""
    settings: str
    source: str


@dataclass(frozen=True)
class Band:
    """Scratch runs or lottery tickets at one sparsity: mean, lowest and highest of n runs, failures apart."""

    name: str
    sparsity: float
    mean: float
    lowest: float
    highest: float
    n: int
    failures: int


def overlay(task: str) -> list[Overlay]:
    """The published points of a task; none for a task that the papers did not measure.

    The LeNets on MNIST have those of Table 3 and of SparseVD's table, whose sparsity is 1 - 1/compression (soft weight
    sharing's counts coded bits and is left out); a ResNet-50 on ImageNet and a Transformer on WMT14 the README's
    models.

    Args:
        task: The task's title.
    """
    model, _, data = task.partition(", ")
    if data == "MNIST":
        return _mnist(model)
    if (name := paper_model(task)) is None:
        return []
    return [
        Overlay(
            TECHNIQUES[line["technique"]], float(line["listed_sparsity"]), float(line["value"]) / 100, line["name"],
            line["source"],
        )
        for line in table("checkpoints")
        if line["model"] == name
    ]  # fmt: skip


def paper_model(task: str) -> str | None:
    """``transformer`` or ``resnet50`` where the title of a task names that model and its data; otherwise None."""
    for model, words in {"transformer": ("Transformer", "WMT14"), "resnet50": ("ResNet-50", "ImageNet")}.items():
        if all(word in task for word in words):
            return model
    return None


def bands(model: str) -> list[Band]:
    """The published scratch and lottery lines of ``transformer`` (BLEU) or ``resnet50`` (top-1 in %); else none."""
    return [
        Band(
            _name(line), float(line["sparsity"]), float(line["mean"]), float(line["lowest"]), float(line["highest"]),
            int(line["n"]), int(line["failures"]),
        )
        for line in table("scratch")
        if line["model"] == model and line["learning_rate"] in ("", "lr_scaled")
    ]  # fmt: skip


def own_bands(results: Sequence[Result]) -> list[Band]:
    """The same lines of openwork's runs that keep another run's zeros; scores as `Metric.points` has them.

    Runs that keep the zeros of runs with one technique are one point, whatever else differs, and each mask weighs the
    same in its mean. Those with more steps than the run whose zeros
    they keep are called scratch-b. Diverged runs are the failures. The paper has no shuffled zeros, no rewinding and no
    pruning in rounds, so such runs are left out.

    Args:
        results: Those of one task.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        kept = result.kept_zeros
        if kept and kept.kind in ("LotteryTicket", "Scratch") and not (kept.shuffled or kept.pruned):
            longer = "b" if result.budget > kept.budget else "e"
            augmented = ", augmented" if kept.augmented else ""
            name = "lottery ticket" if kept.kind == "LotteryTicket" else f"scratch-{longer}{augmented}"
            groups.setdefault((name, kept.technique), []).append(result)
    found = []
    for (name, _), group in groups.items():
        if finished := [result for result in group if result.finished]:
            points = [result.metric.points(result.score) for result in finished]
            masks: dict[int, list[Result]] = {}
            for result in finished:
                masks.setdefault(result.replicate, []).append(result)
            pairs = mean_pairs(masks).values()
            sparsity, mean = fmean(s for s, _ in pairs), finished[0].metric.points(fmean(y for _, y in pairs))
            failures = len(group) - len(finished)
            found.append(Band(name, sparsity, mean, min(points), max(points), len(points), failures))
    return sorted(found, key=lambda band: (BANDS.index(band.name), band.sparsity))


def _name(line: dict[str, str]) -> str:
    if line["experiment"] == "lottery":
        return "lottery ticket"
    return line["experiment"] + (", augmented" if line["init"] == "augmented" else "")


def _mnist(model: str) -> list[Overlay]:
    points = [
        Overlay(
            TECHNIQUES[line["technique"]], float(line["sparsity"]), float(line["accuracy"]),
            f"{line['by']}, threshold={line['threshold']}", line["source"],
        )
        for line in table("mnist")
        if line["model"] == model and line["technique"] != "dense"
    ]  # fmt: skip
    return points + [
        Overlay(
            TECHNIQUES[line["technique"]], 1 - 1 / float(line["compression"]), 1 - float(line["error_percent"]) / 100,
            f"{line['by']}, {line['compression']}× fewer weights", line["source"],
        )
        for line in table("sparsevd")
        # The first table has SparseVD's own figures, too.
        if line["model"] == model and line["technique"] in ("pruning", "dynamic_network_surgery")
    ]  # fmt: skip
