"""The kernels that `accelerate` tries."""

import torch

from openwork.inference.alternative import Alternative
from openwork.inference.csr import CSR


def alternatives(device: torch.device) -> tuple[Alternative, ...]:
    """Ways to compute layers on ``device``, those that are usually faster first."""
    return (CSR(),)
