"""`openwork recipe`: what it prints runs on a small model, and prunes as the recipe says."""

import pytest
import torch

from tests.recipes.small_model import MODEL, Model, execute, gradual, sparsity


@pytest.mark.parametrize(
    "kind",
    ["GMPruningModifier", "MagnitudePruningModifier", "GlobalMagnitudePruningModifier", "MovementPruningModifier"],
)
def test_a_sparsity_rises_as_the_recipe_says(printed, kind):
    code = printed(gradual(kind))
    assert "begin=round(0.5 * steps_per_epoch), end=2 * steps_per_epoch" in code
    _, seen = execute(code)
    assert seen[3] == 0
    assert seen[4] == pytest.approx(0.05, abs=0.002)
    assert seen[19] == seen[-1] == pytest.approx(0.75, abs=0.001)
    assert seen[9] == pytest.approx(0.75 - 0.7 * (1 - 1 / 3) ** 3, abs=0.002)


def test_a_weight_that_magnitude_pruning_masked_never_comes_back(printed):
    """SparseML masks the parameter itself, so that its magnitude is 0 at the next update."""
    code = printed(gradual(more="    inter_func: linear\n"))
    assert "ow.Linear(0.75, " in code
    assert 'hidden="lost"' in code


def test_names_and_regular_expressions_choose_the_same_weights(printed):
    model, _ = execute(printed(gradual(params='["fc1.weight", "re:he.*weight"]')))
    assert sparsity(model, "fc1", "head") == pytest.approx(0.75, abs=0.001)
    assert sparsity(model, "fc2") == 0


def test_a_final_sparsity_for_each_list_of_params(printed):
    more = "    params: []\n    final_sparsity:\n      0.5: [fc1.weight]\n      0.75: ['re:fc2']\n"
    text = "\n".join(line for line in gradual().splitlines() if "final" not in line and "params" not in line)
    model, _ = execute(printed(text + "\n" + more))
    assert [sparsity(model, name) for name in MODEL] == [0.5, 0.75, 0.0]


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        ("2:4", "ow.NM(2, 4)"),
        ("'4:8'", "ow.NM(4, 8)"),
        ("block4", "ow.Block(1, 4)"),
        ("[2, 8]", "ow.Block(2, 8)"),
        ("unstructured", ""),
    ],
)
def test_mask_types_are_patterns(printed, mask, pattern):
    code = printed(gradual(more=f"    mask_type: {mask}\n").replace("0.75", "0.5"))
    assert pattern in code
    assert ("pattern=" in code) == bool(pattern)
    assert sparsity(execute(code)[0]) == pytest.approx(0.5, abs=0.001)


def test_n_of_m_there_are_those_that_go(printed):
    code = printed(gradual(more="    mask_type: '3:4'\n"))
    assert "ow.NM(1, 4)" in code
    model, _ = execute(code)
    assert ((model.fc1.weight.unflatten(1, (-1, 4)) != 0).sum(-1) == 1).all()


def test_a_sparsity_that_the_pattern_cannot_have_is_said(printed):
    assert "# 2:4 has the sparsity 0.5, whatever the recipe says." in printed(gradual(more="    mask_type: '2:4'\n"))


@pytest.mark.parametrize(("mask", "dim"), [("filter", 1), ("channel", 0)])
def test_structured_pruning_removes_whole_outputs_or_inputs(printed, mask, dim):
    more = f"    mask_type: {mask}\n    param_groups: [[fc1.weight, fc2.weight]]\n"
    code = printed(gradual("StructuredPruningModifier", more=more))
    assert "# param_groups are not translated" in code
    model, _ = execute(code)
    assert int((model.fc1.weight == 0).all(dim).sum()) == model.fc1.weight.shape[1 - dim] * 3 // 4


def test_constant_pruning_holds_the_zeros_that_are_there(printed):
    code = printed("modifiers:\n  - !ConstantPruningModifier\n    start_epoch: 0.0\n    params: __ALL__\n")
    _, seen = execute(code, zeros=[("fc1", 16)])
    assert seen[0] == seen[-1] == 256 / 1088


def test_constant_pruning_after_gradual_pruning_has_nothing_to_do(printed):
    constant = "  - !ConstantPruningModifier\n    start_epoch: 2.0\n    params: __ALL_PRUNABLE__\n"
    code = printed(gradual() + constant)
    assert "# ConstantPruningModifier: masks stay until finalize(), so that nothing has to hold them." in code
    assert sparsity(execute(code)[0]) == pytest.approx(0.75, abs=0.001)


