"""Which files make up a TensorFlow checkpoint, however somebody names it."""

import re
from pathlib import Path

from openwork.formats.tensorflow.table import is_table


def prefix_of(path: Path) -> Path:
    """The prefix of a checkpoint that is named by it, by one of its files, or by the folder in which it is alone.

    Raises:
        FileNotFoundError: For a folder with no checkpoint of TensorFlow, or with several.
    """
    if path.is_dir() and not Path(f"{path}.index").is_file():
        found = sorted(one for one in path.glob("*.index") if is_table(one))
        if not found:
            raise FileNotFoundError(
                f"{path} is a folder without a TensorFlow checkpoint; give a prefix such as model.ckpt-500000, which "
                "has a file model.ckpt-500000.index"
            )
        if len(found) > 1:
            names = ", ".join(str(one.with_suffix("")) for one in found[:5])
            raise FileNotFoundError(f"{path} has {len(found)} TensorFlow checkpoints; give the prefix of one: {names}")
        path = found[0]
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    return path.with_name(name) if name else path


def is_prefix(path: Path) -> bool:
    """Whether there is a TensorFlow checkpoint with this prefix, or the path is its index."""
    index = path if path.suffix == ".index" else Path(f"{path}.index")
    return index.is_file() and not path.is_dir() and is_table(index)


def nothing_at(prefix: Path) -> str:
    """A sentence that says why there is no checkpoint with this prefix."""
    if prefix.is_file():
        if is_table(prefix):
            return f"{prefix} is a TensorFlow checkpoint of version 1; save it again with a tf.train.Saver of version 2"
        return f"{prefix} is no TensorFlow checkpoint; give a prefix PREFIX for which there is a file PREFIX.index"
    return f"there is no TensorFlow checkpoint {prefix}: {prefix}.index is missing; give the prefix of its files"
