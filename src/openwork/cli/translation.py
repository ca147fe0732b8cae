"""Commands for text: translate, bleu."""

import math
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openwork.cli.common import (
    Checkpoint,
    Device,
    Json,
    Trust,
    checked_device,
    error_console,
    found_run,
    json_output,
    json_text,
    out_console,
    print_json,
)
from openwork.cli.weights import with_vocabulary, with_weights
from openwork.words import count

if TYPE_CHECKING:
    import torch
    from torch import nn

    from openwork.study.runs.run import Run
    from openwork.study.tasks.translator import Translator

_CHUNK = 10_000  # lines that are sorted by length together


def translate(
    checkpoint: Checkpoint,
    beam: Annotated[int, typer.Option(min=1, help="How many partial translations to follow at once.")] = 4,
    alpha: Annotated[float, typer.Option(help="Strength of the length penalty, at least 0.")] = 0.6,
    batch: Annotated[int, typer.Option(min=1, help="How many sentences to translate at once.")] = 128,
    threshold: Annotated[float | None, typer.Option(help="Another threshold on log alpha.")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="The model's vocabulary file, if not the run's.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="For a file of weights alone, a Run with its model.")
    ] = None,
    device: Device = "cpu",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Translate standard input, a sentence a line, to standard output with the model of a run."""
    if not 0 <= alpha < math.inf:  # below 0 the search would stop too early
        raise ValueError(f"--alpha must be a finite number of at least 0, got {alpha}")
    place, checkpoint = checked_device(device), found_run(checkpoint)
    if task and threshold is not None:
        raise ValueError(
            "--threshold needs a run of variational dropout, --task a file of weights alone; leave one out"
        )
    if task:
        run, model = with_weights(task, checkpoint, vocabulary=vocabulary)
    else:
        run, model = _trained(checkpoint, threshold, vocabulary, trust)
    _translate(
        run.task.translator(), model.to(place).eval(), place, beam=beam, alpha=alpha, batch=batch, as_json=as_json
    )


def _trained(
    checkpoint: Path, threshold: float | None, vocabulary: Path | None, trust: list[str] | None
) -> tuple["Run", "nn.Module"]:
    """The run of a checkpoint and its finalized model."""
    from openwork.study.runs.config import TRUSTED, override
    from openwork.study.runs.live import read_run, restore

    trusted = (*TRUSTED, *(trust or ()))
    run = read_run(checkpoint, trusted=trusted)
    run.task.translator()
    if threshold is not None:
        if not run.technique or run.technique.threshold is None:
            raise ValueError(f"--threshold is for variational dropout; this run trained {run.name}")
        run = override(run, [f"technique.threshold={threshold}"])
    run = with_vocabulary(run, vocabulary)
    return run, restore(checkpoint, run=run, trusted=trusted).finalized_copy()


def _translate(
    task: "Translator", model: "nn.Module", place: "torch.device", *, beam: int, alpha: float, batch: int, as_json: bool
) -> None:
    """Standard input to standard output."""
    known = task.vocabulary()
    lines, empty, long, unknown = _lines(sys.stdin.buffer, "standard input"), 0, 0, 0
    while sentences := list(islice(lines, _CHUNK)):
        empty += sentences.count("")
        encoded = known.encode(sentences)
        long += sum(len(ids) >= task.length for ids in encoded)
        unknown += sum(ids.count(known.unknown) for ids in encoded) if known.unknown is not None else 0
        found = task.translate(model, sentences, place, beam=beam, alpha=alpha, batch_size=batch)
        # One line in, one line out, whatever the model says.
        texts = [" ".join(text.split()) for text in found]
        if as_json:
            pairs = zip(sentences, texts, strict=True)
            texts = [json_text("translate", indent=None, source=each, translation=text) for each, text in pairs]
        output = json_output().buffer
        output.writelines(text.encode() + b"\n" for text in texts)
        output.flush()
    if empty or long or unknown:
        note = (
            f"{count(empty, 'empty line')} stayed empty; {count(long, 'line is', 'lines are')} longer than any that "
            f"the model was trained on; {count(unknown, 'piece is', 'pieces are')} not in its vocabulary"
        )
        error_console.print(note, highlight=False, soft_wrap=True)


def bleu(
    translations: Annotated[Path, typer.Argument(help="Plain text, a translation a line.")],
    references: Annotated[Path, typer.Argument(help="Plain text, the reference of each on the same line.")],
    language: Annotated[str, typer.Option(help="The language, whose rules split the text into tokens.")] = "de",
    as_json: Json = False,
) -> None:
    """Count BLEU of a file as sacrebleu does, with its signature, and as the paper did."""
    from openwork.study.evaluation.bleu import sacre_bleu, tokenized_bleu

    texts = []
    for path in (translations, references):
        with path.open("rb") as file:
            texts.append(list(_lines(file, str(path))))
    if len(texts[0]) != len(texts[1]):
        raise ValueError(
            f"{translations} has {count(len(texts[0]), 'line')} and {references} {len(texts[1])}; line i of one must "
            "belong to line i of the other"
        )
    ours, theirs = texts
    score, signature = sacre_bleu(ours, theirs)
    paper = tokenized_bleu(ours, theirs, language)
    if as_json:
        print_json("bleu", bleu=score, signature=signature, tokenized_bleu=paper)
    else:
        out_console.print(f"BLEU {score:.2f}  sacrebleu {signature}", highlight=False, soft_wrap=True)
        out_console.print(f"BLEU {paper:.2f}  Moses tokens, split compounds, as Gale et al. 2019", highlight=False)


def _lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    from openwork.study.data.text import decoded

    return (decoded(line, name, number).strip() for number, line in enumerate(file, 1))
