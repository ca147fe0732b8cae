"""One thread for each process of the tests, and for those that they start.

Tensors of tests are tiny: threads would only wait for each other, on a loaded machine sixty times as long as they work.
"""

import gc
import os

# Before torch is imported; subprocesses, Ray's workers and the workers of pytest-xdist inherit it.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import torch

torch.set_num_threads(1)  # where a plugin of pytest has imported torch before


def pytest_collection_finish() -> None:
    """Takes what stays until the end, 800,000 objects, out of what the garbage collector looks through.

    The collector looks seldom, too: tracing a model makes objects by the million, and few of them are garbage.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
