"""Settings of the documentation site, which `make docs` builds; `sphinx-build -c docs . FOLDER` is the command.

The sources are the Markdown files of the repository as a code host shows them, those outside of docs/ too. So pages
hold no directives but those of the reference: the navigation stands here.
"""

import inspect
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openwork

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "openwork"
release = openwork.__version__
html_title = f"openwork {release}"
root_doc = "docs/index"
include_patterns = ["docs/**", "results/**", "benchmarks/*.md"]
include_patterns += ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "THIRD_PARTY.md"]
exclude_patterns = [".*", "build", "src", "tests"]  # folders that need no walk
exclude_patterns += ["docs/playground/*.ipynb"]  # what jupytext makes of the pages
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_dark_style = "a11y-high-contrast-dark"
html_show_copyright = False

myst_heading_anchors = 4
default_role = "py:obj"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
maximum_signature_line_length = 88

# The programs of docs/playground are executed, each page by a kernel of its own. An error or a warning fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "warn"
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)

ROOT = Path(__file__).parents[1]
# Each page that has pages below it, and these in order. What matches * may be nothing; no page may be left out.
NAVIGATION = {
    "docs/index": """
        docs/start
        docs/prune-my-model
        docs/choose
        docs/buys
        docs/playground
        docs/study
        docs/how-to
        docs/api
        docs/design
        CONTRIBUTING
        CHANGELOG
    """,
    "docs/prune-my-model": """
        docs/models/vision
        docs/models/language
        docs/models/recurrent
        docs/models/trained
        docs/models/trainer
        docs/models/lightning
        docs/models/fsdp
    """,
    "docs/choose": """
        docs/techniques/training
        docs/techniques/one-shot
        docs/techniques/initialisation
    """,
    "docs/buys": """
        docs/hardware
        docs/files
        docs/acceleration
        docs/acceleration-cpu
        docs/acceleration-gpu
        docs/shrink
        docs/permute
        docs/onnx
        docs/performance
        benchmarks/README
    """,
    "docs/playground": """
        docs/playground/variational-dropout
        docs/playground/sentence-encoder
        docs/playground/lottery-ticket
        docs/playground/checkpoints
    """,
    "docs/study": """
        docs/findings
        docs/paper
        docs/reproductions
        Our results <results/README>
        docs/published/README
        docs/fidelity
        docs/imagenet
        docs/translation
        docs/checkpoints
        docs/cluster
        docs/fleet
        Files and columns of a run <docs/results>
        docs/report
        docs/pictures
        docs/statistics
    """,
    "results/README": """
        results/*/README
        results/*/PLAN
        results/*/*
    """,
    "docs/how-to": """
        docs/cli
        docs/pruning-trained-models
        docs/prune
        docs/fine-tuning
        docs/integrations
        docs/distributed
        docs/inspect
        docs/migration
        docs/docker
    """,
    "docs/api": """
        docs/reference/life-cycle
        docs/reference/techniques
        docs/reference/schedules
        docs/reference/allocations
        docs/reference/patterns
        docs/reference/selections
        docs/reference/results
        docs/reference/extending
        docs/reference/hosts
        docs/reference/study
        docs/compatibility
    """,
    "CONTRIBUTING": """
        docs/contributing/technique
        docs/contributing/task
        docs/contributing/experiment
        docs/versions
        docs/releasing
        SECURITY
        THIRD_PARTY
    """,
}


def add_navigation(app: "Sphinx", name: str, source: list[str]) -> None:
    """Appends the hidden table of contents to a page that has pages below it."""
    if name in NAVIGATION:
        pages: dict[str, None] = {}  # in order, each once
        for line in NAVIGATION[name].split("\n"):
            found = sorted(ROOT.glob(f"{line.strip()}.md")) if "*" in line else []
            pages |= {f"/{path.relative_to(ROOT).with_suffix('')}": None for path in found}
            if line.strip() and "*" not in line:
                pages[re.sub(r"([\w./-]+)(>?)$", r"/\1\2", line.strip())] = None
        source[0] += "\n\n```{toctree}\n:hidden:\n" + "\n".join(pages) + "\n```\n"


def make_notebook(app: "Sphinx", name: str, source: list[str]) -> None:
    """Makes a notebook of a page of docs/playground: its programs are cells, `# Picture: …` says what is seen."""
    if name.startswith("docs/playground/"):
        title, text = source[0].split("\n", 1)
        file = f"{name.rpartition('/')[2]}.ipynb"
        link = f'<p>Run it yourself: <a href="{file}" download>this page as a notebook</a>.</p>'
        text = re.sub(r"^```python\n", "```{code-cell} python\n", text, flags=re.M)
        alt = "\\1---\nmystnb:\n  image:\n    alt: >-\n      \\2\n---\n"
        text = re.sub(r"^(```{code-cell} python\n)# Picture: (.*)\n", alt, text, flags=re.M)
        kernel = "kernelspec:\n  name: python3\n  display_name: Python 3\n"
        source[0] = f"---\nfile_format: mystnb\n{kernel}---\n{title}\n\n{link}\n{text}"


def spread_pages(app: "Sphinx", env: Any, names: list[str]) -> None:
    """Puts pages of one folder apart, so that the processes of ``--jobs`` share the notebooks."""
    names[:] = [name for first in range(8) for name in names[first::8]]


def link_names(app: "Sphinx", name: str, source: list[str]) -> None:
    """Makes links to the reference of the public names in the tables of docs/api.md."""
    if name == "docs/api":
        source[0] = re.sub(r"^\| `(\w+)` \|", r"| {py:obj}`\1 <openwork.\1>` |", source[0], flags=re.M)


def escape_bars(app: "Sphinx", what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write |w|, which would be a substitution."""
    lines[:] = [
        "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in re.split(r"(``.*?``)", line))
        for line in lines
    ]


def skip_overriding(app: "Sphinx", what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """True for a method that overrides one of a base class, documented there, and for a default that is a function."""
    function = value.fget if isinstance(value, property) else value
    if inspect.isfunction(value) and "." not in value.__qualname__ and what == "class":
        return True
    kind = getattr(openwork, getattr(function, "__qualname__", "").partition(".")[0], None)
    bases = [base for base in getattr(kind, "__mro__", ())[1:] if base.__module__.startswith("openwork.")]
    return any(name in vars(base) for base in bases) or None


def add_front_door(app: "Sphinx", exception: Exception | None) -> None:
    """The folder's own index, which leads to the start page."""
    if not exception and app.builder.format == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>openwork</title>'
        (Path(app.outdir) / "index.html").write_text(page + '<a href="docs/index.html">openwork</a>\n')


def add_notebooks(app: "Sphinx", exception: Exception | None) -> None:
    """Puts the notebooks, without outputs, beside the pages that link to them."""
    if not exception and app.builder.format == "html":
        for path in Path(app.outdir).parent.glob("jupyter_execute/docs/playground/*.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell.update(outputs=[], execution_count=None)
            target = Path(app.outdir) / "docs" / "playground" / path.name
            target.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


def setup(app: "Sphinx") -> None:
    """Called by Sphinx."""
    app.connect("env-before-read-docs", spread_pages)
    app.connect("source-read", make_notebook)
    app.connect("source-read", add_navigation)
    app.connect("source-read", link_names)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-skip-member", skip_overriding)
    app.connect("build-finished", add_front_door)
    app.connect("build-finished", add_notebooks)
