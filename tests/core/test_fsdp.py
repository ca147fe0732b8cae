"""FSDP2: two processes hold half of the rows each, and end with the masks and weights of one, bit by bit."""

import pytest
import torch

from tests.core import random_fsdp_checks
from tests.processes import output_of, run_two, start_afresh


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """What each process got through; one start for all checks, since starting takes longer than checking."""
    return [output.split() for output in run_two("fsdp", tmp_path_factory.mktemp("fsdp"))]


@pytest.mark.parametrize("name", [check.__name__ for check in random_fsdp_checks.CHECKS])
def test_under_fsdp(passed, name):
    assert all(name in names for names in passed)


@pytest.mark.slow
def test_compiled_steps_under_fsdp(tmp_path):
    assert run_two("fsdp", tmp_path, "compiled") == ["compiled\n"] * 2


@pytest.mark.gpu
def test_random_weights_under_fsdp_on_gpus_are_trained_as_in_one_process(tmp_path):
    count = min(torch.cuda.device_count(), 2)
    processes = [start_afresh("fsdp_gpu", rank, tmp_path, count) for rank in range(count)]
    assert output_of(*processes) == ["same\n"] * count
