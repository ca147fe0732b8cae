"""What tests of several files in this folder share."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session")
def operators_read_once() -> Iterator[None]:
    """torch reads 500 functions' sources for ONNX's operators at each export: half of the time of a small one."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield
