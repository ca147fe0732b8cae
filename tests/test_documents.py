"""README and the other documents say what is true: code blocks run, commands exist, links lead somewhere."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import output_of, start_python

ROOT = Path(__file__).parents[1]
NAMES = (
    "docs",
    *(f"docs/{name}" for name in ("contributing", "models", "playground", "published", "reference", "techniques")),
    *("benchmarks", "results", "results/mnist", "results/one-shot"),
)
FOLDERS = [ROOT, *(ROOT / name for name in NAMES)]
WARNINGS_ARE_ERRORS = "import warnings; warnings.simplefilter('error')\n"
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in folder.glob("*.md"))


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_the_program_of_the_readme_runs_alone(tmp_path):
    (code,) = blocks("README.md", "python")
    (tmp_path / "block.py").write_text(code)
    command = [sys.executable, "-W", "error", "block.py"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "selected weights" in answer.stdout
    assert "90.0" in answer.stdout.splitlines()[-2]  # 1,408 weights: 90.06 %


def test_the_program_of_fine_tuning_under_fsdp2_runs_in_two_processes(tmp_path, monkeypatch):
    (code,) = (code for code in blocks("docs/fine-tuning.md", "python") if "torchrun" in code)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = []
    for rank in range(2):
        for name, value in (group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}).items():
            monkeypatch.setenv(name, value)
        processes.append(start_python(tmp_path, WARNINGS_ARE_ERRORS + code))
    output_of(*processes)


def test_the_task_and_technique_of_the_page_on_fleets_are_trained_as_one(tmp_path):
    from openwork.study.results.store import read_results

    (code,) = blocks("docs/fleet.md", "python")
    (tmp_path / "signs.py").write_text(code)
    words = blocks("docs/fleet.md", "sh")[-1].split("#")[0].split()
    output_of(start_python(tmp_path, WARNINGS_ARE_ERRORS + "from openwork.cli import app; app()", *words[1:]))
    results = read_results(tmp_path / "runs")
    assert [result.environment.fleet for result in results] == [24] * 24
    assert all(result.score > 0.8 for result in results)
    assert {round(result.sparsity, 2) for result in results} == {0.5, 0.8}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_generator_is_seeded_by_arithmetic_where_seeds_and_steps_would_share_numbers(document):
    assert not re.findall(r"(?:manual_seed|default_rng|RandomState)\([^)]*[*+^]", (ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?\bmake ([a-z][\w-]*)`", (ROOT / document).read_text())) <= targets


def test_the_two_commands_are_in_the_readme():
    (first,) = blocks("README.md", "sh")[:1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make quickstart", "make test"]


def test_ci_runs_the_readme_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_command_lines_parse():
    from typer.main import get_command

    from openwork.cli import app

    commands = get_command(app).commands
    documents = (
        "README.md",
        "docs/buys.md",
        "docs/checkpoints.md",
        "docs/cli.md",
        "docs/cluster.md",
        "docs/contributing/experiment.md",
        "docs/contributing/task.md",
        "docs/files.md",
        "docs/fleet.md",
        "docs/imagenet.md",
        "docs/models/language.md",
        "docs/performance.md",
        "docs/pictures.md",
        "docs/prune.md",
        "docs/report.md",
        "docs/start.md",
        "docs/translation.md",
        "docs/published/README.md",
        "results/cifar10/README.md",
        "results/mnist/README.md",
    )
    text = "".join(block for document in documents for block in blocks(document, "sh"))
    for line in text.replace("\\\n", "").splitlines():
        words = line.split("#")[0].split(" < ")[0].split()
        if "openwork" in words:
            name, *arguments = words[words.index("openwork") + 1 :]
            commands[name].make_context(name, arguments)  # raises for what it does not know


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_files_exist(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert ((ROOT / document).parent / target).exists(), target
    for module in re.findall(
        r"`((?:core|techniques|inspect|study|tests|benchmarks|src)/[\w/.-]+\.(?:py|md|html))`", text
    ):
        places = [ROOT / module, ROOT / "src" / "openwork" / module]
        assert any(place.exists() for place in places), module


def test_the_tree_of_the_design_is_the_tree():
    text = (ROOT / "docs" / "design.md").read_text()
    files = {
        p.name for p in (ROOT / "src" / "openwork").rglob("*") if p.suffix in (".py", ".html") and p.stem != "__init__"
    }
    (tree,) = [
        block for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) if block.startswith("src/openwork/")
    ]
    named = set(re.findall(r"\b[\w]+\.(?:py|html)\b", tree)) - {"__init__.py", "test_contract.py"}
    assert named == files


def test_every_page_is_two_clicks_from_the_readme():
    def links(document):
        found = re.findall(r"\]\((?!https?://)([^)#]+\.md)", (ROOT / document).read_text())
        return {((ROOT / document).parent / target).resolve().relative_to(ROOT).as_posix() for target in found}

    first = links("README.md")
    second = {target for document in first for target in links(document)}
    pages = {
        path.relative_to(ROOT).as_posix()
        for folder in ("docs", "docs/techniques")
        for path in (ROOT / folder).glob("*.md")
    }
    assert pages <= first | second
