"""The pages of the documentation site: their programs run, and what a reader looks for is two clicks away."""

import importlib
import warnings
from pathlib import Path

import pytest
import torch

from tests.test_documents import ROOT, blocks, free_port

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PROGRAMS = [
    "docs/buys.md",
    "docs/contributing/technique.md",
    "docs/distributed.md",
    "docs/index.md",
    "docs/models/fsdp.md",
    "docs/models/language.md",
    "docs/models/lightning.md",
    "docs/models/recurrent.md",
    "docs/models/trained.md",
    "docs/models/trainer.md",
    "docs/models/vision.md",
    "docs/pruning-trained-models.md",
    "docs/start.md",
]
"""Pages whose programs run here, in this process: to start one takes longer than to run it."""


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder to work in, the environment of a single process of torchrun, and torch's generator put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    with torch.random.fork_rng():
        yield tmp_path


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_a_page_run(page, alone):
    names = {"__name__": "__main__"}
    found = blocks(page, "python")
    assert found
    for number, code in enumerate(found):
        with warnings.catch_warnings():
            if "import lightning" in code:  # it gives its advice (more workers, another logger) as warnings
                warnings.simplefilter("ignore")
            exec(compile(code, f"{page}, program {number}", "exec"), names)


def test_the_task_and_the_experiment_of_the_contributors_pages_run(alone, capsys):
    from openwork.cli import app

    (task,), (experiment, comparison) = (
        blocks(f"docs/contributing/{name}.md", "python") for name in ("task", "experiment")
    )
    Path("own_task.py").write_text(task)
    Path("own_experiment.py").write_text(experiment)
    for module, runs in (("own_task", 2), ("own_experiment", 6)):
        assert len(importlib.import_module(module).runs()) == runs
    app(["sweep", "own_task:runs", "--evaluations", "1", "--out", "task-runs"], standalone_mode=False)
    app(["sweep", "own_experiment:runs", "--fleet", "--evaluations", "1", "--out", "runs"], standalone_mode=False)
    capsys.readouterr()
    exec(compile(comparison, "comparison", "exec"), {})
    assert "n = 3" in capsys.readouterr().out
