"""A labelled image as its file has it, and a split of a data set as blocks of them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Record:
    """One image as its file has it.

    Args:
        encoded: The bytes of the encoded image; None where the file has none.
        label: The class.
        name: Where the image lies, for messages.
    """

    encoded: bytes | None
    label: int
    name: str


class Records(Protocol):
    """A split of a data set: images in blocks, each read at once."""

    @property
    def blocks(self) -> npt.NDArray[np.int64]:
        """How many images each block has."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes by label, where the files tell."""

    def read(self, block: int) -> list[Record]:
        """The images of a block.

        Raises:
            ValueError, OSError: Where the block cannot be read; names the file.
        """
