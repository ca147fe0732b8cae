"""A training that is killed, twice, at random moments ends with the weights of one that was not."""

import random

from tests.processes import run


def test_killed_at_random_moments_training_ends_with_the_same_weights(tmp_path):
    seed = random.randrange(10**6)
    lines = run("kill_training", seed, cwd=tmp_path).splitlines()
    assert len(lines) == 7
    assert all(line.endswith("different: nothing") for line in lines), f"seed {seed}\n{lines}"
