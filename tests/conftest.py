"""One thread for each process of the tests, and for those that they start.

Tensors of tests are tiny: threads would only wait for each other, on a loaded machine sixty times as long as they work.
"""

import gc
import os
from functools import cache
from shutil import which

# Before torch is imported; subprocesses, Ray's workers and the workers of pytest-xdist inherit it.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import pytest
import torch

torch.set_num_threads(1)  # where a plugin of pytest has imported torch before


@pytest.hookimpl(tryfirst=True)  # before fixtures that need the device
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")


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


@pytest.fixture(scope="module")  # no longer: where it runs, no test can start an event loop
def browser():
    """Headless Chromium; tests that ask for it are skipped where it is missing, with the reason."""
    chromium = which("chromium") or which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    quiet = (
        *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync"),
    )
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=list(quiet))
        yield launched
        launched.close()
