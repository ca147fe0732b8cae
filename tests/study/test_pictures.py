"""The pictures of runs: what is drawn, pixel by pixel where that can be counted."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import openwork as ow
from openwork.study.report.pictures import write_pictures
from openwork.study.report.weights import ZERO, colours, panels
from openwork.study.results.history import read_snapshots, write_snapshot
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

PRUNE = ow.GradualMagnitude(ow.Cubic(0.9, begin=10, end=50, every=10))
RUN = Run(DigitsLeNet300100(), PRUNE, steps=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 60 steps with snapshots at 0, 20, 40 and 60."""
    directory = tmp_path_factory.mktemp("runs")
    execute(RUN, directory, evaluations=6, snapshots=3)
    return directory / RUN.id


@pytest.fixture(scope="module")
def drawn(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    return out, *write_pictures([folder], out)


def zeros_drawn(image: Image.Image | np.ndarray) -> int:
    return int((np.asarray(image) == ZERO).all(-1).sum())


def test_the_pictures_of_a_run(drawn):
    out, written, missing = drawn
    assert written == [
        "weights.png", "weights.gif",
        "layers.png", "layers.svg", "density.png", "density.svg", "flops.png", "flops.svg",
    ]  # fmt: skip
    assert sorted(written) == sorted(path.name for path in out.iterdir())
    assert missing == []
    with Image.open(out / "weights.png") as sheet:
        assert sheet.size == (24 + 4 * 324 + 200, 3 * 44 + 2 * (44 + 300 + 66))
    with Image.open(out / "weights.gif") as animation:
        assert animation.n_frames == 4
        assert animation.size == (24 + 2 * 324, 300 + 150)
    assert "fc2" in (out / "layers.svg").read_text()


def test_each_zero_is_drawn_in_its_colour_and_nothing_else_is(folder, drawn):
    snapshots = read_snapshots(folder)
    shown, missing = panels(snapshots)
    assert missing == []
    pieces = {"fc1.weight": (np.s_[:25], 7 * 7), "fc2.weight": (np.s_[:, 100:200], 3 * 3)}  # pixels of a weight
    numbers = []
    for panel in shown:
        piece, pixels = pieces[panel.name]
        zeros = [int((snapshot.weight(panel.name)[piece] == 0).sum()) for snapshot in snapshots]
        assert zeros == sorted(zeros)
        assert zeros[0] == 0 < zeros[1] < zeros[3]
        numbers += [pixels * number for number in zeros]
        assert numbers[-4:] == [zeros_drawn(colours(image, panel.limit)) for image in panel.images]
        assert panel.sparsity[3] == 0.9
    with Image.open(drawn[0] / "weights.png") as sheet:
        legends = 2 * 26 * 26  # of the two swatches, less their outlines
        assert zeros_drawn(sheet) == sum(numbers) + legends


def test_colours_by_hand():
    weights = np.array([[-2, -1, -0.25, 0, np.nan, 1e-9, 0.25, 1, 2]], np.float32)
    (found,) = colours(weights, 1.0).tolist()
    blue, pale_blue, white, pale_red, red = (5, 113, 176), (146, 197, 222), (255,) * 3, (244, 165, 130), (202, 0, 32)
    assert [tuple(c) for c in found] == [blue, blue, pale_blue, ZERO, white, white, pale_red, red, red]
    assert zeros_drawn(colours(np.linspace(1e-6, 1, 9999, dtype=np.float32)[None] * [[1], [-1]], 1.0)) == 0


def test_kernels_are_drawn_channel_beside_channel_and_odd_shapes_are_named(tmp_path):
    kernel = torch.arange(1.0, 2 * 3 * 2 * 2 + 1).view(2, 3, 2, 2)
    image, sequence = tmp_path / "image", tmp_path / "sequence"
    for folder in (image, sequence):
        folder.mkdir()
    write_snapshot(image, 0, {"z.conv": kernel, "a.fc": torch.zeros(7, 5)})  # safetensors would begin with a.fc
    (filters, piece), missing = panels(read_snapshots(image))
    assert missing == []
    assert (filters.name, filters.what) == ("z.conv", "all 2 filters, 3 of 3 channels each")
    height = 2 * (56 // 6)  # two weights high; a filter of six weights fits into 56 pixels 9 times enlarged
    assert filters.images[0].shape == (height, 2 * 54 + 5)
    assert filters.images[0][0, :54:9].tolist() == [1, 2, 5, 6, 9, 10]
    assert (piece.name, piece.limit, piece.sparsity) == ("a.fc", 1.0, [1.0])
    write_snapshot(sequence, 1, {"conv1d": torch.ones(4, 3, 3)})
    assert panels(read_snapshots(sequence))[1] == [
        "no filters: conv1d (4, 3, 3) is neither a kernel over images nor over square images",
        "no piece of a matrix: none of the selected weights is one",
    ]


def test_what_cannot_be_drawn_is_said_with_its_cure(tmp_path):
    dense = Run(DigitsLeNet300100(), None, steps=4)
    execute(dense, tmp_path)
    written, missing = write_pictures([tmp_path / dense.id], tmp_path / "out")
    assert written == []
    assert "has no snapshots; train it in another folder with --snapshots 5" in missing[0]
    assert [sentence.split(":")[0] for sentence in missing[1:]] == ["no layers", "no density", "no flops"]
    with pytest.raises(ValueError, match=r"out is no run's directory; give one that `openwork run` made"):
        write_pictures([tmp_path / "out"], tmp_path)


def test_several_runs_share_charts_and_each_keeps_its_name(folder, tmp_path):
    other = Run(DigitsLeNet300100(), PRUNE, steps=20, seed=0)
    execute(other, tmp_path, snapshots=1)
    metrics = tmp_path / other.id / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    for row in rows:
        del row["expected_flops"]  # as metrics were before
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    written, missing = write_pictures([folder, tmp_path / other.id], out)
    assert {f"weights-{folder.name}.png", f"weights-{other.id}.gif", "layers.svg", "flops.png"} <= set(written)
    assert len(missing) == 1
    assert f"not in metrics.jsonl of {other.id}, as" in missing[0]
    density = (out / "density.svg").read_text()
    assert "steps=20" in density  # technique, task and seed are the same
    assert "steps=60" in density


def test_accuracy_and_sparsity_against_a_field(tmp_path):
    folders = []
    for final, seed in ((0.5, 0), (0.5, 1), (0.9, 0)):
        schedule = ow.Cubic(final, begin=1, end=3)
        run = Run(DigitsLeNet300100(), ow.GradualMagnitude(schedule), steps=4, seed=seed)
        execute(run, tmp_path, evaluations=1)
        folders.append(tmp_path / run.id)
    written, missing = write_pictures(folders, tmp_path / "out", field="technique.schedule.final")
    assert (written, missing) == (["against.png", "against.svg"], [])
    drawn = re.findall(r"x: ([\d.]+); y: 50; technique", (tmp_path / "out" / "against.svg").read_text())
    assert drawn == ["0.5"] * 4  # a place of the line, its mark, and two single runs
    assert write_pictures(folders, tmp_path / "out", field="task.batch_size")[1] == []  # all have the default
    with pytest.raises(ValueError, match=r"no finished run has a number at task\.width; give a field of run\.json"):
        write_pictures(folders, tmp_path / "out", field="task.width")
