"""Trains with each technique once whole and once killed twice, and prints what the two ended with.

Children are forked from one process that has imported torch and has computed nothing yet.
"""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer would import, in each child
from torch.nn import functional as F

import openwork as ow
from openwork.core.technique import Technique
from tests.helpers import conv_net, image_batches

RAMP = ow.Cubic(0.8, begin=2, end=30, every=4)
TECHNIQUES: list[Technique] = [
    ow.GradualMagnitude(RAMP),
    ow.GradualMagnitude(RAMP, hidden="trained"),
    ow.GradualMagnitude(RAMP, hidden="lost"),
    ow.GradualMagnitude(ow.Constant(0.5, every=7)),
    ow.RandomPruning(RAMP),
    ow.VariationalDropout(ow.Linear(1e-2, begin=3, end=20), log_sigma2=-5.0),
    ow.L0(ow.Linear(1e-2, begin=3, end=20), dropout=0.9),
]


def train(technique: Technique, checkpoint: Path, report: int) -> None:
    """Between the two lines of dashes is the recipe of docs/api.md."""
    torch.manual_seed(1 if checkpoint.exists() else 0)  # after a restart everything must come from the checkpoint
    model = conv_net()
    # ----------
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "sparsifier": sparsifier}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["rng"])
    for x, y in itertools.islice(image_batches(), sparsifier.steps, 40):
        loss = F.cross_entropy(model(x), y) + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if sparsifier.steps % 3 == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "rng": torch.get_rng_state()}, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)  # a crash leaves the old file or the new one
        # ----------
        os.write(report, bytes([sparsifier.steps]))
    torch.save(sparsifier.finalize().state_dict(), checkpoint.with_suffix(".done"))


def forked(technique: Technique, checkpoint: Path, kill_after: int | None = None) -> list[int]:
    """The steps that a child reported until it ended, or was killed a moment after this many of them."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(technique, checkpoint, writing)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    steps: list[int] = []
    while (kill_after is None or len(steps) < kill_after) and (step := os.read(reading, 1)):
        steps += step
    if kill_after is not None:
        time.sleep(random.uniform(0, 3e-3))  # about the time of a step
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # On a busy machine a child may end before it is killed.
    assert status in ([0] if kill_after is None else [0, -signal.SIGKILL]), (technique, status)
    return steps


if __name__ == "__main__":
    random.seed(int(sys.argv[1]))
    for number, technique in enumerate(TECHNIQUES):
        whole, killed = (Path(f"{number}-{name}.pt") for name in ("whole", "killed"))
        forked(technique, whole)
        kills = [forked(technique, killed, random.randint(4, 14))[-1] for _ in range(2)]
        steps = forked(technique, killed)
        assert steps[0] > 1, "it did not resume"
        expected, found = (torch.load(path.with_suffix(".done"), weights_only=True) for path in (whole, killed))
        different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
        print(technique, "killed after", kills, "resumed at", steps[0], "different:", different or "nothing")
