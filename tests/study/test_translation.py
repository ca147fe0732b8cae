import math
import re
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import openwork as ow
from openwork.study.data.number_words import number_words
from openwork.study.experiments import number_words as experiments
from openwork.study.experiments import transformer as grids
from openwork.study.models.transformer import padded
from openwork.study.runs.execute import execute
from openwork.study.runs.live import restore
from openwork.study.runs.run import Run
from openwork.study.tasks.number_words import NumberWords
from openwork.study.tasks.translation import check_vocabulary, smoothed_entropy
from openwork.study.tasks.wmt import TextTranslation

CPU = torch.device("cpu")
TINY = NumberWords(width=16, hidden=16, heads=2, layers=1, rows=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training of the default: its directory and result."""
    folder = tmp_path_factory.mktemp("runs")
    run = Run(replace(NumberWords(), rows=4), None, 400)
    return folder / run.id, execute(run, folder, evaluations=1)


def test_the_learning_rate_rises_and_falls_as_in_the_original():
    task = grids.WMT14

    def original(step):
        return 2.0 * min(1, step / 8000) * max(step, 8000) ** -0.5 * 512**-0.5

    for step in (0, 1, 4_000, 8_000, 9_000, 250_000, 499_999):
        assert task.learning_rate(step / 500_000) == pytest.approx(original(step))
    assert task.peak_learning_rate == pytest.approx(9.88e-4, abs=1e-6)
    (group,) = task.optimizer(torch.nn.Linear(2, 2)).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.997), 1e-9, 0)


def test_the_smoothed_loss_by_hand():
    task = replace(TINY, label_smoothing=0.1)
    logits = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 0.0, 3.0, 0.0], [9.0, 9.0, 9.0, 0.0]])

    class Fixed(torch.nn.Module):
        def forward(self, source, target):
            return logits

    batch = (padded([[2, 1]]), padded([[3, 2]], 3))  # labels 3, 2 and padding, which does not count
    log_p = logits.log_softmax(1)
    others = 0.1 / 3
    expected = [
        -sum(p * (0.9 if n == label else others) for n, p in enumerate(row.tolist()))
        for row, label in zip(log_p, (3, 2), strict=False)
    ]
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(others)
    assert float(task.loss(Fixed(), batch)) == pytest.approx(sum(expected) / 2 - entropy, abs=1e-6)
    assert smoothed_entropy(0.1, 3) == pytest.approx(entropy)
    plain = replace(TINY, label_smoothing=0.0).loss(Fixed(), batch)
    torch.testing.assert_close(plain, F.cross_entropy(logits[:2], torch.tensor([3, 2])))


def test_a_short_training_translates_number_words(trained):
    _, result = trained
    assert result.after["bleu"] > 25  # 43 on one CPU; an untrained model has 0
    assert result.after["tokenized_bleu"] == pytest.approx(result.after["bleu"])  # no compound, no odd token
    assert result.after["accuracy"] > 0.8


@pytest.mark.slow
def test_number_words_are_learned(tmp_path):
    result = execute(experiments.dense(), tmp_path, evaluations=1)
    assert result.after["bleu"] > 90


@pytest.fixture
def deterministic(monkeypatch):
    """What `openwork run --deterministic` sets."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores", "ignore:The CUDA Graph is empty")
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param({"compile": True}, marks=pytest.mark.slow),  # by inductor: a minute of a compiler
        pytest.param({"device": "cuda"}, marks=pytest.mark.gpu),
        pytest.param({"device": "cuda", "compile": True}, marks=pytest.mark.gpu),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "technique",
    [None, ow.VariationalDropout(ow.AveragedCubic(1e-4, end=4)), ow.L0(ow.Constant(1e-4))],
    ids=["dense", "variational dropout", "l0"],
)
def test_resuming_in_the_middle_of_an_epoch_is_exact(technique, how, tmp_path, monkeypatch):
    check_resuming(technique, tmp_path, monkeypatch, **how)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.AveragedCubic(1e-4, end=4)), ow.L0(ow.Constant(1e-4))])
def test_so_it_is_in_compiled_code(technique, tmp_path, monkeypatch):  # which has the dropout of a dense one, too
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    check_resuming(technique, tmp_path, monkeypatch, compile=True)


def check_resuming(technique, tmp_path, monkeypatch, **how):
    monkeypatch.setattr(NumberWords, "pairs", lambda self, split: number_words(split)[:2])  # decoding takes seconds
    run = Run(replace(TINY, residual_dropout=0.1, attention_dropout=0.1, hidden_dropout=0.1), technique, 6)

    class StoppedError(Exception):
        pass

    def stop(step):
        if step == 5:
            raise StoppedError

    execute(run, tmp_path / "whole", evaluations=3, **how)
    with pytest.raises(StoppedError):
        execute(run, tmp_path / "resumed", evaluations=3, progress=stop, **how)
    execute(run, tmp_path / "resumed", evaluations=3, **how)
    whole, resumed = (restore(tmp_path / name / run.id).model.state_dict() for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(TINY.packed().ids) // TINY.rows > 6  # the epoch was not over


def test_sets_that_judge_a_model_are_looked_at_before_it_is_trained(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path / "cache"))
    for name, english, german in (("none", "", ""), ("holes", "one\n\n", "eins\nzwei\n")):
        (tmp_path / f"{name}.en").write_text(english)
        (tmp_path / f"{name}.de").write_text(german)
    task = TextTranslation(training=("holes",), development="holes.dev", testing="none")
    (tmp_path / "holes.dev.en").write_text("one\n\n")
    (tmp_path / "holes.dev.de").write_text("eins\nzwei\n")
    with pytest.raises(ValueError, match="none has no sentence pair to judge a model by; give another development"):
        task.packed()
    assert "1 of 2 lines of holes.dev have an empty side; they count like the others" in caplog.text
    assert task.pairs("dev") == [("one", "eins"), ("", "zwei")]


