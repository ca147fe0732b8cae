"""docs/compatibility.md is what benchmarks/compatibility.py computes."""

from pathlib import Path

import pytest

from benchmarks.matrix import page
from benchmarks.matrix.cases import LAYERS
from benchmarks.matrix.layers import becomes_sparse
from benchmarks.matrix.libraries import Library, OpenworkL0, OpenworkMasks
from benchmarks.matrix.outcome import LONGEST, first_line, outcome
from benchmarks.matrix.runner import CELLS, ROWS, by_title, run

TEXT = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text()
ON_PAGE = page.parse(TEXT)


def test_the_page_has_a_cell_for_every_row_and_library():
    assert ON_PAGE.keys() == set(CELLS)
    assert len({row.title.lower() for row in ROWS}) == len(ROWS) > 50


def test_nothing_on_the_page_is_written_by_hand():
    (where,) = [line for line in TEXT.splitlines() if line.startswith("Python 3.")]
    assert page.render(ON_PAGE, where) == TEXT


def test_openwork_passes_or_refuses_with_its_reason():
    red = [key for key, cell in ON_PAGE.items() if key[1].startswith("openwork") and cell.status == "fail"]
    assert red == []


def test_cells_are_computed_again_as_the_page_has_them():
    rows = [by_title(title) for title in ("linear", "several parameter groups", "fine-tuning keeps the zeros")]
    cells = run(["openwork", "openwork-l0"], rows, 2, lambda key, row, cell: None)
    assert cells == {key: ON_PAGE[key] for key in cells}
    assert [cell.status for cell in cells.values()].count("pass") == 5  # l0 has no masks to start from


class Forgetful(Library):
    """Prunes nothing."""

    title, package = "forgetful", "benchmarks.matrix"

    def weights(self, model):
        return {name: model.get_parameter(name) for name in self.case.weights}

    def finish(self):
        return self.model


def test_a_library_that_does_nothing_is_red():
    cell = outcome(Forgetful, lambda library: becomes_sparse(library, LAYERS["Linear"]))
    assert (cell.status, cell.text) == ("fail", "layer.weight has 0 zeros of 48 after step 5, expected 36")


def test_only_an_error_that_the_library_raises_with_a_reason_is_a_refusal():
    assert outcome(OpenworkL0, by_title("fine-tuning keeps the zeros").check).text.startswith("ValueError: keep_zeros")

    def elsewhere(library):
        raise ValueError("not raised in openwork's source")

    assert outcome(OpenworkMasks, elsewhere).status == "fail"
    assert outcome(OpenworkL0, by_title("ties").check).status == "n/a"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "no file /home/me/lib/python3.11/x.py here and no other one than that",
            "no file x.py here and no other one than that",
        ),
        ("Error(s) in loading:\n\tMissing key(s): a.", "Error(s) in loading: Missing key(s): a."),
        ("word " * 100, "word " * (LONGEST // 5) + "…"),
    ],
)
def test_the_first_line_of_an_error_is_short_and_names_no_folder(message, line):
    assert first_line(message) == line
