"""Saves one file after another under the same name, each of one number; prints a line after the first."""

import sys
from itertools import count

import torch

import openwork as ow

for number in count():
    ow.save({"w": torch.full((300, 1000), float(number)), "v": torch.randn(300, 1000)}, sys.argv[1])
    if number == 0:
        print("saved", flush=True)
