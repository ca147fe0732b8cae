"""The audited report: zeros counted in the tensors themselves, for any model or checkpoint."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openwork.core.selection import Select, find_weights, matmul_weights
from openwork.core.sharded import is_sharded
from openwork.inspect.checkpoint import read_tensors


@dataclass(frozen=True)
class Layer:
    """One weight tensor: its name, shape, number of weights and of non-zero ones."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1."""
        return (self.weights - self.nonzero) / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Report:
    """What `report` counted; prints as a table."""

    layers: tuple[Layer, ...]
    parameters: int
    """All parameters of the model, biases and norms included."""
    zeros: int
    """Zeros among all parameters."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the weights of `layers`."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.weights - layer.nonzero for layer in self.layers) / weights if weights else 0.0

    @property
    def sparsity_all(self) -> float:
        """The fraction of zeros, 0-1, among all parameters."""
        return self.zeros / self.parameters if self.parameters else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "layers": [
                {**asdict(layer), "shape": list(layer.shape), "sparsity": layer.sparsity} for layer in self.layers
            ],
            "sparsity": {"selected": self.sparsity, "all": self.sparsity_all},
            "parameters": self.parameters,
        }

    def __str__(self) -> str:
        weights = sum(layer.weights for layer in self.layers)
        rows = [(la.name, "x".join(map(str, la.shape)), la.weights, la.nonzero, la.sparsity) for la in self.layers]
        rows.append(("selected weights", "", weights, sum(la.nonzero for la in self.layers), self.sparsity))
        rows.append(("all parameters", "", self.parameters, self.parameters - self.zeros, self.sparsity_all))
        width = max(len(row[0]) for row in rows)
        lines = [f"{'weight':{width}}  {'shape':>16}  {'weights':>12}  {'non-zero':>12}  sparsity"]
        lines += [f"{n:{width}}  {s:>16}  {w:>12,}  {z:>12,}  {p:>8.2%}" for n, s, w, z, p in rows]
        return "\n".join(lines)


def report(source: nn.Module | str | Path, *, select: Select = matmul_weights) -> Report:
    """The zeros of a model or of a checkpoint file, per weight and in total.

    Of a model, ``layers`` are the weights that ``select`` picks, tied ones once; of a file, which knows no modules, the
    floating-point tensors of two or more dimensions, tied ones as often as it holds them. Finalize a model that is
    still being trained by variational dropout or L0 first. For a model that FSDP2 has sharded, all processes must call
    this. Raises FileNotFoundError and ValueError for files that
    cannot be read.
    """
    if isinstance(source, nn.Module):
        weights, _ = find_weights(source, select)
        layers = tuple(_layer(weight.name, weight.parameter) for weight in weights)
        tensors = list(source.parameters())
    else:
        named = {k: v for k, v in read_tensors(source).items() if v.is_floating_point()}
        layers = tuple(_layer(name, tensor) for name, tensor in named.items() if tensor.dim() > 1)
        tensors = list(named.values())  # type: ignore[arg-type]  # a Parameter is a Tensor
    parameters = sum(tensor.numel() for tensor in tensors)
    return Report(layers, parameters, parameters - sum(_nonzero(t) for t in tensors))


def _layer(name: str, tensor: Tensor) -> Layer:
    return Layer(name, tuple(tensor.shape), tensor.numel(), _nonzero(tensor))


def _nonzero(tensor: Tensor) -> int:
    count = tensor.count_nonzero()
    return int(count.full_tensor() if is_sharded(count) else count)  # the number of a DTensor is that of its part here
