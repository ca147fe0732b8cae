"""Tiny folders as transformers and tokenizers write them, and `openwork` as a user calls it."""

import json
import sys

import pytest
import torch

from openwork.cli import main

TEXT = "\n".join(f"the {word} sees a small dog and {word} runs home again" for word in ("cat", "man", "bird") * 40)


def openwork(monkeypatch, *arguments: object) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["openwork", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def write_tokenizer(folder, size: int = 40):
    """A tokenizer.json that knows the words of TEXT, and further ones up to ``size``."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    words = list(dict.fromkeys(["[UNK]", *TEXT.split()]))
    words += [f"word{number}" for number in range(size - len(words))]
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(8)  # as many folders have it
    tokenizer.save(str(folder / "tokenizer.json"))


def pretrained(folder, kind: str, *, dtype: torch.dtype = torch.float32, shard: str = "50GB", **changes: object):
    """A model with random weights, saved to ``folder`` with a tokenizer; the folder."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0}
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = {**size, **small}
    settings = {
        "GPT2LMHeadModel": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, **small},
        "LlamaForCausalLM": {"num_key_value_heads": 1, "max_position_embeddings": 64, **llama},
        "MixtralForCausalLM": {
            "num_local_experts": 3, "num_key_value_heads": 1, "max_position_embeddings": 64, **llama
        },
        "ViTModel": {"image_size": 8, "patch_size": 4, **size},
        "BertModel": {"max_position_embeddings": 64, **llama},
        "T5ForConditionalGeneration": {
            "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 40,
            "decoder_start_token_id": 0, "pad_token_id": 0,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    model = made(made.config_class(**settings[kind] | changes)).to(dtype)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    (folder / "README.md").write_text("a model\n")
    return folder


def headers(folder):
    """The header of each safetensors file of a folder, as it is there."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        found[path.name] = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return found


def tensors(folder):
    """All tensors of a folder or file by name, read by safetensors itself."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def printed(capsys):
    """What was printed as JSON."""
    return json.loads(capsys.readouterr().out)
