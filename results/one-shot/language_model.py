"""Trains the causal language model of PLAN.md, a small Llama on news, and writes it as transformers does."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

TRAINING = ("2008", "2009", "2010", "2011", "2012", "2015", "2016", "2017", "2018")
VALIDATION = "2014"
WINDOW, END = 256, "<|end|>"
SHARD = "15MB"


@dataclass(frozen=True)
class Recipe:
    """Size and training of the language model: AdamW, a linear warm-up and half a cosine to a tenth of the rate."""

    vocabulary: int = 4096
    width: int = 384
    hidden: int = 1024
    layers: int = 5
    heads: int = 6
    steps: int = 1_000
    batch: int = 32
    rate: float = 1e-3
    warm_up: int = 100
    decay: float = 0.1
    every: int = 50
    seed: int = 0

    def config(self) -> LlamaConfig:
        """The network; one matrix embeds and predicts."""
        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, max_position_embeddings=WINDOW,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
        )  # fmt: skip

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.55 + 0.45 * math.cos(math.pi * done))


TINY = Recipe(vocabulary=300, width=32, hidden=64, layers=2, heads=2, steps=4, batch=2, warm_up=1, every=2)
"""A model that says nothing, to try the commands."""


def tokenizer(lines: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE of the training text, whose token 0 ends a sentence."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    found.train_from_iterator(lines, trainer)
    return found


def windows(tokens: Tokenizer, lines: Sequence[str], length: int) -> Tensor:
    """The text's tokens in rows of ``length``, a sentence after the other; what is left over is dropped."""
    stream = [token for encoded in tokens.encode_batch(lines) for token in (*encoded.ids, 0)]
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length]).view(rows, length)


def train(
    folder: Path,
    read: Callable[[str], list[str]],
    loss: Callable[[Any, Tensor], float],
    device: torch.device,
    *,
    recipe: Recipe = Recipe(),
    seconds: float = math.inf,
) -> dict[str, Any] | None:
    """Trains into ``folder``, and goes on where an earlier call was stopped by its seconds.

    Args:
        folder: Gets the model, in bfloat16 and in files of at most 15 MB, and ``tokenizer.json``.
        read: year -> lines.
        loss: (model, windows) -> mean loss.
        device: What trains.
        recipe: Size and training.
        seconds: After these it is stopped, and ``training.pt`` holds its state.

    Returns:
        What is worth a row; None where it was stopped.
    """
    began = time.monotonic()
    text = [line for year in TRAINING for line in read(year)]
    tokens = tokenizer(text, recipe.vocabulary)
    rows, judges = windows(tokens, text, WINDOW), windows(tokens, read(VALIDATION), WINDOW).to(device)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(recipe.config()).to(device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    groups = [{"params": matrices, "weight_decay": recipe.decay},
              {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.95), fused=device.type == "cuda")
    state: dict[str, Any] = {"step": 0, "best": math.inf, "at": 0, "seconds": 0.0, "weights": None}
    saved = folder / "training.pt"
    if saved.exists():
        held = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(held.pop("model"))
        optimizer.load_state_dict(held.pop("optimizer"))
        state = held
    earlier = state["seconds"]
    for step, batch in orders(recipe, rows, state["step"]):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        some = batch.to(device)
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            objective = model(input_ids=some, labels=some).loss
        optimizer.zero_grad()
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state["step"], state["seconds"] = step + 1, earlier + time.monotonic() - began
        if (step + 1) % recipe.every == 0 or step + 1 == recipe.steps:
            now = loss(model.eval(), judges)
            if now < state["best"]:
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                state |= {"best": now, "at": step + 1, "weights": weights}
        if time.monotonic() - began > seconds and step + 1 < recipe.steps:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
            return None
    model.load_state_dict(state["weights"])
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=SHARD)
    tokens.save(str(folder / "tokenizer.json"))
    saved.unlink(missing_ok=True)
    return {
        "weights": sum(p.numel() for p in model.parameters()),
        "tokens": rows.numel(),
        "steps": recipe.steps,
        "chosen_step": state["at"],
        "validation_loss": f"{state['best']:.4f}",
        "seconds": f"{state['seconds']:.1f}",
    }


def orders(recipe: Recipe, rows: Tensor, first: int) -> Iterator[tuple[int, Tensor]]:
    """Steps from ``first`` on with their batches: each epoch is a permutation of its own, found by arithmetic."""
    per_epoch = max(1, len(rows) // recipe.batch)
    epoch, order = -1, torch.empty(0)
    for step in range(first, recipe.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed + 1000 * epoch))
        at = step % per_epoch * recipe.batch
        yield step, rows[order[at : at + recipe.batch]]
