"""What is trained: a model, its loss on a random batch that stays on the device, and the optimizer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.study.models.resnet import ResNet
from openwork.study.models.transformer import Transformer

from .variants import BY_DEFAULT

Graph = Literal["", "step", "reduce-overhead"]
"""Of CUDA: none, one of the whole step, or torch.compile's own, which leave the optimizer out."""


@dataclass(frozen=True)
class Training:
    """A model on the device, with all that a step needs.

    Args:
        model: The model.
        batch: What `loss` takes.
        loss: The mean loss of the batch.
        optimizer: Makes the optimizer of the model's parameters.
    """

    model: nn.Module
    batch: tuple[Tensor, ...]
    loss: Callable[..., Tensor]
    optimizer: Callable[[], torch.optim.Optimizer]


@dataclass(frozen=True)
class Model:
    """A model by its name in the tables.

    Args:
        title: That name.
        make: (device, small) -> training.
        graph: Whether CUDA graphs are used.
        variants: What is timed where nothing else is asked for.
    """

    title: str
    make: Callable[[torch.device, bool], Training]
    graph: Graph = ""
    variants: tuple[str, ...] = BY_DEFAULT


def resnet50(device: torch.device, small: bool) -> Training:
    """256 images of 224 x 224, channels last; SGD with momentum."""
    count, size, classes = (2, 32, 10) if small else (256, 224, 1000)
    model = ResNet(18, 0.125, classes) if small else ResNet(50)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(count, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (count,), device=device)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels, label_smoothing=0.1)

    def optimizer() -> torch.optim.Optimizer:
        # Practically no learning: on a GPU a memorised batch is faster, since gradients near zero draw less power.
        return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True, fused=True)

    return Training(model, (images, labels), loss, optimizer)


def transformer(tokens: int, graph: Graph) -> Callable[[torch.device, bool], Training]:
    """Transformer-base on packed rows of 256 tokens of each side, dropout 0.1, 33,288 ids; Adam.

    Args:
        tokens: Of each side.
        graph: Of what CUDA graphs are made.
    """

    def make(device: torch.device, small: bool) -> Training:
        rows, length, ids = (4, 16, 50) if small else (tokens // 256, 256, 33_288)
        whole = Transformer(ids, width=32, hidden=128, heads=2, layers=1) if small else Transformer(ids)
        model = whole.to(device)
        batch = tuple(packed(rows, length, ids).to(device) for _ in range(2))

        def loss(source: Tensor, target: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(source, target)
            return F.cross_entropy(logits.float(), target[0].flatten(), ignore_index=0, label_smoothing=0.1)

        def optimizer() -> torch.optim.Optimizer:
            return torch.optim.Adam(
                model.parameters(), lr=1e-8, betas=(0.9, 0.997), eps=1e-9, fused=True, capturable=graph == "step"
            )

        return Training(model, batch, loss, optimizer)

    return make


def packed(count: int, length: int, ids: int) -> Tensor:
    """Ids, segments and positions (3, N, L) of random sentences of 5 to 40 tokens, which fill the rows."""
    sizes = torch.randint(5, 41, (count, length))
    places = torch.arange(length)
    segments = 1 + (places >= sizes.cumsum(1)[:, :, None]).sum(1)
    begins = torch.zeros_like(segments)
    begins[:, 1:] = torch.where(segments[:, 1:] != segments[:, :-1], places[1:], 0)
    return torch.stack([torch.randint(2, ids, segments.shape), segments, places - begins.cummax(1).values])


_FIRST = ("dense", 'masks, hidden="lost"', 'masks, hidden="frozen"', "RigL", "L0", "variational dropout, fast")
_IMAGES = (*_FIRST, "variational dropout, small", "torch.nn.utils.prune", "naive L0", "naive variational dropout")
MODELS: dict[str, Model] = {
    "resnet50": Model("ResNet-50", resnet50, variants=_IMAGES),
    "transformer-24k": Model("Transformer, 24,576 tokens", transformer(24_576, "")),
    "transformer-2k": Model("Transformer, 2,048 tokens, one graph", transformer(2_048, "step"), "step", _FIRST),
    "transformer-2k-parts": Model(
        "Transformer, 2,048 tokens, reduce-overhead", transformer(2_048, "reduce-overhead"), "reduce-overhead", _FIRST
    ),
}
