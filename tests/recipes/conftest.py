"""Recipes as `openwork recipe` prints them."""

import pytest

from tests.cli.folders import openwork


@pytest.fixture
def printed(monkeypatch, capsys, tmp_path):
    """The code that a recipe's text becomes; checks the exit code and what is said not to be translated."""

    def run(text, *arguments, missing=(), name="recipe.yaml"):
        (tmp_path / name).write_text(text)
        code = openwork(monkeypatch, "recipe", tmp_path / name, *arguments)
        said = capsys.readouterr()
        assert code == (4 if missing else 0), said.err
        lines = [line for line in said.err.splitlines() if line.startswith("not translated: ")]
        assert [line.partition(": ")[2].partition(":")[0] for line in lines] == list(missing)
        return said.out

    return run
