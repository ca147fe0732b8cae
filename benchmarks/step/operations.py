"""What a technique does beside the layers: the update of masks, and the penalty's value and gradient."""

import time
from collections.abc import Callable

import torch
from mask_update import by_sort, by_topk, resnet50_shapes
from timing import milliseconds
from torch import Tensor, nn

import openwork as ow
from openwork.study.models.transformer import Transformer

from .timed import Counts, Series

_UPDATE = "mask update, all of ResNet-50: "
_PENALTY = "value and gradient of 61 million weights: "


class Operations:
    """All of them, ready to be timed.

    Args:
        device: Where they run.
        small: Whether sizes are such that a CPU takes them.
        backend: Of torch.compile.
    """

    def __init__(self, device: torch.device, *, small: bool, backend: str) -> None:
        self.device, self.small, self.backend = device, small, backend
        self.updates, self.penalties = self._updates(), self._penalties()

    def compile(self) -> None:
        """Runs each once."""
        for run in (*self.updates.values(), *self.penalties.values()):
            run()

    def rest(self) -> None:
        """Nothing is to be given back."""

    def measure(self, counts: Counts) -> Series:
        """Milliseconds of each, by turns."""
        found: Series = {}
        for _ in range(counts.warmup + counts.steps):
            for name, run in self.updates.items():
                times = found.setdefault((_UPDATE + name, "ms", f"{_UPDATE}torch.topk per layer"), [])
                times.append(self._waited(run))
        for name, run in self.penalties.items():
            milliseconds(run, counts.warmup, self.device)
            reference = f"{_PENALTY}a copy of {8 if 'L0' in name else 16} bytes a weight"
            found[_PENALTY + name, "ms", "" if "copy" in name else reference] = milliseconds(
                run, counts.steps, self.device
            )
        return {key: times[-counts.steps :] for key, times in found.items()}

    def _waited(self, run: Callable[[], object]) -> float:
        """By the host's clock: an update waits for the device itself."""
        self._wait()
        began = time.perf_counter()
        run()
        self._wait()
        return 1000 * (time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _updates(self) -> dict[str, Callable[[], object]]:
        torch.manual_seed(0)
        shapes = resnet50_shapes()[:4] if self.small else resnet50_shapes()
        weights = [torch.randn(shape, device=self.device) for shape in shapes]

        def update(allocation: ow.Allocation) -> Callable[[], object]:
            model = nn.ParameterList(nn.Parameter(weight.clone()) for weight in weights)
            technique = ow.GradualMagnitude(ow.Constant(0.9, every=1), allocation=allocation)
            return ow.sparsify(model, technique, select=ow.all_parameters).step

        return {
            "torch.topk per layer": lambda: by_topk(weights),
            "torch.sort per layer": lambda: by_sort(weights),
            "openwork": update(ow.Uniform()),
            "openwork, one global ranking": update(ow.GlobalRanking()),
        }

    def _penalties(self) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        for name, technique, size in (
            ("KL", ow.VariationalDropout(ow.Constant(1e-9)), 16),
            ("L0", ow.L0(ow.Constant(1e-9)), 8),
        ):
            torch.manual_seed(0)
            model = Transformer(50, width=32, hidden=64, heads=2, layers=1) if self.small else Transformer(33_288)
            sparsifier = ow.sparsify(model.to(self.device), technique)
            weights = sum(weight.parameter.numel() for weight in sparsifier.weights)
            found[f"a copy of {size} bytes a weight"] = copying(weights * size // 8, self.device)
            found[name] = gradients(sparsifier.penalty, model)
            if self.device.type == "cuda":
                found[f"{name}, one graph"] = replayed(found[name], self.device)
            if self.backend != "none":
                found[f"{name}, compiled"] = gradients(torch.compile(sparsifier.penalty, backend=self.backend), model)
        return found


def gradients(penalty: Callable[[], Tensor], model: nn.Module) -> Callable[[], None]:
    """Computes the penalty and its gradients."""
    parameters = list(model.parameters())

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(penalty())

    return run


def replayed(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same as one CUDA graph: what the GPU does for it, without the host that prepares it."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay


def copying(count: int, device: torch.device) -> Callable[[], None]:
    """Reads and writes so many float32."""
    old, new = torch.randn(count, device=device), torch.empty(count, device=device)

    def run() -> None:
        new.copy_(old)

    return run
