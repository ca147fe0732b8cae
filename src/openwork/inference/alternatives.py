"""The kernels that `accelerate` tries."""

import torch

from openwork.inference.alternative import Alternative


def alternatives(device: torch.device) -> tuple[Alternative, ...]:
    """Ways to compute layers on ``device``, those that are usually faster first."""
    if device.type == "cuda":  # no device imports the kernels of the other
        from openwork.inference import on_gpu

        return on_gpu.ALTERNATIVES
    from openwork.inference import on_cpu
    from openwork.inference.csr import CSR

    return (*on_cpu.ALTERNATIVES, CSR())
