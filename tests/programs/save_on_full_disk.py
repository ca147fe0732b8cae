"""Writes a tensor of 200,000 bytes where 20,000 have room, and prints the error."""

import sys
from pathlib import Path

import torch

from openwork.study.files import write_atomically
from tests.programs.full_disk import fill

if __name__ == "__main__":
    fill(20_000)
    try:
        write_atomically(Path(sys.argv[1]), lambda path: torch.save(torch.zeros(50_000), path))
    except OSError as error:
        print(error)
