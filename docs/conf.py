"""Settings of the documentation site, which `make docs` builds; `sphinx-build -c docs . FOLDER` is the command.

The sources are the Markdown files of the repository as a code host shows them, those outside of docs/ too. So pages
hold no directives but those of the reference: the navigation stands here.
"""

import inspect
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
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

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

ROOT = Path(__file__).parents[1]
# Each page that has pages below it, and these in order. What matches * may be nothing; no page may be left out.
NAVIGATION = {
    "docs/index": """
        docs/start
        docs/prune-my-model
        docs/choose
        docs/buys
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


def setup(app: "Sphinx") -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("source-read", link_names)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-skip-member", skip_overriding)
    app.connect("build-finished", add_front_door)
