"""What a file's matrices are taken for where no module says it."""

import pytest
import torch

from openwork.inspect.kinds import called_embedding, taken_for, usually_dense

LAYERS = {"fc1.weight": (8, 4), "fc1.bias": (8,), "fc2.weight": (4, 8), "fc2.bias": (4,)}


def state(**more):
    return {name: torch.ones(shape) for name, shape in (LAYERS | more).items()}


@pytest.mark.parametrize(
    "name", ["emb.weight", "wte.weight", "tok_emb.weight", "emb_l.0.weight", "src.0.lut.weight", "shared.weight",
             "Embedding_0.weight", "cls_embed", "lm_head.weight", "encoder.wpe.weight"]
)  # fmt: skip
def test_embeddings_are_known_by_their_names(name):
    assert "by its name" in usually_dense(state(**{name: (4, 4)}))[name]


def test_what_has_a_bias_or_a_kernel_is_a_layer_whatever_its_name():
    layers = state(**{"time_embed.weight": (8, 4), "time_embed.bias": (8,), "patch_embed.proj.weight": (4, 4, 2, 2),
                      "shared.fc.weight": (4, 8), "member.weight": (4, 4)})  # fmt: skip
    assert usually_dense(layers) == {}
    assert not called_embedding("patch_embed.proj.weight", layers)


def test_a_layer_that_is_the_whole_file_has_its_bias_beside_it():
    layer = {"weight": torch.ones(8, 4), "bias": torch.ones(8)}
    assert usually_dense(layer) == {}
    assert list(usually_dense({"weight": layer["weight"]})) == ["weight"]


def test_rows_that_no_other_tensor_takes_are_those_of_an_embedding_or_of_the_output():
    found = usually_dense(state(**{"words.weight": (50, 4), "last.weight": (50, 4)}))
    assert found == dict.fromkeys(
        ("words.weight", "last.weight"),
        "an embedding or the output's matrix by its 50 rows, which no other tensor takes",
    )


@pytest.mark.parametrize(
    "more",
    [
        {"a.weight": (50, 4), "b.weight": (4, 50)},  # b takes its rows
        {"a.weight": (50, 4), "norm.weight": (50,)},
        {"a.weight": (50, 4), "a.bias": (50,)},
        {"blocks.0.qkv.weight": (12, 4), "blocks.1.qkv.weight": (12, 4)},  # split by the attention of equal blocks
        {"classes.weight": (3, 4)},
        {"weight_ih_l0": (50, 4)},
        {"conv.weight": (50, 4, 3, 3)},
    ],
)
def test_layers_without_biases_are_no_embeddings(more):
    assert usually_dense(state(**more)) == {}


def test_a_bias_of_the_output_takes_no_rows():
    assert list(usually_dense(state(**{"words.weight": (50, 4), "final_logits_bias": (1, 50)}))) == ["words.weight"]


def test_the_configuration_says_which_rows_are_a_vocabulary_s_or_positions():
    tensors = state(**{"a.weight": (3, 4), "b.weight": (3, 4), "b.bias": (3,), "c.weight": (2, 4), "d.weight": (2, 4),
                       "d.bias": (2,)})  # fmt: skip
    found = usually_dense(tensors, {"text_config": {"vocab_size": 3}, "type_vocab_size": 2, "tie": True})
    assert list(found) == ["a.weight", "b.weight", "c.weight"]  # d has a bias: two classes
    assert found["b.weight"] == "an embedding or the output's matrix by config.json, which has its 3 rows"
    assert list(usually_dense(tensors, {"max_position_embeddings": 2})) == ["c.weight"]
    assert usually_dense(tensors, ["vocab_size", 3]) == {}


def test_a_gate_is_a_router_where_there_are_experts():
    gate, experts = {"mlp.gate.weight": (2, 4)}, {"mlp.experts.0.up.weight": (8, 4), "mlp.experts.1.up.weight": (8, 4)}
    assert usually_dense(state(**gate)) == {}
    assert usually_dense(state(**gate, **experts)) == {"mlp.gate.weight": "a router of experts by its name"}


def test_a_pruned_matrix_is_taken_for_a_layer():
    shapes = {"fc.weight": (4, 4), "conv.weight": (4, 4, 3), "mlp.experts.up": (2, 4, 4)}
    found = [taken_for(name, torch.ones(shape)) for name, shape in shapes.items()]
    assert found == ["a linear layer", "a convolution", "experts"]
