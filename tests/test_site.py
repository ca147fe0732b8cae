"""The pages of the documentation site: their programs run, and what a reader looks for is two clicks away."""

import re
import runpy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import openwork as ow
from tests.test_documents import DOCUMENTS, ROOT, blocks, free_port

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PROGRAMS = [
    "CONTRIBUTING.md",
    "docs/acceleration.md",
    "docs/api.md",
    "docs/buys.md",
    "docs/contributing/technique.md",
    "docs/distributed.md",
    "docs/fine-tuning.md",
    "docs/index.md",
    "docs/integrations.md",
    "docs/models/fsdp.md",
    "docs/models/language.md",
    "docs/models/lightning.md",
    "docs/models/recurrent.md",
    "docs/models/trained.md",
    "docs/models/trainer.md",
    "docs/models/vision.md",
    "docs/onnx.md",
    "docs/performance.md",
    "docs/permute.md",
    "docs/pruning-trained-models.md",
    "docs/shrink.md",
    "docs/start.md",
    "docs/statistics.md",
    "docs/techniques/initialisation.md",
    "docs/techniques/one-shot.md",
    "docs/techniques/training.md",
]
"""Pages whose programs run here, in this process: to start one takes longer than to run it."""
CONTINUED = {"docs/pruning-trained-models.md"}
"""Pages on which a program goes on from the one before."""


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder to work in, in which modules are found, and torch's generator put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with torch.random.fork_rng():
        yield


def run_program(code: str, title: str, names: dict[str, Any]) -> None:
    """Runs a program as the only process of torchrun."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "1", "RANK": "0"}
    with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings():
        if "init_process_group" in code:
            for name, value in group.items():
                environment.setenv(name, value)
        # Lightning gives its advice (more workers, another logger) as warnings, and so does PEFT.
        if re.search(r"^import (lightning|peft)|^from openwork.integrations", code, re.M):
            warnings.simplefilter("ignore")
        exec(compile(code, title, "exec"), names)


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_a_page_run(page, alone):
    found = blocks(page, "python")
    assert found
    names = {"__name__": "__main__"}
    for number, code in enumerate(found):
        if "--nproc-per-node 2" in code and page == "docs/fine-tuning.md":
            continue  # tests/test_documents.py runs it in two processes
        if "import peft" in code and find_spec("peft") is None:
            continue
        run_program(code, f"{page}, program {number}", names if page in CONTINUED else {"__name__": "__main__"})


def test_the_task_and_the_experiment_of_the_contributors_pages_run(alone, capsys):
    from openwork.cli import app

    (task,) = blocks("docs/contributing/task.md", "python")
    experiment, comparison = blocks("docs/contributing/experiment.md", "python")
    Path("own_task.py").write_text(task)
    Path("own_experiment.py").write_text(experiment)
    seeds = "seed=0,4294967295"  # the first and the last
    app(["sweep", "own_task:runs", seeds, "--evaluations", "1", "--out", "task-runs"], standalone_mode=False)
    app(["sweep", "own_experiment:runs", "--fleet", "--evaluations", "1", "--out", "runs"], standalone_mode=False)
    capsys.readouterr()
    exec(compile(comparison, "comparison", "exec"), {})
    assert "n = 3" in capsys.readouterr().out


NAVIGATION = runpy.run_path(str(ROOT / "docs" / "conf.py"))["NAVIGATION"]


def below(page: str) -> list[str]:
    """The pages below one, as the navigation has them; a name with * is what others will write."""
    names = re.findall(r"[\w*/.-]+(?=>?$)", NAVIGATION.get(page, ""), re.M)
    return [path.relative_to(ROOT).as_posix() for name in names for path in sorted(ROOT.glob(f"{name}.md"))]


START = "docs/index.md"
QUESTIONS = {
    "How do I see something in two minutes?": ["docs/start.md#install"],
    "What do I change in my own training loop?": ["docs/start.md#your-own-loop"],
    "How do I prune a convolutional network?": ["docs/models/vision.md"],
    "How do I prune a model of Hugging Face with a few texts?": ["docs/models/language.md"],
    "How do I prune an LSTM?": ["docs/models/recurrent.md"],
    "How do I prune a model that is trained already?": ["docs/models/trained.md"],
    "How do I use it with Hugging Face's Trainer?": ["docs/models/trainer.md"],
    "How do I use it with Lightning?": ["docs/models/lightning.md"],
    "How do I use it with FSDP?": ["docs/models/fsdp.md"],
    "Which technique should I take?": ["docs/choose.md#while-training"],
    "What does a technique cost in time and memory?": ["docs/choose.md#what-a-step-costs"],
    "How much faster is my model on my hardware?": ["docs/buys.md#speed", "docs/hardware.md"],
    "How much smaller is the file?": ["docs/buys.md#smaller-files", "docs/files.md"],
    "How do I get 2:4 zeros?": ["docs/buys.md#24-and-other-patterns"],
    "How do I fine-tune with LoRA and keep the zeros?": ["docs/fine-tuning.md#lora"],
    "How do I leave a layer out?": ["docs/api.md#selections"],
    "How do I go on after a crash?": ["docs/api.md#to-resume"],
    "What is in someone else's checkpoint?": ["docs/inspect.md"],
    "How do I replace torch.nn.utils.prune?": ["docs/migration.md#torchnnutilsprune"],
    "How do I write a technique of my own?": ["docs/contributing/technique.md"],
    "Does my optimizer work?": ["docs/compatibility.md"],
    "Which arguments does a technique take?": ["docs/api.md", "docs/reference/techniques.md"],
    "What did the study find?": ["docs/study.md", "docs/findings.md"],
    "Does openwork reproduce the papers?": ["docs/study.md", "docs/reproductions.md"],
    "How does variational dropout work?": ["docs/playground.md", "docs/playground/variational-dropout.md"],
    "Is a lottery ticket better than a fresh network?": ["docs/playground/lottery-ticket.md"],
    "Which commands are there?": ["docs/cli.md"],
    "How do I run thousands of trainings?": ["docs/study.md", "docs/cluster.md"],
}
"""What a reader asks, and the clicks from the start page that answer it; after # is the heading on the page."""


