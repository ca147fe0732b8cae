"""Calibration texts: the lines of a file as windows of tokens."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    import transformers
except ImportError as error:
    raise ImportError('transformers is missing; pip install "openwork[transformers]"') from error


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder: its tokenizer.json, or what transformers makes of its other files.

    Raises:
        ValueError: If there is none.
    """
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            kind: Any = transformers.PreTrainedTokenizerFast
            return kind(tokenizer_file=str(path))
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the library's parsers raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{folder} has no tokenizer that can be read ({reason}); give the one that the model was trained with"
        ) from error


def windows(tokenizer: Any, path: Path, *, known: int, tokens: int, samples: int, seed: int) -> Tensor:
    """Ids (windows, tokens): the file's lines one after the other, cut into windows, of which a seed chooses.

    Each line gets the special tokens that the tokenizer adds to a text.

    Args:
        tokenizer: What `read_tokenizer` returned.
        path: Plain text in UTF-8.
        known: How many ids the model knows.
        tokens: The length of a window.
        samples: How many windows to choose; all of them where there are fewer.
        seed: Chooses them.

    Raises:
        ValueError: If the text is not UTF-8, has fewer tokens than a window, or has ids that the model does not know.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start:,}); convert it") from error
    if not lines:
        raise ValueError(f"{path} has no text; give one of at least {tokens} tokens for --calibration")
    encoded = tokenizer(lines, verbose=False, return_attention_mask=False)["input_ids"]
    ids = [number for line in encoded for number in line]
    count = len(ids) // tokens
    if not count:
        raise ValueError(
            f"{path} has {len(ids):,} tokens, and one window takes {tokens:,}; give a longer text, or shorter windows"
        )
    if max(ids) >= known:
        raise ValueError(
            f"the tokenizer gives the id {max(ids):,}, and the model knows {known:,}; give the folder of the tokenizer "
            "that the model was trained with"
        )
    chosen = sorted(random.Random(seed).sample(range(count), min(samples, count)))
    return torch.tensor(ids[: count * tokens], device="cpu").view(count, tokens)[chosen]
