"""What README, results/ and docs/ say about techniques: figures are the rows', and no order goes without its n."""

import re
from pathlib import Path

import pytest

from tests.processes import python

ROOT = Path(__file__).parents[1]
STUDIES = sorted(path.parent.name for path in (ROOT / "results").glob("*/README.md"))
PAGES = ("choose", "findings", "reproductions")
FROM_ROWS = [*(f"docs/{page}.md" for page in PAGES), *(f"results/{study}/README.md" for study in STUDIES)]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md"))
)
MARKED = re.compile(r"<!-- table [^:]+: results/tables\.py -->\n(.*?)<!-- end -->", re.S)
TECHNIQUE = re.compile(
    r"pruning|dropout|SparseVD|\bL0\b|extended|magnitude|RigL|surgery|weight sharing|lottery|techniques?"
)
ORDER = re.compile(
    r"\b(better|worse|best|worst|beats?|wins?|outperforms?|ahead|behind|superior|inferior|as good as|more accurate|"
    r"highest|lowest|lies? (further )?(above|below)|fails|helps|gains?)\b"
)
PROVISO = re.compile(r"\bseeds?\b|\bn = \d|±|\binterval|single runs?\b")


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def tables(markdown: str) -> list[list[list[str]]]:
    """Each table as its rows of cells, the heading first."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    found = re.findall(r"(?:^\|.*\n?)+", prose, re.M)
    cells = [[re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in table] for table in cells]


def test_the_tables_of_the_documents_are_made_from_the_committed_rows():
    code = (
        "import tables; from pathlib import Path; "
        "print([name for name in tables.DOCUMENTS for now in [Path(tables.ROOT, name).read_text(encoding='utf-8')] "
        "if tables.written(now) != now], len(tables.DOCUMENTS), sorted(tables.TABLES))"
    )
    printed = python(ROOT / "results", code)
    used = re.findall(r"<!-- table ([^:]+): results/tables\.py -->", "".join(map(text, ["README.md", *FROM_ROWS])))
    assert printed.split("] ")[0] == "[", f"run results/tables.py: {printed}"
    assert printed.strip() == f"[] {1 + len(FROM_ROWS)} {sorted(used)}"


@pytest.mark.parametrize("document", FROM_ROWS)
def test_every_table_of_results_is_made_from_rows(document):
    assert tables(MARKED.sub("", text(document))) == []


@pytest.mark.parametrize("document", ["README.md", *FROM_ROWS])
def test_every_table_of_results_says_its_n(document):
    marked = MARKED.findall(text(document))
    made = [table for found in marked for table in tables(found)]
    assert made or all(re.search("Not run yet|Not enough runs yet", found) for found in marked)
    for heads, _, *rows in made:
        n = heads.index("n")
        assert all(re.match(r"\d", row[n]) for row in rows), heads


@pytest.mark.parametrize("document", [*DOCUMENTS, "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_a_table_has_as_many_cells_in_each_row(document):
    for heads, rule, *rows in tables(text(document)):
        assert all(re.fullmatch(":?-+:?", cell) for cell in rule), heads
        assert {len(row) for row in rows} == {len(heads)}, heads


# These two say what the commands do, in words such as "the best over thresholds", and nothing of what came out.
# A plan says what is expected, before there is a run.
PLANS = {document for document in DOCUMENTS if document.endswith("PLAN.md")}


@pytest.mark.parametrize("document", sorted({*DOCUMENTS} - {"docs/report.md", "docs/results.md"} - PLANS))
def test_a_paragraph_that_orders_techniques_says_n_or_interval(document):
    prose = re.sub(r"^```[\s\S]*?^```|^\|.*$|^#.*$", "", text(document), flags=re.M)
    paragraphs = re.split(r"\n\s*\n|\n(?=[*-] )", prose)
    claims = [p for p in paragraphs if TECHNIQUE.search(p) and ORDER.search(p) and not PROVISO.search(p)]
    assert claims == [], "say in how many seeds, or with which interval"


def test_what_findings_say_besides_their_tables_has_no_figures():
    prose = re.sub(r"\bL0\b|ResNet-50", "", MARKED.sub("", text("docs/findings.md")))
    assert sorted(re.findall(r"\d[\d.,]*", prose)) == ["2019", "5", "95"]  # the paper's year, levels of tests


def test_the_counts_of_compatibility_in_the_readme_are_those_of_its_page():
    (counts,) = [table for table in tables(text("docs/compatibility.md")) if table[2][0].endswith("pass")]
    masks, dropout, l0 = ([int(row[column]) for row in counts[2:]] for column in (1, 2, 3))
    assert dropout[0] == l0[0]
    said = f"of {sum(masks)} | masks {masks[0]}, variational dropout and L0 {l0[0]};"
    assert said in text("README.md"), said