def links(page: str) -> set[str]:
    """The pages of the repository to which a page links in its text."""
    found = re.findall(r"\]\((?!https?://)([^)#]+\.md)", (ROOT / page).read_text())
    return {((ROOT / page).parent / target).resolve().relative_to(ROOT).as_posix() for target in found}


def headings(page: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", prose, re.M)}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_two_clicks_from_the_start_page(question):
    here = START
    assert 1 <= len(QUESTIONS[question]) <= 2
    for click in QUESTIONS[question]:
        page, _, heading = click.partition("#")
        assert page in links(here)
        assert not heading or heading in headings(page)
        here = page


def test_every_page_is_two_clicks_from_the_start_page():
    first = links(START)
    beside = (page for name in first for page in below(name.removesuffix(".md")))  # the navigation opens with a page
    assert {*PAGES} - {START} <= first.union(*map(links, first), beside)


def test_every_link_to_a_heading_finds_it():
    for page in DOCUMENTS:
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for target, heading in re.findall(r"\]\((?!https?://)([^)#]*\.md|)#([^)]+)\)", text):
            there = (ROOT / page).parent / target if target else ROOT / page
            assert heading in headings(there.resolve().relative_to(ROOT).as_posix()), f"{page}: {target}#{heading}"


def test_the_reference_has_every_public_name_once():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    named = [name for page in pages for name in re.findall(r"^\.\. auto\w+:: (\w+)$", page.read_text(), re.M)]
    assert sorted(named) == sorted(ow.__all__), "add the name to a page of docs/reference, and run python docs/names.py"


@pytest.mark.parametrize("page", ["contributing/task", "contributing/experiment", "fleet"])
def test_the_reference_has_what_programs_of_your_own_import(page):
    reference = (ROOT / "docs" / "reference" / "study.md").read_text()
    text = (ROOT / "docs" / f"{page}.md").read_text()
    imports = re.findall(r"^from (openwork\.[\w.]+) import (.+)$", text, re.M)
    wanted = {f"{module}.{name}" for module, names in imports for name in names.split(", ")}
    examples = {"openwork.study.evaluation.metric.ACCURACY", "openwork.study.tasks.lenet.DigitsLeNet300100"}
    there = re.findall(r"^\.\. auto\w+:: (openwork\.\S+)$", reference, re.M)
    assert wanted - examples <= {*there}, "add the name to docs/reference/study.md"


def test_the_tables_of_public_names_are_made_from_the_docstrings():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "docs" / "names.py"))["written"](page) == page, "run python docs/names.py"


