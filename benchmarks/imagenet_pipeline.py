"""Images a second from parquet shards to batches in memory, decoded and cropped as ImageNet's training does.

    OPENWORK_DATA=shared/data python benchmarks/imagenet_pipeline.py --source imagenet-sample

"Pillow" is the obvious code: Image.open(...).convert("RGB").resize((224, 224)), in a loop, and in a DataLoader
with as many workers as openwork's loader. --enlarge rewrites the images so that the shorter side has that many pixels,
since those of a sample may be smaller than ImageNet's (500 x 375 is typical there). Rounds of all variants take turns.
The last column is the processor time of the main process alone: with workers, a training step loses that time.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from raw import add_out, keep
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openwork.study.data.imagenet import image_records
from openwork.study.data.loader import training_batches
from openwork.study.data.record import Records
from openwork.study.data.records import open_records

CPU = torch.device("cpu")


class Plain(Dataset[Tensor]):
    """The whole image at 224 x 224, with Pillow alone."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, number: int) -> Tensor:
        image = Image.open(io.BytesIO(self.encoded[number])).convert("RGB").resize((224, 224))
        return torch.from_numpy(np.array(image))


def enlarged(records: Records, side: int, folder: Path) -> Records:
    """The images with their shorter side at ``side`` pixels, as JPEGs of quality 90, 100 to a row group."""
    rows = []
    for block in range(len(records.blocks)):
        for record in records.read(block):
            image = Image.open(io.BytesIO(record.encoded or b"")).convert("RGB")
            scale = side / min(image.size)
            buffer = io.BytesIO()
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            rows.append(({"bytes": buffer.getvalue(), "path": None}, record.label))
    table = pa.table({"image": [image for image, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(table, folder / "train.parquet", row_group_size=100)
    return open_records(folder, "train")


def rates(records: Records, options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Images a second, and ms of this process's processor time for a batch, of each variant; one number a round."""
    encoded = [r.encoded or b"" for block in range(len(records.blocks)) for r in records.read(block)]
    plain = Plain(encoded)
    count = options.images

    def loop() -> Callable[[], object]:
        return lambda: [plain[number % len(plain)] for number in range(count)]

    def pillow() -> Callable[[], object]:
        sampler = [number % len(plain) for number in range(count + options.batch)]
        return _after_the_first(DataLoader(plain, options.batch, sampler=sampler, num_workers=options.workers))

    def ours(workers: int) -> Callable[[], object]:
        os.environ["OPENWORK_WORKERS"] = str(workers)
        many = 10**9  # labels are not looked at
        return _after_the_first(
            training_batches(records, options.batch, size=224, classes=many, seed=0, start=0, device=CPU)
        )

    def _after_the_first(batches: Iterable[object]) -> Callable[[], object]:
        rest = iter(batches)
        next(rest)  # the workers have started
        return lambda: deque(islice(rest, count // options.batch), maxlen=0)

    workers = f"{options.workers} workers"
    variants: dict[str, Callable[[], Callable[[], object]]] = {
        "Pillow, a loop": loop,
        f"Pillow, {workers}": pillow,
        "openwork, in the main process": lambda: ours(0),
        f"openwork, {workers}": lambda: ours(options.workers),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    main_process: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, prepare in variants.items():
            run = prepare()
            began, cpu = time.perf_counter(), time.process_time()
            run()
            images = count // options.batch * options.batch
            found[name].append(images / (time.perf_counter() - began))
            main_process[name].append(1000 * (time.process_time() - cpu) * options.batch / images)
    return found, main_process


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="imagenet-sample")
    parser.add_argument("--enlarge", type=int, default=0, help="pixels of the shorter side; 0: images as they are")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--images", type=int, default=1_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = image_records(options.source, "train")
    with tempfile.TemporaryDirectory() as folder:
        if options.enlarge:
            records = enlarged(records, options.enlarge, Path(folder))
        sizes = [len(r.encoded or b"") for r in records.read(0)]
        before = os.getloadavg()[0]
        found, main_process = rates(records, options)
    keep(options.out, found, unit="images/s", device=CPU, reference="Pillow, a loop")
    keep(options.out, main_process, unit="ms a batch in the main process", device=CPU)
    reference = statistics.median(found["Pillow, a loop"])
    print(
        f"{options.source}, {'as it is' if not options.enlarge else f'shorter side {options.enlarge}'}, "
        f"{statistics.mean(sizes) / 1000:.0f} kB an image, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"n = {options.rounds} x {options.images} in batches of {options.batch}, "
        f"load {before:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    print(f"{'images/s':34}{'min':>8}{'median':>8}{'max':>8}{'ratio':>8}{'main process, ms a batch':>26}")
    for name, values in found.items():
        middle = statistics.median(values)
        own = statistics.median(main_process[name])
        print(f"{name:34}{min(values):8.0f}{middle:8.0f}{max(values):8.0f}{middle / reference:8.2f}{own:26.1f}")


if __name__ == "__main__":
    main()