def test_evaluation_counts_every_token(monkeypatch):
    pairs = number_words("dev")[:7]
    task, torch_seed = TINY, torch.manual_seed(0)
    assert torch_seed
    model = task.model()
    monkeypatch.setattr(NumberWords, "pairs", lambda self, split: pairs)
    found = task.evaluate(model, CPU)
    assert model.training
    model.eval()
    encode, totals = task.vocabulary().encode, [0.0, 0, 0]
    for source, target in pairs:
        ids = [[*encode([text])[0], 1] for text in (source, target)]
        logits = model(padded([ids[0]]), padded([ids[1]]))
        labels = torch.tensor(ids[1])
        totals[0] += F.cross_entropy(logits, labels, reduction="sum").item()
        totals[1] += (logits.argmax(1) == labels).sum().item()
        totals[2] += len(labels)
    assert found == {"accuracy": pytest.approx(totals[1] / totals[2]), "loss": pytest.approx(totals[0] / totals[2])}


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(0.0)), ow.L0(ow.Constant(0.0), dropout=0.9)])
def test_translations_are_those_of_the_finalized_model(technique):
    torch.manual_seed(0)
    model = TINY.model()
    sparsifier = ow.sparsify(model, technique)
    with torch.no_grad():
        for parameter in sparsifier.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    sentences = [english for english, _ in number_words("test")[:4]]
    assert TINY.translate(model, sentences, CPU) == TINY.translate(sparsifier.finalized_copy(), sentences, CPU)


def test_another_vocabulary_is_refused():
    vocabulary = TINY.vocabulary()
    model = TINY.model()
    check_vocabulary(model, vocabulary)

    @dataclass
    class Other:
        size: int
        fingerprint: int

    for other in (Other(vocabulary.size, 5), Other(vocabulary.size + 1, vocabulary.fingerprint)):
        with pytest.raises(ValueError, match="give the one that the model was trained with"):
            check_vocabulary(model, other)


def test_the_test_set_is_never_trained_on():
    with pytest.raises(ValueError, match="my-test is for development or testing"):
        TextTranslation(training=("news", "my-test"), testing="my-test")
    with pytest.raises(ValueError, match="at least one source"):
        TextTranslation(training=())


@pytest.mark.parametrize(
    "source",
    [
        "old/NewsTest2014",
        "copies/newstest2013.clean",
        "hub:wmt/wmt14/de-en/test",
        "hub:wmt/wmt14/de-en/train+test",
        "hub:wmt/wmt14/de-en/train[:10%] + validation[:50%]",
        "hub:wmt/wmt14/de-en/test[:50%](closest)",
        "hub:wmt/wmt14/de-en/all",
        "hub:wmt/wmt15/de-en/validation",
        "hub:wmt/wmt_t2t/de-en/test",
    ],
)
def test_newstest2013_and_2014_are_never_trained_on(source):
    with pytest.raises(ValueError, match=rf"{re.escape(source)} is not for training, as .*newstest2014"):
        TextTranslation(training=("news", source))


def test_other_splits_of_the_hub_are_trained_on():
    sources = ("hub:wmt/wmt14/de-en/train[:50%]", "hub:wmt/wmt15/de-en/train+test", "hub:wmt/wmt16/de-en/test")
    assert TextTranslation(training=sources).training == sources


def test_the_grids_are_the_papers():
    counts = {"dense": 5, "magnitude": 504, "random_pruning": 630, "variational_dropout": 372, "l0": 930}
    runs = {name: getattr(grids, name)() for name in counts}
    assert {name: len(found) for name, found in runs.items()} == counts
    assert {name: len({run.id for run in found}) for name, found in runs.items()} == counts
    assert {run.steps for found in runs.values() for run in found} == {500_000}
    assert len(grids.THRESHOLDS) == 11
    assert len({run.id for run in grids.small()}) == len(grids.small()) == 36
    assert {run.technique.schedule.final for run in runs["magnitude"]} == set(grids.SPARSITIES)


def test_scratch_and_lottery_are_875_runs():
    runs = grids.scratch_and_lottery()
    assert len({run.id for run in runs}) == len(runs) == 875
    assert sum(run.name == "LotteryTicket" for run in runs) == 175
    (longer,) = {(run.task.learning_rate(0.1), run.steps) for run in runs if run.steps > 500_000}
    assert longer == (pytest.approx(runs[0].task.learning_rate(0.2)), 1_000_000)  # the same rate at the same step
