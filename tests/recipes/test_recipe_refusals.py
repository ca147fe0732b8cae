"""What `openwork recipe` cannot read is one sentence; nothing of a recipe is executed."""

import pytest

from openwork.recipes.expressions import value_of
from tests.cli.folders import openwork
from tests.recipes.small_model import gradual


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """The sentence with which a recipe's text is refused."""

    def run(text, *arguments, name="recipe.yaml"):
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert openwork(monkeypatch, "recipe", path, *arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        return said.err

    return run


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no recipe"),
        ("", "is no recipe: it holds NoneType"),
        ("hello", "is no recipe: it holds str"),
        ("a: [", "is not a readable recipe"),
        (b"\xff\xfe", "is not text in UTF-8"),
        ("a: 1", "has no modifiers; give a recipe of SparseML or llm-compressor"),
        ("modifiers: []", "has no modifiers"),
        ("modifiers: [3]", "modifiers holds '3', which is no modifier"),
        ("modifiers: {GMPruningModifier: 3}", "GMPruningModifier in modifiers has '3' instead of fields"),
        (gradual().replace("end_epoch: 2.0", ""), "GMPruningModifier has no end_epoch, which it needs"),
        (gradual().replace("0.75", "75"), "final_sparsity: 75, and a sparsity is in [0, 1); write a fraction"),
        (gradual().replace("0.75", "much"), "final_sparsity: 'much', which is no number"),
        (gradual().replace("0.5", "eval(x)"), "the recipe has no variable 'x', which an expression names"),
        ("x: eval(y)\ny: eval(x)\n" + gradual().replace("0.75", "eval(x)"), "name each other in a circle"),
        ("x: 0\n" + gradual().replace("0.75", "eval(1 / x)"), "'eval(1 / x)' has no value: division by zero"),
        (gradual(more="    mask_type: '4:2'\n"), "the mask '4:2' has no pattern here"),
        (gradual(more="    mask_type: [1, 2, 3]\n"), "has no pattern here"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(refused, text, sentence):
    assert sentence in refused(text)


def test_a_card_without_yaml_is_refused(refused):
    assert "has no YAML between two lines of ---; give" in refused("# A card\n", name="card.md")


def test_a_variable_must_be_there_and_have_a_value(refused):
    assert "has no variable 'epochs'; it has num_epochs" in refused("num_epochs: 3\n" + gradual(), "epochs=3")
    assert "is NAME=VALUE, such as num_epochs=20, got 'epochs'" in refused(gradual(), "epochs")


def test_a_large_file_is_refused(refused):
    assert "is larger than 1,000,000 bytes" in refused("#" * 1_000_001)


@pytest.mark.parametrize(
    "text",
    [
        "modifiers: !!python/object/apply:os.system ['touch {file}']",
        "modifiers:\n  - !!python/object/new:os.system ['touch {file}']\n",
        "modifiers:\n  - !GMPruningModifier\n    final_sparsity: !!python/name:os.system\n",
        gradual().replace("0.75", "eval(__import__('os').system('touch {file}'))"),
        gradual().replace("0.75", "eval(open('{file}', 'w').close() or 1)"),
        gradual().replace("0.75", "eval((lambda: 1)())"),
        gradual().replace("0.75", "eval([1 for _ in range(9)][0])"),
        gradual().replace("0.75", "eval(9 ** 9 ** 9)"),
    ],
)
def test_nothing_of_a_recipe_is_executed(refused, tmp_path, text):
    refused(text.replace("{file}", str(tmp_path / "touched")))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("eval(2 + 3 * a)", 8),
        ("eval((a - 1) / 4)", 0.25),
        ("eval(-a ** 2)", -4),
        ("eval(min(a, 7 % 4, abs(-9)))", 2),
        ("eval(round(float(a) * 0.6))", 1),
        ("eval(b)", "text"),
        ("evaluate", "evaluate"),
        ([1, "eval(a)"], [1, 2]),
        ({"x": "eval(c)"}, {"x": 4}),
    ],
)
def test_expressions_are_arithmetic(text, value):
    assert value_of(text, {"a": 2, "b": "text", "c": "eval(a * 2)"}) == value
