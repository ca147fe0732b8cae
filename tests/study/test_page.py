import json
import re
import struct
import subprocess
from pathlib import Path
from shutil import which

import pytest
from studies import diverged, row, study

from openwork.study.report.charts import nice_ticks
from openwork.study.report.page import write_report

NASTY = "</script><script>alert(1)</script>"


def points(name: str, accuracies: dict[float, float]) -> list[dict]:
    return [row(name, f"s={s}", seed, s, a + 0.001 * seed) for s, a in accuracies.items() for seed in range(3)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rows = [
        *points("dense", {0.0: 0.98}),
        *points("GradualMagnitude", {0.5: 0.98, 0.9: 0.97, 0.98: 0.9}),
        *points("RandomPruning", {0.5: 0.97, 0.9: 0.91, 0.98: 0.5}),
        {**row("L0", NASTY, 0, 0.9, 0.93), "id": "nasty"},
        diverged("L0", "exploded"),
    ]
    folder = study(tmp_path_factory.mktemp("study"), rows)
    (folder / "interrupted").mkdir()
    return write_report(folder, folder / "report", command="make quickstart")


def test_the_page_stands_alone(page):
    text = page.read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "index.html", "layers.png", "layers.svg", "results.csv", "summary.csv", "trade-off.png", "trade-off.svg",
    ]  # fmt: skip
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert "@import" not in text
    assert len(text) < 1_500_000
    assert text.count("<script>") == 2


def test_the_page_says_what_was_found(page):
    text = page.read_text()
    assert "GradualMagnitude is the most accurate: 97.1 % at 90.0 % sparsity (3 seeds" in text
    assert "against 98.1 % for the dense model" in text
    assert "zeros are simulated" in text
    assert "Command: make quickstart" in text
    assert "L0, seed 9, at step 10: exploded" in text
    assert "1 folder without a result: interrupted." in text
    assert len((page.parent / "results.csv").read_text().splitlines()) == 1 + 3 + 9 + 9 + 1 + 1


def test_settings_cannot_become_code(page):
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_charts_hold_every_technique_and_the_frontier(page):
    specs = json.loads(re.search(r"^const charts = (.*);$", page.read_text(), re.M).group(1))
    assert [name for name in specs if name.startswith("trade-off")] == ["trade-off"]
    assert len([name for name in specs if name.startswith("layers")]) == 3
    datasets = specs["trade-off"]["datasets"].values()
    (means,) = (values for values in datasets if {"pareto", "technique"} <= values[0].keys())
    ringed = {(value["technique"], value["settings"]) for value in means if value["pareto"]}
    assert ringed == {("GradualMagnitude", f"s={s}") for s in (0.5, 0.9, 0.98)}


def test_pictures_are_pictures(page):
    for name in ("trade-off", "layers"):
        png = (page.parent / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert width > 1000
        assert height > 200
        assert "GradualMagnitude" in (page.parent / f"{name}.svg").read_text()


def test_an_empty_study_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no finished run in .*; train some with `openwork run`"):
        write_report(study(tmp_path, [diverged()]), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_one_run_is_enough(tmp_path):
    text = write_report(study(tmp_path, [row()]), tmp_path / "report").read_text()
    assert "95 % interval none with one seed" in text


def test_ticks_are_round():
    assert nice_ticks(0.01, 0.6) == (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    assert nice_ticks(0.91, 0.99) == (0.98, 0.96, 0.94, 0.92)


CHROMIUM = which("chromium") or which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_the_page_draws_in_a_browser_without_a_console_message(page, tmp_path):
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    answer = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}",
         "--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", page.resolve().as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert len(re.findall('<svg[^>]*class="marks"', answer.stdout)) == 4
    assert "GradualMagnitude at 90.0 % sparsity" in answer.stdout
    assert [line for line in answer.stderr.splitlines() if "CONSOLE" in line] == []


def test_the_template_ships_with_the_package():
    assert (Path(__file__).parents[2] / "src/openwork/study/report/page.html").is_file()
