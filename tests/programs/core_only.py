"""openwork with what a plain `pip install openwork` brings, whatever else is installed: anything else is not found.

Prints as JSON what the public names import beyond what torch has imported, and what pruning a model by them leaves.

Run: python -m tests.programs.core_only FOLDER
"""

import json
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# The dependencies, and what torch requires for its part.
CORE = {"torch", "numpy", "safetensors", "openwork"}
TORCHS = {
    "torchgen", "functorch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy",
    "typing_extensions", "triton",
}  # fmt: skip


class OnlyCore(PathFinder):
    """Finds what is Python's or one of the core's."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """None for anything else."""
        root = fullname.partition(".")[0]
        if root in CORE | TORCHS | sys.stdlib_module_names or root.startswith("_sysconfigdata"):
            return super().find_spec(fullname, path, target)
        return None


def main() -> None:
    """Imports all public names, sparsifies, prunes and saves."""
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, OnlyCore]
    import torch

    before = {*sys.modules}
    import openwork as ow

    alone = sorted(name for name in sys.modules if name not in before)
    assert callable(ow.sparsify)
    names = ("openwork.core.sparsify", "openwork.public", "openwork.inference.accelerate")
    first = {name: name in sys.modules for name in names}
    assert all(hasattr(ow, name) for name in ow.__all__)
    works = ("accelerating", "smaller", "permuting", "csr", "lanes", "checkpoint", "from_model", "graph", "verify")
    early = sorted(name for name in sys.modules if name[:9] == "openwork." and name.split(".")[-1] in works)
    added = sorted({".".join(name.split(".")[:2]) for name in {*sys.modules} - before if name[:9] != "openwork."})

    from safetensors.torch import load_file, save_file

    folder, said = Path(sys.argv[1]), ""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).finalize()
    sparsified = ow.report(model).sparsity
    ow.prune(model, ow.Wanda(ow.OneShot(0.75)), batches=[torch.ones(2, 64)])
    save_file(model.state_dict(), folder / "model.safetensors")
    pruned = {
        name: float((value == 0).float().mean()) for name, value in load_file(folder / "model.safetensors").items()
    }
    try:
        ow.save(model, folder / "small.safetensors")
    except ImportError as error:
        said = str(error)
    found = {
        "alone": alone,
        "first": first,
        "added": added,
        "early": early,
        "sparsified": sparsified,
        "pruned": pruned,
        "said": said,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
