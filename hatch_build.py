"""Compiles the kernels for CPUs into a wheel that is built where torch and a C++ compiler are there.

Without them the wheel is a pure one, with the sources alone, and the kernels are compiled on first use. To have them in
it: ``pip install torch hatchling && python -m hatchling build -t wheel``, or ``pip wheel --no-build-isolation .``. Such
a wheel serves the torch that it was built with; with another one the kernels are compiled on first use.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileKernels(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """What hatchling calls before and after it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles what the wheel takes along."""
        if self.target_name != "wheel" or version == "editable" or importlib.util.find_spec("torch") is None:
            return
        import torch

        self.folder = tempfile.TemporaryDirectory()  # until hatchling has packed it
        compiled = _load(Path(self.root) / "src" / "openwork" / "kernels" / "compiled.py")
        ours = torch.backends.cpu.get_cpu_capability()
        for capability in {ours, "AVX2"} if ours == "AVX512" else {ours}:
            target = Path(self.folder.name) / compiled.library_name(capability)
            try:
                compiled.compile_to(target, capability)
            except (RuntimeError, OSError) as error:
                self.app.display_warning(f"the kernels for CPUs are left as sources: {error}")
                return
            build_data["force_include"][str(target)] = f"openwork/kernels/cpp/{target.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    from packaging.tags import sys_tags

    # The compiled operators use torch alone, nothing of Python: only the platform matters.
    return next(tag.platform for tag in sys_tags() if "manylinux" not in tag.platform)


def _load(path: Path) -> ModuleType:
    """The module at a path, without the package around it, which may not be installed here."""
    spec = importlib.util.spec_from_file_location("openwork_kernels_compiled", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
