"""A contest: many techniques on one task, each tuned with as many runs, and then trained with several seeds.

Tuning runs are judged on held-out training images. The settings that they choose are in a CSV file, which the final
runs read; these train on all images and are judged on the test set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.technique import Technique
from openwork.study.data.lines import read_lines
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.classification import ImageClassification

Option = tuple[float, ...]


@dataclass(frozen=True)
class Entrant:
    """A technique that takes part.

    Args:
        technique: From an option, the level and the number of training images, the technique with these settings.
        options: The settings that are tried with each of the learning rates.
        rates: The peak learning rates that are tried.
        told: Whether the technique is told the level; otherwise its sparsity follows from its settings.
        start: Whether it starts from a dense run of as many steps as the contest gives it, and has as many fewer.
    """

    technique: Callable[[Option, float, int], Technique | None]
    options: tuple[Option, ...]
    rates: tuple[float, ...]
    told: bool = True
    start: bool = False

    @property
    def settings(self) -> list[tuple[float, Option]]:
        """(learning rate, option), in the order of their numbers."""
        return list(product(self.rates, self.options))


@dataclass(frozen=True)
class Contest:
    """Techniques, and what all of them are given.

    Args:
        task: That of the final runs.
        held_out: How many of the training images settings are chosen by.
        images: How many training images there are.
        steps: Of a network.
        start: How many of these are in the dense run that some techniques start from.
        levels: The sparsities.
        anchors: Where techniques that are told their sparsity are tuned: each for itself and for the levels below it
            that have no anchor nearer.
        seeds: Of the final runs.
        tuning_seed: Of the tuning runs.
        entrants: The techniques by name.
    """

    task: ImageClassification
    held_out: int
    images: int
    steps: int
    start: int
    levels: tuple[float, ...]
    anchors: tuple[float, ...]
    seeds: tuple[int, ...]
    entrants: Mapping[str, Entrant]
    tuning_seed: int = field(default=1_000, kw_only=True)

    @property
    def tuning(self) -> ImageClassification:
        """The task of the tuning runs."""
        return replace(self.task, held_out=self.held_out, judged_on="validation")

    def anchor(self, level: float) -> float:
        """Where a technique that is told its sparsity is tuned for this level."""
        return min(anchor for anchor in self.anchors if anchor >= level)

    def run(self, name: str, setting: int, level: float, seed: int, task: ImageClassification) -> Run:
        """The run of a setting.

        Args:
            name: The technique's.
            setting: Its number in `Entrant.settings`.
            level: The sparsity; without effect where the technique is not ``told``.
            seed: The seed, also of the run that it starts from.
            task: The task but for the learning rate.
        """
        entrant = self.entrants[name]
        rate, option = entrant.settings[setting]
        technique = entrant.technique(option, level, self.images - task.held_out)
        at_rate = replace(task, peak_learning_rate=rate)
        if not entrant.start:
            return Run(at_rate, technique, self.steps, seed=seed)
        dense = Run(task, None, self.start, seed=seed)
        return Run(at_rate, technique, self.steps - self.start, seed=seed, origin=Pretrained(dense))

    def trials(self) -> dict[tuple[str, float, int], Run]:
        """The tuning runs by (technique, level, setting); the level is 0 where the technique is not told it."""
        return {
            (name, level, setting): self.run(name, setting, level, self.tuning_seed, self.tuning)
            for name, entrant in self.entrants.items()
            for level in (self.anchors if entrant.told else (0.0,))
            for setting in range(len(entrant.settings))
        }

    def finals(self, chosen: Path) -> dict[tuple[str, float, int], Run]:
        """The final runs by (technique, level, seed), with the chosen settings; one run may serve several levels.

        Args:
            chosen: A CSV file with the columns technique, level and setting. A technique none of whose settings reaches
                a level has no line there.
        """
        return {
            (name, level, seed): self.run(name, setting, level, seed, self.task)
            for name, level, setting in choices(chosen)
            for seed in self.seeds
        }


def choices(chosen: Path) -> list[tuple[str, float, int]]:
    """The (technique, level, setting) of a file of choices.

    Raises:
        ValueError: If it is damaged, as a bad merge of two branches leaves it, with two choices for one level.
        OSError: If it cannot be read.
    """
    rows = read_lines(chosen, ("technique", "level", "setting"), ("technique", "level"))
    return [(row["technique"], float(row["level"]), int(row["setting"])) for row in rows]


def no_technique(option: Option, level: float, images: int) -> None:
    """None: only the learning rate is tuned."""


def pruning(level: float, option: Option, steps: int, every: int) -> Cubic:
    """Pruning between two fractions of the steps, which begin the option."""
    begin, end = (round(fraction * steps) for fraction in option[:2])
    return Cubic(level, begin=begin, end=end, every=every)


def updates(level: float, every: float, steps: int) -> Constant:
    """Updates until three quarters of the training."""
    return Constant(level, every=int(every), stop=steps * 3 // 4)


def ramp(option: Option, images: int, steps: int) -> Linear:
    """The coefficient of a penalty, from 0 to factor / images at a fraction of the steps."""
    factor, end = option
    return Linear(factor / images, end=round(end * steps))


def pairs(first: Option, second: Option) -> tuple[Option, ...]:
    """Every one of the first with every one of the second."""
    return tuple(product(first, second))