def test_a_second_curve_for_the_same_weights_is_named(printed):
    code = printed(gradual() + gradual().replace("modifiers:", ""), missing=["GMPruningModifier"])
    assert "# GMPruningModifier: a weight has one schedule, and the call before this one has these weights" in code
    execute(code)


def test_from_param_keeps_the_zeros_and_begins_at_0(printed):
    code = printed(gradual().replace("0.05", "__FROM_PARAM__"))
    _, seen = execute(code, zeros=[("fc1", 8)])
    assert seen[0] == pytest.approx(128 / 1088)
    assert seen[-1] == pytest.approx(0.75, abs=0.001)


ACDC = """
pruning_modifiers:
  - !ACDCPruningModifier
    compression_sparsity: 0.5
    start_epoch: 0
    end_epoch: {end}
    update_frequency: 1
    params: __ALL_PRUNABLE__
"""


@pytest.mark.parametrize(("end", "last"), [(6, 50), (5, 30), (4, 30), (3, 10)])
def test_acdc_is_dense_first_and_ends_in_a_sparse_phase(printed, end, last):
    _, seen = execute(printed(ACDC.format(end=end)), 60)
    sparse = [value > 0.4 for value in seen]
    assert sparse.index(True) == 9  # after ten steps
    assert all(sparse[last - 1 :])
    assert last == 10 or not sparse[last - 2]


def test_acdc_without_a_sparse_phase_is_named(printed):
    printed(ACDC.format(end=1), missing=["ACDCPruningModifier"])


RIGL = """
modifiers:
  - !RigLPruningModifier
    sparsity: 0.7
    start_epoch: 0.0
    end_epoch: 2.0
    update_frequency: 0.3
    params: ['re:fc.*']
    sparsity_strategy: erdos_renyi_kernel
"""


def test_rigl_trains_sparse_from_the_first_step(printed):
    code = printed(RIGL)
    assert "ow.RigL(ow.Constant(0.7, every=max(1, round(0.3 * steps_per_epoch)), stop=2 * steps_per_epoch)" in code
    model, _ = execute(code)
    assert sparsity(model, "fc1", "fc2") == pytest.approx(0.7, abs=0.001)


LLM = """
sparsity_stage:
  sparsity_modifiers:
    {kind}:
      sparsity: 0.5
      mask_structure: "{mask}"
      targets: {targets}
      ignore: ["re:.*head", fc9]
{more}
"""


@pytest.mark.parametrize("mask", ["0:0", "2:4"])
@pytest.mark.parametrize("targets", ["Linear", "['re:fc.*']", "[fc1, fc2]", "__ALL_PRUNABLE__"])
def test_wanda_of_llm_compressor_prunes_at_once(printed, mask, targets):
    code = printed(LLM.format(kind="WandaPruningModifier", mask=mask, targets=targets, more=""))
    assert "# Stage sparsity_stage" in code
    model, _ = execute(code)
    assert [sparsity(model, name) for name in MODEL] == [0.5, 0.5, 0.0]
    if mask == "2:4":
        assert ((model.fc1.weight.unflatten(1, (-1, 4)) != 0).sum(-1) == 2).all()


@pytest.mark.parametrize("mask", ["0:0", "2:4"])
def test_sparsegpt_of_llm_compressor_adapts_what_it_keeps(printed, mask):
    more = "      block_size: 16\n      dampening_frac: 0.001\n      sequential_targets: [Layer]\n"
    code = printed(LLM.format(kind="SparseGPTModifier", mask=mask, targets="Linear", more=more))
    assert "damping=0.001, block=16)" in code
    assert "# sequential_targets: ow.prune finds the blocks; blocks=[...] names them otherwise." in code
    model, _ = execute(code)
    assert [sparsity(model, name) for name in MODEL] == [0.5, 0.5, 0.0]
    kept = model.fc1.weight != 0
    assert not torch.equal(model.fc1.weight[kept], Model().fc1.weight[kept])