def test_the_changelog_says_what_was_added_changed_and_fixed():
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {"Added", "Changed", "Fixed"} <= {*re.findall(r"^### (.+)$", text, re.M)} <= kinds


def test_every_program_of_a_page_is_run_by_a_test():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    pages = [page for page in DOCUMENTS if not page.startswith("docs/playground/")]
    own = {page for page in pages if re.search(r"^ *```python", (ROOT / page).read_text(), re.M)}
    assert [page for page in sorted(own) if page not in tests and f'"docs" / "{page[5:]}"' not in tests] == []


def test_the_notebooks_are_executed_where_the_site_is_built():
    settings = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    assert settings["nb_execution_mode"] == "force"
    assert settings["nb_execution_raise_on_error"]
    page = ["# Title\n\n```python\n# Picture: a line\nplot()\n```\n"]
    settings["make_notebook"](None, "docs/playground/one", page)
    assert 'href="one.ipynb"' in page[0]
    assert "```{code-cell} python\n---\nmystnb:\n  image:\n    alt: >-\n      a line\n---\nplot()\n```" in page[0]
    assert "make docs" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", below("docs/playground"))
def test_a_notebook_has_its_formulas_and_says_what_its_pictures_do_not_show(page):
    text = (ROOT / page).read_text()
    # Jupyter takes programs of other languages, such as sh, for cells.
    assert {*re.findall(r"^```(\S+)", text, re.M)} == {"python", "text"}
    assert text.count("**What it shows.**") >= text.count("**What it does not show.**") >= 1
    assert text.count("plt.show()") == text.count("# Picture: ")
    lines = [line for code in blocks(page, "python") for line in code.splitlines() if "# Picture" not in line]
    assert max(map(len, lines)) <= 98  # the width of the page


def test_every_page_has_a_place_in_the_navigation():
    placed = {"README.md", START}.union(*map(below, NAVIGATION))
    assert {*PAGES, *DOCUMENTS} - placed == set(), "name it in NAVIGATION of docs/conf.py"


def test_a_page_of_the_navigation_that_is_named_exists():
    named = {name for pages in NAVIGATION.values() for name in re.findall(r"[\w*/.-]+(?=>?$)", pages, re.M)}
    assert [name for name in sorted(named) if "*" not in name and not (ROOT / f"{name}.md").exists()] == []


FIRST = [
    START,
    *(f"docs/{name}.md" for name in ("start", "prune-my-model", "choose", "buys", "playground", "study", "how-to")),
]
FOLDERS = ("docs/prune-my-model", "docs/playground", "docs/how-to", "CONTRIBUTING")
SIMPLE = [*FIRST, *(page for name in FOLDERS for page in below(name))]
"""The start and how-to pages, whose sentences are short."""


def sentences(page: str) -> list[str]:
    """The sentences of a page's prose, its lists and its tables; code counts as a word."""
    prose = re.sub(r"^```.*?^```|<!--.*?-->", "", (ROOT / page).read_text(), flags=re.M | re.S)
    prose = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", prose))
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )|\n(?=#)|(?<!\\)\|", prose)
    return [one for part in parts for one in re.split(r"(?<=[.!?])[)\"”*]*\s+", " ".join(part.split()))]


@pytest.mark.parametrize("page", SIMPLE)
def test_no_sentence_of_a_start_or_how_to_page_has_more_than_40_words(page):
    assert [one for one in sentences(page) if len(re.findall(r"\w[\w'’.–-]*", one)) > 40] == []


FILLER = r"\b(simply|obviously|of course|basically|easily|in order to|utili[sz]e|leverage|note that|please|actually)\b"


@pytest.mark.parametrize("page", SIMPLE)
def test_no_word_of_a_start_or_how_to_page_is_filler(page):
    assert [one for one in sentences(page) if re.search(FILLER, one, re.I)] == []
