"""Small images in parquet files, and a stand-in for the hub."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from PIL import Image

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)  # H 2, W 3
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def table(images: list[bytes | None], labels: list, *, column: str = "image", classes: int | None = None) -> pa.Table:
    rows = pa.array(
        [{"bytes": image, "path": None} for image in images],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    result = pa.table({column: rows, "label": pa.array(labels, None if labels else pa.int64())})
    if classes is None:
        return result
    feature = {"names": [str(n) for n in range(classes)], "_type": "ClassLabel"}
    return result.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": feature}}})})


def stub_datasets(monkeypatch, result: pa.Table | Exception) -> list[tuple[str, str]]:
    """Put a `datasets` in place that gives a table as `load_dataset(...).with_format("arrow")[:]` does (4.0, 5.2)."""
    calls = []

    def load_dataset(name: str, split: str):
        calls.append((name, split))
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(with_format=lambda form: {"arrow": SliceOf(result)}[form])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


class SliceOf:
    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    def __getitem__(self, key: slice) -> pa.Table:
        assert key == slice(None)
        return self.rows