@pytest.mark.parametrize("kind", ["SparseGPTModifier", "WandaPruningModifier"])
def test_owl_spreads_the_zeros(printed, kind):
    more = "      sparsity_profile: owl\n      owl_m: 3\n      owl_lmbda: 0.08\n"
    code = printed(LLM.format(kind=kind, mask="0:0", targets="Linear", more=more))
    assert "allocation=ow.OWL(3, 0.08)" in code
    assert sparsity(execute(code)[0], "fc1", "fc2") == pytest.approx(0.5, abs=0.001)
    code = printed(LLM.format(kind=kind, mask="2:4", targets="Linear", more=more))
    assert "# sparsity_profile: owl is left out, as n:m gives every layer one sparsity." in code


@pytest.mark.parametrize("mask", ["0:0", "2:4"])
def test_a_profile_other_than_owl_is_left_out_with_its_own_reason(printed, mask):
    more = "      sparsity_profile: dlp\n"
    code = printed(LLM.format(kind="WandaPruningModifier", mask=mask, targets="Linear", more=more))
    assert "# sparsity_profile: dlp is left out; of the profiles only owl is translated." in code


ALTERNATING = """
{name}_stage:
  run_type: oneshot
  modifiers:
    SparseGPTModifier:
      sparsity: {share}
      percdamp: 0.1
{name}_training:
  run_type: train
  pruning_modifiers:
    ConstantPruningModifier:
      targets: __ALL__
"""


def test_stages_that_prune_at_once_and_train_alternate(printed):
    code = printed(ALTERNATING.format(name="a", share=0.5) + ALTERNATING.format(name="b", share=0.75))
    assert code.count("damping=0.1") == code.count("train(model, optimizer)") == 2
    model, seen = execute(code)
    assert (seen[0], seen[-1]) == (0.5, 0.75)
    assert sparsity(model) == 0.75


KAST = """
modifiers:
  - !TopKASTPruningModifier
    forward_sparsity: 0.75
    backward_sparsity: 0.5
    start_epoch: 0
    end_epoch: 3
    update_frequency: -1
    params: __ALL_PRUNABLE__
    global_sparsity: False
"""


def test_top_kast_trains_more_than_it_uses(printed):
    code = printed(KAST)
    assert "ow.TopKAST(ow.Constant(0.0001), sparsity=0.75, backward_sparsity=0.5, every=1)" in code
    assert "# optimizer.step() adds the penalty, in the place of weight decay" in code
    assert sparsity(execute(code)[0]) == 0.75


TRAINED = """
train_stage:
  pruning_modifiers:
    MagnitudePruningModifier:
      init_sparsity: 0.0
      final_sparsity: 0.5
      start: 0.0
      end: 2.0
      update_scheduler: cubic
      mask_structure: unstructured
      targets: __ALL_PRUNABLE__
  constant_modifiers:
    ConstantPruningModifier:
      targets: __ALL_PRUNABLE__
      start: 2.0
"""


def test_the_magnitude_of_llm_compressor_is_gradual_with_other_names(printed):
    code = printed(TRAINED)
    assert "every=1" in code
    assert sparsity(execute(code)[0]) == pytest.approx(0.5, abs=0.001)


def test_magnitude_pruning_after_acdc_has_nothing_to_do(printed):
    """As SparseML's own AC/DC recipes end."""
    last = (gradual().replace("modifiers:", "").replace("0.05", "0.5").replace("0.75", "0.5")
            .replace("start_epoch: 0.5", "start_epoch: 4.0").replace("end_epoch: 2.0", "end_epoch: 6.0"))  # fmt: skip
    code = printed(ACDC.format(end=4) + last)
    assert "# GMPruningModifier: the last phase of AC/DC is sparse and lasts, so that nothing has to follow it." in code
    assert sparsity(execute(code, 60)[0]) == pytest.approx(0.5, abs=0.001)


def test_a_weight_that_two_modifiers_name_has_the_higher_sparsity(printed):
    first = gradual(params="[fc1.weight, fc2.weight]").replace("0.75", "0.5")
    code = printed(first + gradual(params="[fc2.weight, head.weight]").replace("modifiers:", ""))
    model, _ = execute(code)
    assert [sparsity(model, name) for name in MODEL] == [0.5, 0.75, 0.75]


def test_sparsegpt_of_llm_compressor_preserves_zeros_where_it_is_asked_to(printed):
    more = "      preserve_sparsity_mask: True\n"
    code = printed(LLM.format(kind="SparseGPTModifier", mask="0:0", targets="Linear", more=more))
    assert "    keep_zeros=True,\n    batches=batches,\n" in code
    assert sparsity(execute(code)[0], "fc1", "fc2") == 0.5
