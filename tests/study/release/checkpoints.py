"""The checkpoints that `tests.programs.tensorflow_checkpoints` let TensorFlow 2.21.0 write."""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("checkpoints.tar.xz")
NAME = "model.ckpt-500000"


def unpacked(folder: Path) -> Path:
    """Writes all of them into a folder, one folder a case; returns it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder
