"""Our C++ kernels, compiled on first use by the compiler that is there, and kept for the next time."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).with_name("cpp")

# What ATen's vectors need to be compiled for a processor; what is not here gets ATen's plain ones, NEON on ARM.
_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}


@functools.cache
def load() -> str | None:
    """Loads the kernels, which registers them as the CPU's; returns why they cannot be, None where they are.

    A library in the package, compiled for this torch and processor, comes first, then one in the cache
    (``$OPENWORK_CACHE``, by default ``~/.cache/openwork``), then the compiler: ``$CXX``, or ``c++``, ``g++``,
    ``clang++``.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    load_library: Any = torch.ops.load_library  # untyped
    try:
        shipped, cached = FOLDER / library_name(capability), _cache() / library_name(capability)
        if not shipped.exists() and not cached.exists():
            compile_to(cached, capability)
        try:
            load_library(shipped if shipped.exists() else cached)
        except OSError:
            if shipped.exists():
                raise
            compile_to(cached, capability)  # the file in the cache was damaged
            load_library(cached)
    except OSError as error:
        return f"the kernel for CPUs cannot be used: {error}; set OPENWORK_CACHE to a folder that can be written"
    except RuntimeError as error:
        return f"the kernel for CPUs cannot be used: {error}"
    return None


def library_name(capability: str) -> str:
    """The file name of the library for this torch, platform and source, and a capability of a CPU as torch names it."""
    sources = [path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in (".cpp", ".h")]
    source = hashlib.sha256(b"".join(sources)).hexdigest()[:12]
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return f"sparse-{source}-torch-{torch.__version__}-{machine}-{capability.lower().replace(' ', '-')}.so"


def compile_to(path: Path, capability: str) -> None:
    """Compiles the kernels.

    Several processes may do so at once: the file appears whole, and the last one stays.

    Args:
        path: The library to write.
        capability: Of the CPU, as torch names it: "AVX512", "AVX2", "DEFAULT" ...

    Raises:
        RuntimeError: If there is no compiler, or it fails.
        OSError: If the file cannot be written.
    """
    root = Path(torch.__file__).parent
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compiling-") as folder:
        made = Path(folder) / path.name
        command = [
            *compiler(),
            "-std=c++20",
            "-O3",
            "-fPIC",
            "-shared",
            "-fopenmp",
            *(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",),
            f"-DCPU_CAPABILITY={capability.replace(' ', '_')}",
            f"-DCPU_CAPABILITY_{capability.replace(' ', '_')}",
            *_FLAGS.get(capability, ()),
            f"-I{root / 'include'}",
            f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
            str(FOLDER / "sparse.cpp"),
            "-o",
            str(made),
            f"-L{root / 'lib'}",
            "-ltorch_cpu",
            "-lc10",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            raise RuntimeError(f"{command[0]} failed ({first.strip()[:300]})")
        made.replace(path)


def compiler() -> list[str]:
    """The command that compiles C++ here.

    Raises:
        RuntimeError: If there is none.
    """
    named = os.environ.get("CXX", "").split()
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise RuntimeError(
        f"there is no C++ compiler ({' '.join(named) or 'c++, g++ or clang++'}); install one, or set CXX to its name"
    )


def _cache() -> Path:
    return Path(os.environ.get("OPENWORK_CACHE") or Path.home() / ".cache" / "openwork")
