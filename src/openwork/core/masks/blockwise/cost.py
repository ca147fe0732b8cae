"""What a walk costs: minutes and memory."""

import sys
import time
from contextlib import suppress

import torch
from torch import nn

from openwork.core.forward import first_line


class Cost:
    """Minutes since it was made, and the peak of memory.

    Args:
        model: The model that is worked on.
        device: Where its blocks do their work; None where the model is. The peak of a GPU is counted from now on.
    """

    def __init__(self, model: nn.Module, device: torch.device | None) -> None:
        homes = {tensor.device for tensor in model.parameters()}
        self.device = device or next((home for home in homes if home.type == "cuda"), torch.device("cpu"))
        device = self.device
        self._begun = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def minutes(self) -> float:
        """The minutes until now."""
        return (time.perf_counter() - self._begun) / 60

    def peak(self) -> int | None:
        """Bytes: of the GPU, or of this process since it began; None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with suppress(ImportError):  # Windows
            import resource

            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most if sys.platform == "darwin" else most * 1024
        return None


def usable(device: torch.device | str | None) -> torch.device | None:
    """The device by its name; None for None.

    Raises:
        ValueError: If torch cannot compute there.
    """
    if device is None:
        return None
    try:
        torch.ones(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"torch cannot compute on device={device!r} here ({first_line(error)}); leave it out, or name another"
        ) from error
