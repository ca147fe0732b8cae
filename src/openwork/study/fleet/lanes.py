"""Streams of a GPU, on which what many runs compute in turn lies side by side.

A small layer's kernel leaves most of the device idle; that of another run fits beside it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

LANES = 4
"""How many runs compute side by side; each needs the memory of a step."""


class Lanes:
    """`LANES` streams of a GPU; on a CPU none, and runs compute one after the other.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        count = LANES if device.type == "cuda" else 0
        self._streams: list[torch.cuda.Stream] = [
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(count)
        ]
        self._device = device

    @contextmanager
    def forked(self) -> Iterator[None]:
        """Within it, what is done in lanes follows what came before, and is followed by what comes after."""
        if not self._streams:
            yield
            return
        main = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            stream.wait_stream(main)
        yield
        for stream in self._streams:
            main.wait_stream(stream)

    def lane(self, number: int) -> AbstractContextManager[object]:
        """Within it, work goes to the lane of this run."""
        return torch.cuda.stream(self._streams[number % len(self._streams)]) if self._streams else nullcontext()
