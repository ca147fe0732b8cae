"""The kernels that `accelerate` tries."""

import torch

from openwork.inference import on_cpu, on_gpu
from openwork.inference.alternative import Alternative
from openwork.inference.csr import CSR


def alternatives(device: torch.device) -> tuple[Alternative, ...]:
    """Ways to compute layers on ``device``, those that are usually faster first."""
    return on_gpu.ALTERNATIVES if device.type == "cuda" else (*on_cpu.ALTERNATIVES, CSR())
