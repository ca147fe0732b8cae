from pathlib import Path

import openwork as ow

DOCS = Path(__file__).parents[1] / "docs" / "api.md"


def test_public_names_are_sorted_and_exist():
    # the linter's order: capitals, classes, functions
    assert ow.__all__ == sorted(ow.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(set(ow.__all__)) == len(ow.__all__)
    assert all(hasattr(ow, name) for name in ow.__all__)


def test_every_public_name_is_documented():
    text = DOCS.read_text()
    for name in ow.__all__:
        assert f"`{name}" in text, f"{name} is missing in docs/api.md"
        assert getattr(ow, name).__doc__
