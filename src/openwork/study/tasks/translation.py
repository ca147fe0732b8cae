"""Translation by a Transformer, trained as Gale et al. 2019 (arXiv 1902.09574) trained tensor2tensor's base model.

Vaswani et al. 2017, arXiv 1706.03762. On a GPU layers compute in bfloat16 (autocast), parameters and losses in float32.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.sparsifier import Sparsifier
from openwork.study.data.packing import Packed, batch_of, by_length, packed_batches
from openwork.study.data.vocabulary import EOS, PADDING, Vocabulary
from openwork.study.evaluation.beam import ALPHA, BEAM, EXTRA_LENGTH, beam_search
from openwork.study.evaluation.bleu import sacre_bleu, signature, tokenized_bleu
from openwork.study.evaluation.metric import BLEU, DataName, Metric
from openwork.study.models.incremental import Incremental
from openwork.study.models.transformer import Transformer, padded
from openwork.study.processes import rank, world_size
from openwork.study.tasks.parts import Parts
from openwork.study.tasks.task import Task

_EVALUATED_TOKENS = 8_192  # of a batch without gradients, padding included
TokenBatch = tuple[Tensor, Tensor]
"""Source and target, each (3, N, L): ids, segments and positions."""


@dataclass(frozen=True)
class Translation(Task, ABC):
    """A Transformer that translates; Adam (beta 0.9, 0.997, epsilon 1e-9).

    The learning rate rises on a straight line during the fraction ``warmup`` of the steps and falls with the square
    root of the step from then on.

    Args:
        rows: Rows of a step; each holds several sentences.
        length: Tokens of a row, on both sides.
        peak_learning_rate: The learning rate at the end of the warm-up.
        warmup: The fraction of the steps during which the rate rises.
        width: As `Transformer` has it, like ``hidden``, ``heads``, ``layers``, the three dropouts and ``split_heads``.
        label_smoothing: The probability that the target gives to all other tokens.
        judged_on: The data of the final metrics. "validation", the development set, is for runs that settings are
            chosen by.
    """

    rows: int = 64
    length: int = 256
    peak_learning_rate: float = 2 * 512**-0.5 * 8_000**-0.5
    warmup: float = 0.016
    width: int = 512
    hidden: int = 2048
    heads: int = 8
    layers: int = 6
    residual_dropout: float = 0.1
    attention_dropout: float = 0.1
    hidden_dropout: float = 0.1
    label_smoothing: float = 0.1
    split_heads: bool = field(default=False, kw_only=True)
    judged_on: DataName = field(default="test", kw_only=True)

    watched_on: ClassVar[DataName] = "validation"

    @property
    @abstractmethod
    def benchmark(self) -> str:
        """The model and its data, with which the title begins."""

    @property
    def title(self) -> str:
        """The benchmark, and whether the metrics are those of validation."""
        return f"{self.benchmark}{', validation' if self.judged_on == 'validation' else ''}"

    @property
    def metric(self) -> Metric:
        """BLEU."""
        return BLEU.on(self.judged_on)

    def judge_on(self, data: DataName) -> Self:
        """The task, with other data for `test`."""
        return replace(self, judged_on=data)

    @property
    def metrics_note(self) -> str:
        """What the figures of `test` are."""
        return f"bleu: sacrebleu {signature()}; tokenized_bleu: Moses tokens, split compounds, as Gale et al. 2019"

    @property
    def target_language(self) -> str:
        """The language of the translations, whose rules tokenise them for the paper's BLEU."""
        return "de"

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of both languages."""

    @abstractmethod
    def packed(self) -> Packed:
        """The training data."""

    @abstractmethod
    def pairs(self, split: str) -> list[tuple[str, str]]:
        """The sentences of "dev" or "test" and their translations, all of them."""

    def model(self) -> nn.Module:
        """A freshly initialised Transformer of the vocabulary."""
        vocabulary = self.vocabulary()
        return Transformer(
            vocabulary.size,
            width=self.width,
            hidden=self.hidden,
            heads=self.heads,
            layers=self.layers,
            residual_dropout=self.residual_dropout,
            attention_dropout=self.attention_dropout,
            hidden_dropout=self.hidden_dropout,
            split_heads=self.split_heads,
            fingerprint=vocabulary.fingerprint,
        )

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(
            model.parameters(), lr=self.peak_learning_rate, betas=(0.9, 0.997), eps=1e-9, fused=True
        )

    def learning_rate(self, progress: float) -> float:
        """The peak * min(progress / warmup, sqrt(warmup / progress))."""
        if progress < self.warmup:
            return self.peak_learning_rate * progress / self.warmup
        return self.peak_learning_rate * math.sqrt(self.warmup / progress) if progress else self.peak_learning_rate

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[TokenBatch | Parts]:
        """Endless packed rows; each of several processes has its share of them, a part of the batch."""
        own, count = rank(), world_size()
        shares = packed_batches(self.packed(), self.rows, seed=seed, start=start, device=device, rank=own, ranks=count)
        return shares if count == 1 else (Parts([share], own, count) for share in shares)

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The model's output (tokens, vocabulary) as float32; on a GPU computed in bfloat16."""
        source, target = batch
        with torch.autocast(source.device.type, torch.bfloat16, enabled=source.is_cuda):
            logits: Tensor = model(source, target)
        return logits.float()

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The mean over target tokens of the cross-entropy with the smoothed label, less that label's entropy; nats."""
        logits, labels = self.logits(model, batch), batch[1][0].flatten()
        others = logits.shape[-1] - 1
        # torch spreads the smoothing over all tokens, the original over all others.
        smoothing = self.label_smoothing * (others + 1) / others
        loss = F.cross_entropy(logits, labels, ignore_index=PADDING, label_smoothing=smoothing)
        return loss - smoothed_entropy(self.label_smoothing, others)

    def example(self, device: torch.device) -> TokenBatch:
        """The first row of the training data."""
        packed = self.packed()
        return batch_of(packed.ids[:1], packed.segments[:1], device)

    @property
    def axes(self) -> dict[int, str]:
        """Rows, each of ids, segments and positions, and their tokens."""
        return {1: "batch", 2: "tokens"}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """On the development set: the accuracy of each next token (0-1) and the mean cross-entropy, in nats."""
        return self._teacher_forced(model, device, "dev")

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """On the data of ``judged_on``: the same, and BLEU (0-100) of translations by beam search.

        bleu is sacrebleu's, tokenized_bleu the paper's.
        """
        split = "test" if self.judged_on == "test" else "dev"
        pairs = self.pairs(split)
        references = [target for _, target in pairs]
        translations = self.translate(model, [source for source, _ in pairs], device)
        return {
            **self._teacher_forced(model, device, split),
            "bleu": sacre_bleu(translations, references)[0],
            "tokenized_bleu": tokenized_bleu(translations, references, self.target_language),
        }

    def translator(self) -> "Translation":
        """The task itself."""
        return self

    @torch.no_grad()
    def translate(
        self,
        model: nn.Module,
        sentences: Sequence[str],
        device: torch.device,
        *,
        beam: int = BEAM,
        alpha: float = ALPHA,
        batch_size: int = 128,
    ) -> list[str]:
        """A translation of each sentence, in order, by beam search; "" of "".

        A translation is at most 100 ids longer than its source. On a GPU weights are bfloat16.

        Args:
            model: A Transformer of this task's vocabulary.
            sentences: The sentences, in the source language.
            device: Where the model is.
            beam: How many partial translations to follow at once.
            alpha: Strength of the length penalty, at least 0.
            batch_size: How many sentences to translate at once.

        Raises:
            ValueError: If the model was trained with another vocabulary.
        """
        assert isinstance(model, Transformer)
        vocabulary = self.vocabulary()
        check_vocabulary(model, vocabulary)
        training = model.training
        decoder = Incremental(model.eval(), torch.bfloat16 if device.type == "cuda" else torch.float32)
        ids = [[*found, EOS] if found else [] for found in vocabulary.encode(sentences)]
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: (-len(ids[i]), i))
        translations = [""] * len(sentences)
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            limits = torch.tensor([len(ids[i]) + EXTRA_LENGTH for i in batch]).to(device)
            prefixes = decoder.begin(padded([ids[i] for i in batch]).to(device), beam)
            for i, found in zip(batch, beam_search(prefixes, limits, beam=beam, alpha=alpha)[0], strict=True):
                translations[i] = vocabulary.decode(found)
        model.train(training)
        return translations

    @torch.no_grad()
    def _teacher_forced(self, model: nn.Module, device: torch.device, split: str) -> dict[str, float]:
        check_vocabulary(model, self.vocabulary())  # a resumed run may find other data than it began with
        training = model.training
        model.eval()
        pairs = self.pairs(split)
        # Never left out, however long or empty: all models are judged by the same sentences.
        sides = [self.vocabulary().encode([pair[side] for pair in pairs]) for side in range(2)]
        lengths = [max(len(source), len(target)) + 1 for source, target in zip(*sides, strict=True)]
        totals = torch.zeros(3, device=device)
        for batch in by_length(lengths, _EVALUATED_TOKENS):
            source, target = (padded([[*side[i], EOS] for i in batch]).to(device) for side in sides)
            logits, labels = self.logits(model, (source, target)), target[0].flatten()
            right = ((logits.argmax(1) == labels) & (labels != PADDING)).sum()
            nats = F.cross_entropy(logits, labels, ignore_index=PADDING, reduction="sum")
            totals += torch.stack([right, nats, (labels != PADDING).sum()])
        model.train(training)
        accuracy, loss = (totals[:2] / totals[2]).tolist()
        return {"accuracy": accuracy, "loss": loss}


def smoothed_entropy(smoothing: float, others: int) -> float:
    """The entropy in nats of a smoothed label, below which no loss can fall.

    Args:
        smoothing: The probability that the label spreads over other tokens, in [0, 1).
        others: How many other tokens there are.
    """
    if not smoothing:
        return 0.0
    return -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / others)


def check_vocabulary(model: nn.Module, vocabulary: Vocabulary) -> None:
    """Checks that the model was trained with this vocabulary, as any other gives nonsense.

    Raises:
        ValueError: If it was trained with another one.
    """
    embedding = model.get_submodule("embedding")
    assert isinstance(embedding, nn.Embedding)
    known, size = int(model.get_buffer("fingerprint")), embedding.num_embeddings
    if known not in (0, vocabulary.fingerprint) or size != vocabulary.size:
        raise ValueError(
            f"the vocabulary has {vocabulary.size} ids (fingerprint {vocabulary.fingerprint:x}) and the model's had "
            f"{size} (fingerprint {known:x}); give the one that the model was trained with"
        )
