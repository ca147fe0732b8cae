"""The benchmark of training steps: every variant trains, processes take turns, and unequal dense steps are refused."""

import argparse
import csv
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPT = FOLDER / "training_step.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("training_step")


class Fake:
    """A process that has what it will have measured, one number a turn."""

    def __init__(self, *turns: float, seconds: float = 0.0, gib: float | None = None) -> None:
        self.turns, self.seconds, self.gib, self.ended = list(turns), seconds, gib, False

    def compiled(self) -> float:
        for _ in range(int(100 * self.seconds)):
            if self.ended:
                raise importlib.import_module("step.served").VariantError("ended")
            time.sleep(0.01)
        return self.seconds

    def measure(self):
        value = self.turns.pop(0)
        if not value:
            raise importlib.import_module("step.served").VariantError("RuntimeError: it does not run")
        memory = {("", "GiB", ""): [self.gib]} if self.gib else {}
        return memory | {("", "ms a step", ""): [value] * 3}

    def log(self) -> str:
        return "Traceback"

    def end(self) -> None:
        self.ended = True


def run(benchmark: ModuleType, path: Path, fakes: dict[str, Fake], **options: object) -> list[str]:
    """The models that are refused, of a run of one model."""
    chosen = argparse.Namespace(
        device="cpu", jobs=4, seconds=60, compile_seconds=5, turn_seconds=5, small=False, out=path, log=None
    )
    vars(chosen).update(options)
    made = benchmark.Run(chosen, lambda model, variant: fakes[variant])
    made.compile([("resnet50", name) for name in fakes])
    made.model("resnet50", [name for name in fakes if name != "dense"])
    made.end()
    assert all(fake.ended for fake in fakes.values())
    return made.refused


def ratios(path: Path) -> dict[tuple[str, str], str]:
    """By variant and unit, the last column of the table of a file."""
    lines = importlib.import_module("raw").table(path).splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {(each[0].removeprefix("ResNet-50: "), each[1]): each[-1] for each in cells}


