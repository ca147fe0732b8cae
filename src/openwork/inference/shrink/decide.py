"""Which units go: those that nobody reads, and those whose value is a constant that the next layers can hold.

A layer reads a unit if a weight for it is not zero, for an output that stays. A constant c is held by the next layer's
bias, b + W c, or by the mean of the batch norm behind it. Where neither can be, as with zeros around a convolution's
input, one constant unit stays and takes over the weights of the others: W c = (W c / c') c'.
"""

from collections import Counter

import torch
from torch import Tensor

from openwork.inference.shrink.graph import Graph, Read, oriented

_VAGUE = ("it is not known", "it reads the model's input", "it meets the model's input")


class Decision:
    """Which units of a graph go; it changes nothing.

    Attributes:
        roots: The number that stands for each unit.
        removed: By unit, whether it goes.
        emptied: By unit, whether it would go but is the last of its axis: it stays, and nobody reads it any more.
        leaders: The unit that takes over the weights of another one, by their roots.
        reasons: Why a root stays whatever its weights are.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.roots = graph.units.roots()
        self.reasons = self._reasons()
        self._pinned = torch.zeros(len(self.roots), dtype=torch.bool, device="cpu")
        self._pinned[torch.tensor(list(self.reasons), dtype=torch.long, device="cpu")] = True
        self._nonzero = {read.weight: oriented(graph.tensors[read.weight], read.dims) != 0 for read in graph.reads}
        self._nonzero = {name: _any(nonzero).cpu() for name, nonzero in self._nonzero.items()}
        self.homes = [home(graph, read) for read in graph.reads]
        self.leaders: dict[int, int] = {}
        self.removed = self._fixed_point()
        self.emptied = self._last_ones()

    def goes(self, ids: Tensor) -> Tensor:
        """For units, whether their positions are removed."""
        return self.removed[self.roots[ids]] & ~self.emptied[self.roots[ids]]

    def needed(self, read: Read, removed: Tensor) -> Tensor:
        """For each input of a product, whether a weight for it, of an output that stays, is not zero."""
        return self._nonzero[read.weight][~removed[self.roots[read.outputs]]].any(0)

    def left(self, name: str) -> dict[tuple[str, str], int]:
        """How many outputs and inputs of a weight stay though it is zero for all of them, by side and reason."""
        value = self.graph.parameters[name]
        dims = next((read.dims for read in self.graph.reads if read.weight == name), (0, 1))
        ids = [value.axes[dim] for dim in dims] if len(value.shape) > 1 else []
        if value.name is None or len(ids) < 2 or ids[0] is None or ids[1] is None:
            return {}
        if name not in self._nonzero:
            self._nonzero[name] = _any(oriented(self.graph.tensors[name], dims) != 0).cpu()
        kept = [~self.goes(ids[0]), ~self.goes(ids[1])]
        nonzero = self._nonzero[name][kept[0]][:, kept[1]]
        found: Counter[tuple[str, str]] = Counter()
        for number, side in enumerate(("outputs", "inputs")):
            zeros = self.roots[ids[number]][kept[number]][~nonzero.any(1 - number)]
            found.update((side, self._why(int(root))) for root in zeros)
        return dict(found)

    def _why(self, root: int) -> str:
        if root in self.reasons:
            return self.reasons[root]
        if root in self.leaders.values():
            return "it holds the constants of those that went"
        return "the last one of its layer" if self.emptied[root] else "the rest of its unit is needed"

    def _reasons(self) -> dict[int, str]:
        found: dict[int, str] = {}
        # What a layer does to a unit says more than that something else keeps its size.
        for ids, reason in sorted(self.graph.units.pinned, key=lambda pin: pin[1].startswith(_VAGUE)):
            for root in set(self.roots[ids].tolist()):
                found.setdefault(root, reason)
        return found

    def _fixed_point(self) -> Tensor:
        removed = torch.zeros(len(self.roots), dtype=torch.bool, device="cpu")
        while True:
            must, soft = self._needs(removed)
            found = removed | ~(must | self._pinned)
            for root in soft:
                found[root] = root in self.leaders
            if torch.equal(found, removed):
                merged = self._merged(soft)
                if not merged:
                    return removed & self._owned()
                self.leaders |= merged
                self._pinned[torch.tensor(list(set(merged.values())), device="cpu")] = True
                found[torch.tensor(list(merged), device="cpu")] = True
            removed = found

    def _needs(self, removed: Tensor) -> tuple[Tensor, dict[int, dict[int, float]]]:
        """By root, whether it is needed; and of those that are needed as constants alone, the reads and constants."""
        must = torch.zeros(len(self.roots), dtype=torch.bool, device="cpu")
        soft: dict[int, dict[int, float]] = {}
        for number, read in enumerate(self.graph.reads):
            roots = self.roots[read.inputs]
            needed = self.needed(read, removed) & (read.known != 0)
            constant = needed & ~read.known.isnan()
            must[roots[needed & ~constant]] = True
            if self.homes[number] is not None:
                continue
            if not is_exclusive(self.graph, read):
                must[roots[constant]] = True
                continue
            for place in constant.nonzero().flatten().tolist():
                root, known = int(roots[place]), float(read.known[place])
                if number in soft.get(root, {}):
                    must[root] = True  # several positions: no other unit has the same ones
                soft.setdefault(root, {})[number] = known
        return must, {root: reads for root, reads in soft.items() if not (must[root] or self._pinned[root])}

    def _merged(self, soft: dict[int, dict[int, float]]) -> dict[int, int]:
        """Of the constants that the same products need, all but the largest, and whose weights they become."""
        alike: dict[frozenset[int], list[int]] = {}
        for root, reads in soft.items():
            if root not in self.leaders:
                alike.setdefault(frozenset(reads), []).append(root)
        found: dict[int, int] = {}
        for numbers, roots in alike.items():
            first = min(numbers)
            leader = max(roots, key=lambda root: abs(soft[root][first]))
            found |= {root: leader for root in roots if root != leader}
        return found

    def _owned(self) -> Tensor:
        owned = torch.zeros(len(self.roots), dtype=torch.bool, device="cpu")
        for value in self.graph.parameters.values():
            for ids in value.axes:
                if ids is not None:
                    owned[self.roots[ids]] = True
        return owned

    def _last_ones(self) -> Tensor:
        emptied = torch.zeros(len(self.roots), dtype=torch.bool, device="cpu")
        for value in self.graph.parameters.values():
            for ids in value.axes:
                if ids is not None and len(ids) and (self.removed & ~emptied)[self.roots[ids]].all():
                    emptied[self.roots[ids[0]]] = True
        return emptied


def home(graph: Graph, read: Read) -> str | None:
    """The bias, or the mean of a batch norm behind, that can hold the constants of a product; None where none can."""
    if read.padded or not is_exclusive(graph, read):
        return None
    name = read.bias
    if name is None:
        users = list(read.node.users)
        if len(users) != 1 or "batch_norm" not in str(users[0].target) or users[0].args[0] is not read.node:
            return None
        mean = graph.arguments(users[0])["running_mean"]
        name = mean.name if mean is not None else None
    return name if name is not None and graph.uses[name] == 1 else None


def is_exclusive(graph: Graph, read: Read) -> bool:
    """Whether nothing else in the model reads the weight, so that it may change."""
    return graph.uses[read.weight] == 1


def _any(nonzero: Tensor) -> Tensor:
    return nonzero.any(2) if nonzero.dim() > 2 else nonzero
