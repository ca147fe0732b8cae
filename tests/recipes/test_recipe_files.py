"""What a recipe's file is beside its modifiers: stages, variables, Markdown; and what is said of the rest."""

import json
import re
from pathlib import Path

import pytest

import openwork as ow
from openwork import recipes
from tests.cli.folders import openwork
from tests.recipes.small_model import execute, gradual, sparsity


def test_stages_train_one_after_the_other(printed):
    stage = (
        gradual()
        .replace("modifiers:", "  pruning_modifiers:")
        .replace("\n    ", "\n      ")
        .replace("  - !", "    - !")
    )
    text = "first:" + stage + "second:\n  pruning_modifiers:\n    - !ConstantPruningModifier\n      params: __ALL__\n"
    code = printed(text)
    assert code.count("train(model, optimizer)") == 2
    assert code.count("finalize()") == 2
    assert sparsity(execute(code)[0]) == pytest.approx(0.75, abs=0.001)


def test_variables_are_arithmetic_and_may_be_given(printed):
    text = ("num_epochs: 4\nfinal: 0.5\nprune_until: eval(num_epochs * 0.5)\nlayers: [fc1.weight]\n"
            + gradual(params="eval(layers)").replace("end_epoch: 2.0", "end_epoch: eval(max(prune_until, 1))")
            .replace("0.75", "eval(final)"))  # fmt: skip
    assert "end=2 * steps_per_epoch" in printed(text)
    code = printed(text, "num_epochs=8", "final=0.9", "--steps-per-epoch", 5)
    assert "steps_per_epoch = 5\n" in code
    assert "ow.Cubic(0.9, begin=round(0.5 * steps_per_epoch), end=4 * steps_per_epoch," in code
    assert sparsity(execute(code)[0], "fc1") == pytest.approx(0.9, abs=0.002)


def test_the_front_matter_of_a_markdown_card_is_read(printed):
    code = printed(f"---\n{gradual()}---\n# A card\n---\nmore\n---\n", name="recipe.md")
    assert sparsity(execute(code)[0]) == pytest.approx(0.75, abs=0.001)


def test_a_licence_may_come_before_the_front_matter(printed):
    printed(f"<!--\nA licence.\n-->\n\n---\n{gradual()}---  \n# A card\n", name="recipe.md")


def test_anchors_and_the_older_name_are_known(printed):
    text = "final: &final 0.5\n" + gradual("LegacyGMPruningModifier").replace("0.75", "*final")
    assert sparsity(execute(printed(text))[0]) == pytest.approx(0.5, abs=0.001)


def test_a_stage_s_variable_may_be_made_of_the_recipe_s(printed):
    stage = (
        gradual()
        .replace("modifiers:", "  pruning_modifiers:")
        .replace("\n    ", "\n      ")
        .replace("  - !", "    - !")
    )
    text = "final: 0.25\nstage:\n  final: eval(final * 2)\n" + stage.replace("0.75", "eval(final)")
    assert sparsity(execute(printed(text))[0]) == pytest.approx(0.5, abs=0.001)


QUANTISED = "  - !QuantizationModifier\n    start_epoch: 3\n  - !SetLearningRateModifier\n    learning_rate: 0.1\n"


def test_quantisation_is_named_and_the_loop_s_own_is_left_to_the_loop(printed):
    code = printed(gradual() + QUANTISED, missing=["QuantizationModifier"])
    assert "# QuantizationModifier: openwork does not quantise; do that after finalize(), on the plain model." in code
    assert "# SetLearningRateModifier: it belongs to your training loop, where torch has it." in code
    execute(code)


@pytest.mark.parametrize(
    "kind",
    ["OBSPruningModifier", "MFACPruningModifier", "LayerPruningModifier", "PowerpropagationModifier", "Whatever"],
)
def test_what_has_no_equivalent_is_a_comment_with_the_reason(printed, kind):
    code = printed(gradual() + f"  - !{kind}\n    layers: [fc1]\n", missing=[kind])
    assert f"\n# {kind}: " in code
    execute(code)


def test_an_inverse_cubic_curve_is_named(printed):
    code = printed(gradual(more="    inter_func: inverse_cubic\n"), missing=["GMPruningModifier"])
    assert "its 'inverse_cubic' curve has no schedule here" in code


def test_a_recipe_that_prunes_nothing_says_so(monkeypatch, capsys, tmp_path):
    (tmp_path / "r.yaml").write_text("modifiers:\n  - !EpochRangeModifier\n    end_epoch: 3\n")
    assert openwork(monkeypatch, "recipe", tmp_path / "r.yaml") == 4
    assert "r.yaml has no modifier that prunes here" in capsys.readouterr().err


def test_json_has_the_code_and_what_is_missing(monkeypatch, capsys, tmp_path):
    (tmp_path / "r.yaml").write_text(gradual() + QUANTISED)
    assert openwork(monkeypatch, "recipe", tmp_path / "r.yaml", "--json") == 4
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 1
    assert [text.partition(":")[0] for text in found["missing"]] == ["QuantizationModifier"]
    execute(found["code"])


def test_every_name_in_what_is_printed_is_public():
    text = "".join(path.read_text() for path in Path(recipes.__file__).parent.glob("*.py"))
    assert set(re.findall(r"\bow\.(\w+)", text)) <= set(ow.__all__)
    assert set(re.findall(r"expression\(\s*\"(\w+)\"", text)) <= set(ow.__all__)
