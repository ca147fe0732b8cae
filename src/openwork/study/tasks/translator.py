"""What a task that translates sentences can do besides."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from openwork.study.data.vocabulary import Vocabulary


class Translator(Protocol):
    """What `Task.translator` returns; `Translation` in `study/tasks/translation.py` is one."""

    @property
    def length(self) -> int:
        """Tokens of a training row; a longer sentence is none that the model was trained on."""

    def vocabulary(self) -> Vocabulary:
        """The model's pieces of words."""

    def translate(
        self,
        model: nn.Module,
        sentences: Sequence[str],
        device: torch.device,
        *,
        beam: int = ...,
        alpha: float = ...,
        batch_size: int = ...,
    ) -> list[str]:
        """A translation of each sentence, in order.

        Args:
            model: A model of the task, on the device.
            sentences: The sentences, in the source language.
            device: Where the model is.
            beam: How many partial translations to follow at once.
            alpha: Strength of the length penalty, at least 0.
            batch_size: How many sentences to translate at once.
        """
