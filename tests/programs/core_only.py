"""openwork with what a plain `pip install openwork` brings, whatever else is installed: anything else is not found.

Prints as JSON what the public names import beyond what torch has imported, and what pruning a model by them leaves.

Run: python -m tests.programs.core_only FOLDER
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

# The dependencies, and what torch requires for its part.
CORE = {"torch", "numpy", "safetensors", "openwork"}
TORCHS = {
    "torchgen", "functorch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy",
    "typing_extensions", "triton",
}  # fmt: skip


class OnlyCore(MetaPathFinder):
    """Finds nothing, and lets nobody else find what is neither Python's nor one of the core's."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """None, where others may look."""
        root = name.partition(".")[0]
        if root not in CORE | TORCHS and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)


def main() -> None:
    """Imports all public names, sparsifies, prunes and saves."""
    sys.meta_path.insert(0, OnlyCore())
    import torch

    before = {*sys.modules}
    import openwork as ow

    alone = sorted(name for name in sys.modules if name not in before)
    assert callable(ow.sparsify)
    names = ("openwork.core.sparsify", "openwork.public", "openwork.inference.accelerate")
    first = {name: name in sys.modules for name in names}
    assert all(hasattr(ow, name) for name in ow.__all__)
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
    found = {"alone": alone, "first": first, "added": added, "sparsified": sparsified, "pruned": pruned, "said": said}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
