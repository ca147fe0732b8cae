"""What a user expects of any command: quick help, errors that name a place, and a way on after Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import openwork as ow
from openwork.cli.common import yield_cores
from openwork.cli.errors import sentence
from openwork.study.experiments import cifar10, cifar10_resnet, mnist, number_words, quickstart, resnet50, transformer
from openwork.study.results.budget import expected_best
from openwork.study.runs.run import Run
from openwork.study.runs.unfinished import unfinished_schedules
from tests.processes import openwork, start_openwork
from tests.study import tinylab
from tests.study.tinylab import PRUNE, Tiny

LAB = """
from dataclasses import dataclass
import openwork as ow
from mylab import Run, Tiny

@dataclass(frozen=True)
class Text(Tiny):
    def loss(self, model, batch):
        return model(batch[0]) + "x"

@dataclass(frozen=True)
class Shape(Tiny):
    def loss(self, model, batch):
        return model(batch[0][:, :1]).sum()

@dataclass(frozen=True)
class Unpacked(Tiny):
    def loss(self, model, batch):
        a, b, c = batch

def text(): return Run(Text(), None, steps=3)
def shape(): return Run(Shape(), None, steps=3)
def unpacked(): return Run(Unpacked(), None, steps=3)
def key(): return {}["a"]
def unended(): return Run(Tiny(), ow.GradualMagnitude(ow.Cubic(0.5, end=40)), steps=20)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("habits")
    shutil.copy(tinylab.__file__, folder / "mylab.py")
    (folder / "wrong.py").write_text(LAB)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["--version"], ["run", "--help"]],  # tests/cli/test_help.py has every command's
)
def test_help_does_not_wait_for_torch(arguments):
    program = (
        "import sys; sys.argv = ['openwork', *sys.argv[1:]]\n"
        "from openwork.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert not {'torch', 'numpy', 'altair', 'scipy'} & sys.modules.keys()"
    )
    answer = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert "openwork" in answer.stdout.lower()


def test_the_public_names_are_there_all_the_same():
    program = (
        "import sys, openwork as ow; assert 'torch' not in sys.modules; assert 'L0' in dir(ow)\n"
        "from openwork import *; assert RigL is ow.RigL and report is ow.report\n"
        "try: ow.Rigl\n"
        "except AttributeError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "module 'openwork' has no attribute 'Rigl'\n"


def test_version(folder):
    assert openwork(folder, "--version").stdout == f"openwork {ow.__version__}\n"


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("text", 9, "TypeError: unsupported operand type(s) for +: 'Tensor' and 'str'"),
        ("shape", 14, "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),  # raised by torch
        ("unpacked", 19, "not enough values to unpack (expected 3, got 2)"),
        ("key", 24, "KeyError: 'a'"),
    ],
)
def test_an_error_in_the_user_s_code_is_a_sentence_with_its_place(folder, name, line, said):
    error = openwork(folder, "run", f"wrong:{name}", code=1).stderr
    assert f"error: {said}" in error
    assert f"{folder / 'wrong.py'}, line {line}, in " in error
    assert "OPENWORK_TRACEBACK=1 shows the traceback" in error


def test_a_bug_of_openwork_keeps_its_traceback():
    with pytest.raises(TypeError) as caught:
        expected_best([0.5], "1")
    assert sentence(caught.value) is None


def test_a_traceback_on_request(folder, monkeypatch):
    monkeypatch.setenv("OPENWORK_TRACEBACK", "1")
    process = start_openwork(folder, "run", "wrong:text")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Traceback (most recent call last)" in errors


@pytest.mark.parametrize(
    ("number", "code", "command"),
    [
        (signal.SIGINT, 130, ["run", "mylab:slow"]),
        (signal.SIGTERM, 143, ["run", "mylab:slow"]),
        (signal.SIGTERM, 143, ["sweep", "mylab:slow"]),
    ],
)
def test_what_stops_a_command_is_told_that_the_same_command_goes_on(folder, number, code, command):
    out = folder / f"{command[0]}-{code}"
    process = start_openwork(folder, *command, "--out", str(out))
    while not list(out.glob("*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    said = " ".join(errors.split())
    assert f"stopped; what is done is kept in {out.resolve()}, and the same command goes on from there" in said
    assert "Traceback" not in errors
    assert not list(out.glob("*/lock"))
    assert not list(out.glob("*/.*"))


def test_a_schedule_that_ends_after_its_run_is_named_at_the_start(folder):
    sentence = "GradualMagnitude: technique.schedule comes to 0.5 at step 40, after the run's 20 steps; train longer"
    for command in (["run", "wrong:unended"], ["sweep", "wrong:unended"], ["sweep", "wrong:unended", "--dry-run"]):
        assert openwork(folder, *command, "--out", "unended").stderr.count(sentence) == 1
    errors = openwork(folder, "run", "wrong:unended", "steps=1", "--out", "unended").stderr
    assert "after the run's 1 step; train longer" in errors
    assert "warning" not in openwork(folder, "run", "wrong:unended", "steps=40", "--out", "unended").stderr


def test_every_kind_of_schedule_is_looked_at_once_for_all_seeds():
    late = ow.Linear(0.9, end=30)
    techniques = [
        ow.GradualMagnitude(late),
        ow.RigL(ow.OneShot(0.5, at=25)),
        ow.L0(late),
        ow.VariationalDropout(late),
        ow.SoftWeightSharing(ow.Constant(1.0)),
        PRUNE,
        None,
    ]
    runs = [Run(Tiny(), technique, steps=20, seed=seed) for technique in techniques for seed in (0, 1)]
    said = unfinished_schedules(runs)
    assert [sentence.partition(" comes to ")[0] for sentence in said] == [
        "GradualMagnitude: technique.schedule",
        "RigL: technique.schedule",
        "L0: technique.coefficient",
        "VariationalDropout: technique.coefficient",
    ]


def test_our_own_experiments_finish_their_schedules():
    runs = [*quickstart.runs(), *mnist.table(), *cifar10.vgg(), *cifar10.wide_resnet(), *number_words.runs()]
    runs += [*cifar10_resnet.comparison(), *resnet50.published(), *transformer.magnitude(), *transformer.l0()]
    assert unfinished_schedules(runs) == []


def test_waiting_threads_of_commands_that_train_yield_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    yield_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    yield_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
