"""The command line as a user types it: real processes, exit codes, one sentence for each error."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

import openwork as ow
from tests.processes import openwork
from tests.programs import mylab


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    shutil.copy(mylab.__file__, folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """One variational-dropout run and its result."""
    answer = openwork(folder, "run", "mylab:variational", "seed=2", "steps=60", "--out", "runs", "--json")
    (result,) = json.loads(answer.stdout)["runs"]
    return folder / "runs" / result["id"], result


def test_run_applies_overrides_and_resumes_finished_runs(folder, trained):
    _, result = trained
    assert (result["seed"], result["step"], result["status"]) == (2, 60, "finished")
    again = openwork(folder, "run", "mylab:variational", "seed=2", "steps=60", "--out", "runs")
    assert result["id"] in again.stdout
    assert f"{result['after']['accuracy']:.2%}" in again.stdout
    assert str((folder / "runs").resolve()) in again.stdout.replace("\n", "")


def test_run_takes_deterministic_kernels_where_it_should(folder):
    openwork(folder, "run", "mylab:deterministic", "--deterministic", "--out", "exact")
    openwork(folder, "run", "mylab:deterministic", "--out", "inexact", code=3)


def test_eval_thresholds_a_checkpoint(folder, trained):
    path, result = trained
    thresholds = ("--threshold", "-99", "--threshold", "3", "--threshold", "3")
    rows = json.loads(openwork(folder, "eval", str(path), *thresholds, "--json").stdout)["evaluated"]
    assert [row["threshold"] for row in rows] == [-99, 3]
    assert rows[0]["sparsity"] == 1.0
    assert rows[1]["accuracy"] == result["after"]["accuracy"]
    assert f"{result['after']['accuracy']:.2%}" in openwork(folder, "eval", str(path)).stdout


def test_eval_keeps_the_thresholds_of_a_run_s_directory_as_rows(folder):
    (result,) = json.loads(openwork(folder, "run", "mylab:variational", "--out", "kept-at", "--json").stdout)["runs"]
    run = folder / "kept-at" / result["id"]
    openwork(folder, "eval", str(run))
    answer = openwork(folder, "eval", str(run / "checkpoint.pt"), "--threshold", "-99")
    assert "not kept: give the run's directory instead of a file" in answer.stderr
    assert not (run / "thresholds.json").exists()
    answer = openwork(folder, "eval", str(run), "--threshold", "-99", "--threshold", "3", "--json")
    assert "kept in" in answer.stderr
    own, other = json.loads(openwork(folder, "results", "kept-at", "--json").stdout)["rows"]
    assert (own["id"], other["id"]) == (result["id"], f"{result['id']}@-99")
    assert (other["after_sparsity"], other["sparsity_selected"], other["seconds"]) == (1.0, 1.0, 0.0)
    assert other["settings"] == "coefficient=Constant(final=0.0001), threshold=-99, steps=40"
    assert other["after_accuracy"] == json.loads(answer.stdout)["evaluated"][0]["accuracy"]


def test_inspect_counts_a_run_and_its_files(folder, trained):
    path, result = trained
    for target in (path, path / "model.safetensors", path / "checkpoint.pt"):
        counts = json.loads(openwork(folder, "inspect", str(target), "--json").stdout)
        assert counts["sparsity"] == result["sparsity"]
        assert counts["parameters"] == 50_610
    table = openwork(folder, "inspect", str(path)).stdout
    assert "fc1.weight" in table
    assert "all parameters" in table


def test_export_writes_a_run_with_its_technique_and_sparsities(folder, trained):
    path, result = trained
    plain = ow.load(path / "model.safetensors")
    for target, about in ((path, True), (path / "checkpoint.pt", True), (path / "model.safetensors", False)):
        answer = openwork(folder, "export", str(target), "--to", "sparse", "--out", "small.safetensors", "--json")
        sizes = json.loads(answer.stdout)
        assert sizes["file_bytes"] < 0.9 * sizes["dense_bytes"] == 0.9 * 4 * 50_610
        found = ow.load(folder / "small.safetensors")
        assert found.keys() == plain.keys()
        assert all(found[name].equal(plain[name]) for name in plain)
        with safe_open(folder / "small.safetensors", "pt") as file:
            said = file.metadata()
        assert ("run" in said) == about
        if about:
            assert (said["run"], said["technique"]) == (result["id"], result["name"])
            assert said["settings"] == result["settings"]
            layers = {layer["name"]: round(layer["sparsity"], 6) for layer in result["layers"]}
            assert json.loads(said["sparsity"]) == layers
    openwork(folder, "export", str(path), "--to", "dense", "--out", "plain.safetensors")
    assert load_file(folder / "plain.safetensors").keys() == plain.keys()


def test_a_list_of_runs_and_a_report(folder):
    results = json.loads(openwork(folder, "run", "mylab:two", "--out", "two", "--json").stdout)["runs"]
    assert [(r["seed"], r["after"]["sparsity"]) for r in results] == [(0, 0.5), (1, 0.5)]
    page = Path(json.loads(openwork(folder, "report", "two", "--json").stdout)["report"])
    assert page == folder.resolve() / "two" / "report" / "index.html"
    assert "RandomPruning" in page.read_text()


def test_a_start_is_trained_first_and_listed_once(folder):
    results = json.loads(openwork(folder, "run", "mylab:pretrained", "seed=4", "--out", "start", "--json").stdout)[
        "runs"
    ]
    assert [(r["name"], r["step"], r["seed"]) for r in results] == [
        ("dense", 5, 4), ("RandomPruning", 6, 4), ("RandomPruning", 7, 4),
    ]  # fmt: skip
    assert results[1]["settings"] == "schedule=OneShot(final=0.5), steps=6, origin=Pretrained(dense(steps=5))"


def test_a_diverged_run_has_an_exit_code_of_its_own(folder):
    answer = openwork(folder, "run", "mylab:diverging", "--out", "nan", code=3)
    assert "diverged" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "mylab"], "expected module:name, got 'mylab'"),
        (["run", "nowhere:x"], "there is no module 'nowhere'"),
        (["run", "mylab:nothing"], "mylab has no 'nothing'; it has variational, two"),
        (["run", "mylab:with_argument"], "must be callable without arguments"),
        (["run", "mylab:not_a_run"], "must return a Run or a list of them, got 3"),
        (["run", "mylab:variational", "--device", "gpu9"], "unknown device 'gpu9'; give cpu, cuda"),
        (["run", "mylab:variational", "--out", "mylab.py"], "cannot use mylab.py"),
        (["bleu", "no.txt", "x"], "cannot use no.txt: no such file or directory; make it usable or give another"),
        (["run", "mylab:variational", "--out", "/proc/nowhere"], "cannot use /proc/nowhere"),
        (["eval", "nothing"], "no checkpoint nothing; give a run's directory"),
        (["inspect", "nothing.pt"], "no checkpoint file nothing.pt"),
        (["inspect", "mylab.py"], "mylab.py is not a readable torch checkpoint"),
        (["report", "nothing"], "nothing"),
        (
            ["pictures", "nothing"],
            "there is no run nothing in openwork-runs; `openwork list openwork-runs` shows those",
        ),
        (["run", "mylab:variational", "--snapshots", "21"], "snapshots must be from 0 to the 20 evaluations, got 21"),
    ],
)
def test_bad_input_gives_one_sentence(folder, arguments, sentence):
    answer = openwork(folder, *arguments, code=2)
    error = " ".join(answer.stderr.split())
    assert error.startswith("error: ")
    assert sentence in error


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sed=1", "Run has no field 'sed'; it has task, technique, steps"),
        ("technique.coefficient.final=-1", "coefficient must be >= 0, got -1"),
        ("steps", "expected field=value, got 'steps'"),
        ("steps=x", "'steps=x' needs a value of type int"),
        ("steps=true", "'steps=true' needs a value of type int"),
        ("seed=none", "'seed=none' needs a value of type int"),
        ("seed=-1", "a run's seed must be from 0 to 4294967295, got -1"),
        ("seed=0,4294967296", "a run's seed must be from 0 to 4294967295, got 4294967296"),
        ("task.batch_size=0", "batch_size of DigitsLeNet300100 must be more than 0, got 0"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(folder, setting, sentence):
    answer = openwork(folder, "run", "mylab:variational", setting, "--out", "never", code=2)
    assert sentence in answer.stderr
    assert not (folder / "never").exists()


def test_pictures_draws_the_snapshots_of_a_run(folder):
    arguments = ["steps=20", "--snapshots", "2", "--evaluations", "2", "--out", "kept", "--json"]
    (result,) = json.loads(openwork(folder, "run", "mylab:variational", *arguments).stdout)["runs"]
    answer = openwork(folder, "pictures", f"kept/{result['id']}", "--out", "drawn")
    assert "weights.png, weights.gif, layers.png" in answer.stdout
    assert (folder / "drawn" / "weights.gif").read_bytes().startswith(b"GIF89a")
    assert (folder / "drawn" / "flops.svg").is_file()


def test_a_threshold_needs_variational_dropout(folder):
    (result,) = json.loads(openwork(folder, "run", "mylab:two", "seed=5", "--out", "one", "--json").stdout)["runs"][:1]
    answer = openwork(folder, "eval", f"one/{result['id']}", "--threshold", "1", code=2)
    assert "--threshold is for variational dropout; this run trained RandomPruning" in answer.stderr


def test_a_checkpoint_imports_only_what_the_user_trusts(folder):
    (result,) = json.loads(openwork(folder, "run", "mylab:mine", "--out", "mine", "--json").stdout)["runs"]
    checkpoint = f"mine/{result['id']}/checkpoint.pt"
    for command in ("eval", "inspect"):
        answer = openwork(folder, command, checkpoint, code=2)
        assert "'mylab' is not trusted; pass --trust mylab if it is yours" in answer.stderr
        openwork(folder, command, checkpoint, "--trust", "mylab")


def test_usage_errors_have_exit_code_2(folder):
    openwork(folder, "run", code=2)
    openwork(folder, "eval", "x", "--threshold", "much", code=2)
