"""The report page of thousands of runs: its size, and how long writing and opening it take.

The runs are synthetic, of four techniques with three seeds each. Opening is from the request until all charts are
drawn, in headless Chromium (`pip install playwright`, Debian's chromium); hovering is from a move of the mouse to the
frame that answers it.

    python benchmarks/report_page.py [--runs 5000] [--repeats 7]
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any

import torch
from raw import add_out, keep

from openwork.study.evaluation.metric import ACCURACY
from openwork.study.report.page import write_report
from openwork.study.results.result import identity

MEGABYTES, SECONDS = 5.0, 2.0  # the bars
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
# Moves over the middle of the chart, each followed by the frame that answers it.
HOVER = """async () => {
  const canvas = document.querySelector(".chart canvas"), box = canvas.getBoundingClientRect(), times = [];
  for (let i = 0; i < 30; i++) {
    const began = performance.now();
    const at = { clientX: box.x + box.width * (0.2 + 0.02 * i), clientY: box.y + box.height * 0.6, bubbles: true };
    canvas.dispatchEvent(new PointerEvent("pointermove", at));
    canvas.dispatchEvent(new MouseEvent("mousemove", at));
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - began);
  }
  return times;
}"""


def write_runs(folder: Path, count: int) -> None:
    """Writes synthetic run directories: a result.json each."""
    draw = random.Random(0)
    for number in range(count):
        setting, seed = divmod(number, 3)
        name = ("GradualMagnitude", "RandomPruning", "VariationalDropout", "L0")[setting % 4]
        draw.seed(setting)
        sparsity = 1 - 10 ** draw.uniform(-2, -0.2)
        accuracy = 0.98 - 0.02 * (setting % 4) - 0.01 / (1 - sparsity) ** 0.5 * draw.uniform(0.3, 1.5)
        draw.seed(number)
        row = result(name, setting, seed, sparsity, accuracy + draw.gauss(0, 0.003))
        row["id"] = identity(row["run"])
        (folder / row["id"]).mkdir(parents=True)
        (folder / row["id"] / "result.json").write_text(json.dumps(row))


def result(name: str, setting: int, seed: int, sparsity: float, accuracy: float) -> dict[str, Any]:
    """One synthetic result.json."""
    metrics = {"accuracy": accuracy, "loss": 0.1, "sparsity": sparsity}
    weights = {f"layer{i}.weight": 10_000 for i in range(20)}
    layers = [
        {"name": layer, "shape": [100, 100], "weights": n, "nonzero": round(n * (1 - sparsity)), "sparsity": sparsity}
        for layer, n in weights.items()
    ]
    settings = f"schedule=Cubic(final={sparsity:.4f}, end=60000, begin={setting}, every=600), steps=120000"
    return {
        "format": 2,
        "status": "finished",
        "step": 120_000,
        "name": name,
        "seed": seed,
        "settings": settings,
        "task": "synthetic",
        "run": {"technique": {"type": name, "setting": setting}, "steps": 120_000, "seed": seed},
        "metric": asdict(ACCURACY),
        "threshold": None,
        "before": metrics,
        "after": metrics,
        "layers": layers,
        "sparsity": {"selected": sparsity, "all": sparsity},
        "execution": "simulated",
        "cost": {"seconds": 1234.5, "step_ms": 9.8, "peak_memory_bytes": 300_000_000},
        "environment": {
            "device": "cpu",
            "processor": "none",
            "threads": 1,
            "torch": "0",
            "python": "0",
            "openwork": "0",
            "commit": None,
        },
    }


def measure(page: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds to open the page, and milliseconds a frame takes under the mouse."""
    from playwright.sync_api import sync_playwright

    opened: list[float] = []
    frames: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=QUIET)
        for _ in range(repeats):
            tab = browser.new_page(viewport={"width": 1200, "height": 900})
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.evaluate("() => Promise.all(Object.values(drawn)).then(() => true)")
            opened.append(time.perf_counter() - began)
            frames += tab.evaluate(HOVER)
            tab.close()
        browser.close()
    return opened, frames


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=7)
    add_out(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder, options.runs)
        began = time.perf_counter()
        page = write_report(folder, folder / "report")
        wrote = time.perf_counter() - began
        size = page.stat().st_size / 1e6
        opened, frames = measure(page, options.repeats)
    keep(options.out, {"opening": opened, "writing": [wrote]}, unit="s", device=torch.device("cpu"))
    keep(options.out, {"frame under the mouse": frames}, unit="ms", device=torch.device("cpu"))
    print(f"{options.runs} runs, n = {options.repeats}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"size     {size:6.2f} MB                             bar {MEGABYTES} MB")
    print(f"writing  {wrote:6.2f} s (page, pictures, tables; once)")
    print(
        f"opening  {statistics.median(opened):6.2f} s (median; {min(opened):.2f} to {max(opened):.2f})"
        f"       bar {SECONDS} s"
    )
    print(f"hovering {statistics.median(frames):6.1f} ms a frame (median; at most {max(frames):.1f})")


if __name__ == "__main__":
    main()
