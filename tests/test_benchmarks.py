"""The benchmarks keep their raw numbers, and their page says where they are or that they were not kept."""

import csv
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
KEPT = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.csv"))


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("raw")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_benchmark_adds_its_raw_numbers_to_a_file(tmp_path):
    code = """
import argparse, torch
from raw import add_out, keep
parser = argparse.ArgumentParser()
add_out(parser)
out, cpu = parser.parse_args().out, torch.device("cpu")
keep(None, {"a": [1]}, unit="ms", device=cpu)
keep(out, {"a": [1.5, 2], "b": [3]}, unit="ms", device=cpu, reference="a")
keep(out, {"c": [123456.7]}, unit="GiB", device=cpu)
"""
    (tmp_path / "benchmark.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    command = [sys.executable, "benchmark.py", "--out", "file.csv"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    found = [
        [line[name] for name in ("variant", "reference", "unit", "n", "values")]
        for line in lines(tmp_path / "file.csv")
    ]
    assert found == [
        ["a", "", "ms", "2", "1.5 2"],
        ["b", "a", "ms", "1", "3"],
        ["c", "", "GiB", "1", "1.2346e+05"],
    ]
    assert all(
        line["torch"] and line["processor"] and "--out" in line["command"] for line in lines(tmp_path / "file.csv")
    )

    made = subprocess.run(
        [sys.executable, str(FOLDER / "raw.py"), "file.csv"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert made.stdout.splitlines()[2:4] == [
        "| a | ms | 2 | 1.5 | 1.75 | 2 | – |",
        "| b | ms | 1 | 3 | 3 | 3 | 1.714 |",  # 3 / 1.75
    ]


def test_a_sparse_model_takes_ten_bytes_a_weight_at_most(tmp_path):
    """Of a small language model, on top of its weights: one mask, hidden values, and what choosing takes meanwhile."""
    sizes = ["--layers", "2", "--width", "512", "--vocabulary", "2048"]
    command = [sys.executable, "-W", "ignore", str(FOLDER / "large_model.py"), "--device", "cpu", *sizes]
    command += ["--repeats", "1", "--dtypes", "float32", "--out", "file.csv"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    found = {(line["variant"], line["unit"]): float(line["values"]) for line in lines(tmp_path / "file.csv")}
    peaks = {variant: value for (variant, unit), value in found.items() if unit == "bytes a weight, peak"}
    phases = ("sparsify", "update", "finalize")
    assert list(peaks) == [
        f"float32, {name}, 7 M, {phase}" for name in ("Uniform", "GlobalRanking") for phase in phases
    ]
    assert max(peaks.values()) < 10
    # A mask and hidden values are there already: the next masks, a byte, and the scores of one tensor of a million.
    assert max(value for variant, value in peaks.items() if "update" in variant) < 7


@pytest.mark.parametrize("name", KEPT)
def test_kept_numbers_say_on_what_they_were_measured(name):
    assert f"]({name})" in PAGE
    for line in lines(FOLDER / name):
        assert len(line["values"].split()) == int(line["n"])
        assert median(map(float, line["values"].split())) > 0
        for column in ("command", "processor", "torch", "commit"):
            assert line[column], (name, line["variant"], column)


@pytest.mark.parametrize("name", KEPT)
def test_the_table_of_kept_numbers_is_made_of_them(raw, name):
    made = raw.table(FOLDER / name) + "\n"
    (committed,) = re.findall(rf"<!-- table {re.escape(name)} -->\n\n(.*?)\n<!-- end -->", PAGE, re.S)
    assert committed == made


def test_each_section_with_a_table_has_its_numbers_or_says_that_they_were_not_kept():
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        if re.search(r"^\|", section, re.M):
            kept = re.search(r"\]\([\w/-]+\.csv\)|[Rr]aw\s+outputs\s+were\s+not\s+kept", section)
            assert kept, section.splitlines()[0]


def thousands(name: str) -> dict[str, float]:
    """The median of each variant of a file of measured numbers, in thousands."""
    return {
        line["variant"]: median(map(float, line["values"].split())) / 1000 for line in lines(FOLDER / "measured" / name)
    }


def test_the_page_on_fleets_has_the_medians_of_the_kept_numbers():
    page = " ".join((FOLDER.parent / "docs" / "fleet.md").read_text(encoding="utf-8").split())
    rates = thousands("fleet.csv")
    kinds = ("stacked", "stacked, masks", "fused, masks, tf32", "fused, masks")
    for runs in ("100", "1,000", "4,000"):
        cells = [runs, f"{rates['one by one']:.1f}", *(f"{rates[f'{runs}, {kind}']:.0f}" for kind in kinds)]
        assert f"| {' | '.join(cells)} |" in page
    assert all(rates[f"{runs}, fused, masks, tf32"] < rates[f"{runs}, stacked, masks"] for runs in ("1,000", "4,000"))
    engine = thousands("fleet-engine.csv")
    masks, dropout = engine["engine, 4,000, masks, tf32"], engine["engine, 4,000, variational dropout, tf32, compiled"]
    assert f"compiled, in tf32, made {dropout:.1f} thousand steps a second, and with masks {masks:.0f} thousand" in page
    assert f"the steps take {4 * 12_000 / rates['4,000, fused, masks']:.0f} s" in page
    parts = {line["variant"]: float(line["values"]) for line in lines(FOLDER / "measured" / "fleet-whole.csv")}
    cold = parts["4,000 x 300 steps, bf16: prepared"]
    prepared, trained, finished, whole = (
        f"{parts[f'4,000 x 12,000 steps, bf16: {part}']:.0f} s" for part in ("prepared", "trained", "finished", "whole")
    )
    assert f"4,000 runs of 12,000 steps took {whole} from runs to results on the disk, of the three minutes" in page
    assert parts["4,000 x 12,000 steps, bf16: whole"] <= 180
    assert f"(n = 1, bf16): {prepared} to make" in page
    assert f"{trained} to train them and {finished} to evaluate" in page
    assert f"compiles kernels and decodes MNIST: {cold:.0f} s up to the first step" in page
    assert cold + parts["4,000 x 12,000 steps, bf16: whole"] - parts["4,000 x 12,000 steps, bf16: prepared"] > 180


def test_the_page_of_benchmarks_says_which_aims_of_fleets_the_kept_numbers_meet():
    page = " ".join(PAGE.split())
    rates = thousands("fleet.csv")
    stacked, fused = (f"{round(1000 * rates[f'4,000, {kind}, masks'], -2):,.0f}" for kind in ("stacked", "fused"))
    short = f"{round(1000 * rates['4,000, fused, masks, bf16 moments'], -2):,.0f}"
    assert (
        f"150,000 stacked with masks ({stacked}), 300,000 fused ({fused}), 400,000 with moments in bfloat16 ({short})"
        in page
    )
    _, dropout = lines(FOLDER / "measured" / "fleet-engine.csv")
    steps = [float(value) for value in dropout["values"].split()]
    assert min(steps) > 88_000
    assert f"is met by each of the {len(steps)} steps, whose median is {round(median(steps), -2):,.0f}" in page
    whole = {line["variant"]: float(line["values"]) for line in lines(FOLDER / "measured" / "fleet-whole.csv")}
    assert f"met with {180 - whole['4,000 x 12,000 steps, bf16: whole']:.0f} s to spare" in page
    longer = whole["4,000 x 300 steps, bf16: prepared"] - whole["4,000 x 12,000 steps, bf16: prepared"]
    assert f"needed {longer:.0f} s more to compile" in page
