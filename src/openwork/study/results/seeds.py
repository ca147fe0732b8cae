"""The seeds in the description of a run: its own, and those of the runs whose zeros it keeps."""

from collections.abc import Iterator, Mapping
from typing import Any

KEEPING = ("LotteryTicket", "Rewound", "Retrained", "Scratch")
"""The kinds of origins that keep the zeros of a run."""


def kept_seeds(run: Mapping[str, Any]) -> Iterator[int]:
    """The seeds of the runs whose zeros a described run goes back to, nearest first; none before a pre-training."""
    while (found := _origin(run)) is not None and found[0].get("type") in KEEPING:
        run = found[1]
        yield run.get("seed", 0)


def without_seeds(run: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a run without its seed, those of `kept_seeds`, and that of a pre-training, which follows it.

    A pre-trained network that keeps zeros has those of one mask, which is a setting of the pre-training.
    """
    plain = {key: value for key, value in run.items() if key != "seed"}
    if (found := _origin(run)) is not None:
        origin, other = found
        other = _followed(other) if origin.get("type") == "Pretrained" else without_seeds(other)
        plain["origin"] = {**origin, "run": other}
    return plain


def _followed(run: Mapping[str, Any]) -> dict[str, Any]:
    """A pre-training without the seeds that follow the run which starts from it."""
    plain = {key: value for key, value in run.items() if key != "seed"}
    if (found := _origin(run)) is not None and found[0].get("type") == "Pretrained":
        plain["origin"] = {**found[0], "run": _followed(found[1])}
    return plain


def settings_without_seeds(settings: str, run: Mapping[str, Any]) -> str:
    """The settings of a run as text without the seeds of the runs whose zeros it keeps.

    Args:
        settings: As `Run.settings` writes them.
        run: The description of the run.
    """
    end = len(settings)
    for seed in kept_seeds(run):
        # The seed is the last that is said of a run, and a run's origin the last before it: so the nearest is last.
        said = f", seed={seed})"
        start = settings.rfind(said, 0, end)
        if start < 0:
            break
        settings, end = f"{settings[:start]}{settings[start + len(said) - 1 :]}", start
    return settings


def _origin(run: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The origin of a described run and its other run."""
    origin = run.get("origin")
    if not isinstance(origin, Mapping) or not isinstance(other := origin.get("run"), Mapping):
        return None
    return origin, other
