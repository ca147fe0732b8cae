"""One thread for each process of the tests, and for those that they start.

Tensors of tests are tiny: threads would only wait for each other, on a loaded machine sixty times as long as they work.
"""

import gc
import os
from functools import cache

# Before torch is imported; subprocesses, Ray's workers and the workers of pytest-xdist inherit it.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import pytest
import torch

torch.set_num_threads(1)  # where a plugin of pytest has imported torch before


def pytest_collection_finish() -> None:
    """Takes what stays until the end, 800,000 objects, out of what the garbage collector looks through.

    The collector looks seldom, too: tracing a model makes objects by the million, and few of them are garbage.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def operators_collected_once():
    """torch.export looks through all operators of torch at each export, for a quarter of the time of a small one."""
    from torch.export import exported_program

    with pytest.MonkeyPatch.context() as patch:
        if found := getattr(exported_program, "_collect_all_valid_cia_ops", None):
            patch.setattr(exported_program, found.__name__, cache(found))
        yield
