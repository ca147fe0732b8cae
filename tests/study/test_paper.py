import json
import re

import pytest
from typer.testing import CliRunner

from openwork.cli import app
from openwork.study.published.rows import Published, checkpoints
from openwork.study.report.paper import budget_panel, figure


def drawn(spec: dict) -> list[dict]:
    return [value for values in spec["datasets"].values() for value in values]


def test_figures_show_frontiers_over_all_points():
    rows = [
        Published("resnet50", "magnitude_pruning", sparsity, score, {"begin": 0.0}, "", "")
        for sparsity, score in ((0.5, 76.0), (0.5, 75.0), (0.9, 70.0))
    ]
    values = [
        v for v in drawn(figure(rows, "resnet50", "Figure 3", ["magnitude_pruning"]).to_dict()) if "sparsity" in v
    ]
    assert [(v["score"], v["frontier"]) for v in values] == [(76.0, True), (75.0, False), (70.0, True)]
    assert values[0]["settings"] == "begin=0"


def test_budget_panels_hold_both_readings():
    rows = [Published("resnet50", "variational_dropout", 0.9, 60.0, {"coefficient": 1.0}, "", "")]
    first = next(v for v in drawn(budget_panel(rows, "resnet50", 0.9).to_dict()) if v["technique"] != "L0")
    assert (first["technique"], first["n"], first["low"], first["high"]) == (
        *("variational dropout", 1), pytest.approx(60 / 180), 60.0,
    )  # fmt: skip


def test_one_command_writes_the_figures_of_the_readme_s_models(tmp_path):
    answer = CliRunner().invoke(app, ["published", "--out", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    figures = [f"figure-{n}.{kind}" for n in (1, 3, 5, 6) for kind in ("png", "svg")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*figures, "index.html"]
    assert len(json.loads(answer.stdout)["published"]) == 9
    text = (tmp_path / "index.html").read_text()
    specs = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))
    assert list(specs) == ["figure-1", "figure-3", "figure-5", "figure-6-transformer", "figure-6-resnet50"]
    shown = [v for v in drawn(specs["figure-1"]) if "sparsity" in v]
    assert len(shown) == sum(model.model == "transformer" for model in checkpoints()) == 28
