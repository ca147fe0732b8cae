"""How much of ResNet-50's training step waits for images: with the loader, beside the same step without it.

    OPENWORK_DATA=shared/data python benchmarks/resnet50_waiting.py --device cuda --enlarge 375

Blocks of steps on decoded and cropped images take turns with blocks on a batch that stays on the device; the loader
reads ahead meanwhile, at most as far as its queues reach, so the first steps of a block are not timed. Images come from
parquet, --workers processes read them, and --enlarge is that of imagenet_pipeline.py.

    python benchmarks/resnet50_waiting.py --depth 18 --size 32 --batch 16 --backend aot_eager --steps 2   # does it run?
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from imagenet_pipeline import enlarged
from raw import add_out, keep
from resnet50_step import resident, trainer

from openwork.study.data.imagenet import image_records
from openwork.study.data.loader import training_batches
from openwork.study.data.record import Records
from openwork.study.tasks.parts import Parts


def loaded(records: Records, options: argparse.Namespace) -> Iterator[Parts]:
    """Endless batches of the images."""
    device = torch.device(options.device)
    batches = training_batches(records, options.batch, size=options.size, classes=1000, seed=0, start=0, device=device)
    return (Parts([batch], first=0, count=1) for batch in batches)


def seconds(step: Callable[[Parts], None], batches: Iterator[Parts], options: argparse.Namespace) -> float:
    """Of each of ``options.steps`` steps, after the first ones, whose images were read ahead."""
    began = 0.0
    for number in range(options.skip + options.steps):
        if number == options.skip:
            _wait(options)
            began = time.perf_counter()
        step(next(batches))
    _wait(options)
    return (time.perf_counter() - began) / int(options.steps)


def _wait(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", default="imagenet-sample")
    parser.add_argument("--enlarge", type=int, default=0, help="pixels of the shorter side; 0: images as they are")
    parser.add_argument("--workers", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--skip", type=int, default=10, help="steps of a block that are not timed")
    parser.add_argument("--steps", type=int, default=20, help="of a block")
    parser.add_argument("--blocks", type=int, default=3)
    add_out(parser)
    options = parser.parse_args()
    torch.manual_seed(0)
    records = image_records(options.source, "train")
    step, still = trainer("dense", options), resident(options)
    with tempfile.TemporaryDirectory() as folder:
        if options.enlarge:
            records = enlarged(records, options.enlarge, Path(folder))
        where = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
        print(
            f"ResNet-{options.depth}, {options.batch} x {options.size}^2, {options.source}, "
            f"{f'shorter side {options.enlarge}' if options.enlarge else 'as it is'}, torch {torch.__version__}, "
            f"{where}, n = {options.blocks} x {options.steps}; milliseconds a step"
        )
        print(f"{'workers':>8}{'without':>10}{'min':>8}{'median':>8}{'max':>8}{'images/s':>10}{'waits':>8}")
        for workers in options.workers:
            os.environ["OPENWORK_WORKERS"] = str(workers)
            batches = loaded(records, options)
            pairs = [
                [1000 * seconds(step, source, options) for source in (_repeated(still), batches)]
                for _ in range(options.blocks)
            ]
            without, mine = (list(column) for column in zip(*pairs, strict=True))
            still_ones, own_device = f"without reading, beside {workers} workers", torch.device(options.device)
            series = {f"{workers} workers": mine, still_ones: without}
            keep(options.out, series, unit="ms a step", device=own_device, reference=still_ones)
            middle, reference = statistics.median(mine), statistics.median(without)
            print(
                f"{workers:8}{reference:10.1f}{min(mine):8.1f}{middle:8.1f}{max(mine):8.1f}"
                f"{1000 * options.batch / middle:10.0f}{max(1 - reference / middle, 0):8.1%}",
                flush=True,
            )


def _repeated(parts: Parts) -> Iterator[Parts]:
    while True:
        yield parts


if __name__ == "__main__":
    main()