def test_ratios_are_to_all_dense_steps_before_between_and_after(benchmark, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    fakes = {"dense": Fake(100, 101, 100, gib=10), "L0": Fake(103, gib=11), "naive L0": Fake(200, gib=15)}
    assert run(benchmark, path, fakes) == []
    with path.open(newline="") as file:
        order = [line["variant"] for line in csv.DictReader(file) if line["unit"] == "ms a step"]
    names = ["dense 1", "L0", "dense 2", "naive L0", "dense 3", "dense"]
    assert [name.removeprefix("ResNet-50: ") for name in order] == names
    found = ratios(path)
    assert found["L0", "ms a step"] == "1.030"
    assert found["naive L0", "ms a step"] == "2.000"
    assert found["naive L0", "GiB"] == "1.500"
    assert "1.030" in capsys.readouterr().out


@pytest.mark.parametrize("turns", [(100, 100, 103), (103, 100, 100), (100, 103, 100), (100, 0, 0)], ids=str)
def test_a_run_whose_dense_steps_differ_by_more_than_2_percent_is_refused(benchmark, tmp_path, turns, capsys):
    path = tmp_path / "rows.csv"
    assert run(benchmark, path, {"dense": Fake(*turns), "L0": Fake(104), "naive L0": Fake(200)}) == ["ResNet-50"]
    found = ratios(path)
    assert found["L0", "ms a step"] == "–"
    assert ("dense, refused", "ms a step") in found
    assert ("dense", "ms a step") not in found
    assert "REFUSED" in capsys.readouterr().out


def test_dense_steps_2_percent_apart_are_not_refused(benchmark):
    assert benchmark.spread([[100.0, 90.0, 110.0], [102.0], [101.0]]) == pytest.approx(0.02)
    assert benchmark.spread([[100.0]]) is None


def test_a_variant_that_does_not_run_is_named_and_the_others_are_timed(benchmark, tmp_path, capsys):
    path, log = tmp_path / "rows.csv", tmp_path / "log.txt"
    fakes = {"dense": Fake(100, 100, 100), "L0": Fake(0), "naive L0": Fake(200)}
    assert run(benchmark, path, fakes, log=log) == []
    assert "resnet50: L0: RuntimeError: it does not run" in capsys.readouterr().err
    assert "Traceback" in log.read_text()
    assert ratios(path)["naive L0", "ms a step"] == "2.000"
    assert not any(name == "L0" for name, _ in ratios(path))


def test_a_variant_that_compiles_too_long_is_ended_and_left_out(benchmark, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    fakes = {"dense": Fake(100, 100, 100), "L0": Fake(103), "naive L0": Fake(200, seconds=10)}
    assert run(benchmark, path, fakes, compile_seconds=0.3) == []
    assert "resnet50: naive L0: left out, it had not compiled after 0.3 seconds" in capsys.readouterr().err
    assert ratios(path)["L0", "ms a step"] == "1.030"


def test_after_its_time_a_run_begins_nothing_but_the_last_dense_steps(benchmark, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    assert run(benchmark, path, {"dense": Fake(100), "L0": Fake(103)}, seconds=0) == ["ResNet-50"]
    assert "L0: left out, 0 seconds are over" in capsys.readouterr().err
    assert [name for name, _ in ratios(path)] == ["dense 1", "dense, refused"]


def test_a_dense_model_that_does_not_run_leaves_no_ratio(benchmark, tmp_path):
    path = tmp_path / "rows.csv"
    assert run(benchmark, path, {"dense": Fake(0), "L0": Fake(103)}) == ["ResNet-50"]
    assert not path.exists()


@pytest.mark.parametrize("model", ["resnet50", "transformer-2k"])
def test_every_variant_trains(benchmark, model, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # which looks through all that the tests have imported, 33 times
    timed, variants = (importlib.import_module(f"step.{name}") for name in ("timed", "variants"))
    for name in variants.BY_DEFAULT:
        try:
            work = timed.TimedStep(model, name, torch.device("cpu"), small=True, backend="none")
        except RuntimeError:
            assert (model, name) == ("resnet50", "torch.ao.pruning")  # it knows no convolutions
            continue
        work.compile()
        before = [parameter.detach().clone() for parameter in work.model.parameters()]
        (times,) = work.measure(timed.Counts(warmup=0, steps=2)).values()
        assert len(times) == 2
        moved = [not torch.equal(*pair) for pair in zip(before, work.model.parameters(), strict=True)]
        assert any(moved), name


@pytest.mark.parametrize("penalty", ["variational_dropout", "l0"])
def test_naive_layers_compute_what_the_techniques_do(benchmark, penalty):
    import openwork as ow

    naive = importlib.import_module("step.naive")
    kind = {"variational_dropout": naive.NaiveVariationalDropout, "l0": naive.NaiveL0}[penalty]
    technique = {"variational_dropout": ow.VariationalDropout, "l0": ow.L0}[penalty](ow.Constant(1.0))
    torch.manual_seed(0)
    theirs, ours = (torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Linear(40, 5)) for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    value = naive.wrap(theirs, kind, -3.0)
    sparsifier = ow.sparsify(ours, technique)
    for layer in ours:
        for learned in layer.reparam.weight.parameters():
            learned.data.fill_(-3.0)
    assert sparsifier.penalty().item() == pytest.approx(value().item(), rel=1e-4)
    if kind is naive.NaiveVariationalDropout:
        x = torch.randn(1, 30).expand(20_000, 30)
        with torch.no_grad():
            stds = [model.train()[0](x).std(0) for model in (theirs, ours)]
        assert torch.allclose(*stds, rtol=0.05)  # 10 sigma of a deviation of 20,000 draws


def test_tied_weights_are_penalised_once(benchmark):
    naive = importlib.import_module("step.naive")
    embedding, softmax = torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False)
    softmax.weight = embedding.weight
    model = torch.nn.ModuleDict({"embedding": embedding, "softmax": softmax})
    alone = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(7, 3)})
    assert naive.wrap(model, naive.NaiveL0, 0.0)().item() == naive.wrap(alone, naive.NaiveL0, 0.0)().item()
    assert len(list(model.parameters())) == 2


def test_a_flag_of_the_compiler_that_is_not_there_is_refused(benchmark):
    timed = importlib.import_module("step.timed")
    config = importlib.import_module("torch._functorch.config")
    with config.patch(ban_recompute_materialized_backward=True):  # monkeypatch would leave torch without the setting
        timed.set_flags(["functorch.ban_recompute_materialized_backward=False"])
        assert config.ban_recompute_materialized_backward is False
    with pytest.raises(ValueError, match="has no 'no_such_flag'"):
        timed.set_flags(["functorch.no_such_flag=1"])


def test_what_finds_no_memory_tries_again_and_other_errors_are_errors(benchmark, monkeypatch):
    timed = importlib.import_module("step.timed")
    monkeypatch.setattr(timed.time, "sleep", lambda seconds: None)
    tries: list[int] = []

    def full_twice() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return "done"

    assert timed.patiently(full_twice) == "done"
    with pytest.raises(RuntimeError, match="shapes"):
        timed.patiently(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")))


def script(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), "--small", "--out", "rows.csv", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_processes_are_timed_one_by_one_and_their_rows_are_kept(tmp_path):
    models, variants = ["transformer-2k", "operations"], ["dense", 'masks, hidden="frozen"']
    answer = script(
        *("--models", *models, "--variants", *variants, "--backend", "none", "--warmup", "1", "--steps", "3"),
        folder=tmp_path,
    )
    assert answer.returncode in (0, 1), answer.stderr  # dense steps on a shared CPU may differ
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    title = "Transformer, 2,048 tokens, one graph, small: "
    names = [row["variant"].removeprefix(title) for row in rows]
    assert names[-4:-1] == ["dense 1", 'masks, hidden="frozen"', "dense 2"]
    assert names[-1] in ("dense", "dense, refused")
    assert (names[-1] == "dense") == (answer.returncode == 0)
    assert "mask update, all of ResNet-50: openwork" in names
    assert "value and gradient of 61 million weights: KL" in names
    for row in rows[:-1]:
        assert len(row["values"].split()) == 3
        assert median(map(float, row["values"].split())) > 0
        assert "--small" in row["command"]


@pytest.mark.slow
def test_the_whole_benchmark_runs_compiled_on_a_cpu(tmp_path):
    answer = script(
        "--backend", "aot_eager", "--warmup", "1", "--steps", "3", "--compile-seconds", "900", folder=tmp_path
    )
    assert answer.returncode in (0, 1), answer.stderr
    failures = [line for line in answer.stderr.splitlines() if "Error" in line]
    assert all("torch.ao.pruning" in line for line in failures), failures


def written(path: Path, benchmark: ModuleType, rows: list[tuple[str, str, str, float]]) -> None:
    raw = importlib.import_module("raw")
    for variant, unit, reference, value in rows:
        raw.keep(path, {variant: [value] * 2}, unit=unit, device=torch.device("cpu"), reference=reference)


def test_the_page_has_ratios_of_medians_and_none_of_what_was_refused(benchmark, tmp_path):
    page, path = importlib.import_module("training_page"), tmp_path / "rows.csv"
    written(
        path,
        benchmark,
        [
            ("R: dense", "GiB", "R: dense", 10.0),
            ("R: dense 1", "ms a step", "R: dense", 40.0),
            ('R: masks, hidden="lost"', "GiB", "R: dense", 10.5),
            ('R: masks, hidden="lost"', "ms a step", "R: dense", 41.0),
            ("R: dense 2", "ms a step", "R: dense", 40.0),
            ("R: dense", "ms a step", "", 40.0),
            ("T, 2: dense 1", "ms a step", "T, 2: dense", 30.0),
            ('T, 2: masks, hidden="lost"', "ms a step", "T, 2: dense", 33.0),
            ("T, 2: L0", "ms a step", "T, 2: dense", 33.0),
            ("T, 2: dense, refused", "ms a step", "", 30.0),
            ("KL: a copy", "ms", "", 0.25),
            ("KL: value and gradient", "ms", "KL: a copy", 0.3),
        ],
    )
    lines = page.cost_table(path).splitlines()
    assert "n = 2 steps each:" in lines[0]
    assert lines[2:] == [
        "| | R | memory | T, 2 | memory |",
        "|---|---|---|---|---|",
        "| dense | 40.00 ms | 10.00 GiB | refused | – |",
        '| masks, hidden="lost" | 1.025 | 1.05 | refused | – |',
        "| L0 | – | – | refused | – |",
    ]
    assert page.operation_table(path).splitlines()[2:] == [
        "| KL: a copy | 0.250 | – |",
        "| KL: value and gradient | 0.300 | 1.20 |",
    ]


def test_a_file_with_two_runs_of_a_model_is_refused(benchmark, tmp_path):
    page, path = importlib.import_module("training_page"), tmp_path / "rows.csv"
    written(path, benchmark, 2 * [("R: L0", "ms a step", "R: dense", 40.0)])
    with pytest.raises(ValueError, match="has 'R: L0' twice"):
        page.read(path)


@pytest.mark.parametrize("machine", ["h200", "h100"])
def test_the_page_on_performance_has_what_its_rows_give(benchmark, machine):
    page = importlib.import_module("training_page")
    text = (page.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.replaced(text, f"training {machine}", page.page_part(machine)) == text


def test_the_page_of_the_benchmarks_has_the_rows_of_training_steps(benchmark):
    page = importlib.import_module("training_page")
    text = (page.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert page.replaced(text, "training rows", page.readme_part()) == text


@pytest.mark.gpu
def test_small_steps_are_captured_and_timed_on_a_gpu(tmp_path):
    models = ["resnet50", "transformer-2k", "operations"]
    variants = ["dense", 'masks, hidden="frozen"', "L0", "variational dropout, fast", "variational dropout, small"]
    few = ("--backend", "aot_eager", "--warmup", "2", "--steps", "3", "--device", "cuda")
    answer = script("--models", *models, "--variants", *variants, *few, folder=tmp_path)
    assert answer.returncode in (0, 1), answer.stderr  # three short steps may differ
    assert "Error" not in answer.stderr, answer.stderr
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for title in ("ResNet-50", "Transformer, 2,048 tokens, one graph"):
        for name in variants[1:]:
            assert {row["unit"] for row in rows if row["variant"] == f"{title}, small: {name}"} == {"ms a step", "GiB"}


@pytest.mark.parametrize(
    "arguments",
    [
        "--steps 0",
        "--steps -3",
        "--steps 1.5",
        "--warmup -1",
        "--jobs 0",
        "--threads 0",
        "--seconds nan",
        "--turn-seconds inf",
        "--compile-seconds 0",
        "--device nope",
        "--device cuda:99",
        "--models resnet51",
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_compiles(benchmark, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments.split())
    assert stopped.value.code == 2
    assert f"argument {arguments.split()[0]}: " in capsys.readouterr().err


def test_no_step_to_warm_up_is_a_number_of_steps(benchmark):
    assert benchmark.parser().parse_args(["--warmup", "0"]).warmup == 0
