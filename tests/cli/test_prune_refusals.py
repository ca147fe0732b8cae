"""What `openwork prune` refuses: in one sentence, before it writes anything."""

import json

import pytest
import torch
from safetensors.torch import save_file

import openwork as ow
from openwork.cli.prune import ALLOCATIONS, TECHNIQUES
from tests.cli.folders import TEXT, openwork, pretrained, tensors, write_tokenizer


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs `openwork prune` with these arguments; returns the one sentence, having checked that nothing was written."""

    def run(source, *arguments, code=2, out=None):
        out = out or tmp_path / "sparse"
        existed = out.exists()
        assert openwork(monkeypatch, "prune", source, *arguments, "--out", out) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert out.exists() == existed
        assert not list(tmp_path.glob(".*"))
        return said.err

    return run


@pytest.fixture
def bert(tmp_path):
    return pretrained(tmp_path / "dense", "BertModel")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


MAGNITUDE = ("--technique", "magnitude", "--sparsity", "0.5")
WANDA = ("--technique", "wanda", "--sparsity", "0.5")


def test_every_name_of_a_technique_is_public():
    assert {*TECHNIQUES.values(), *ALLOCATIONS.values()} <= set(ow.__all__)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--technique", "magic", "--sparsity", "0.5"), "unknown --technique 'magic'; give one of magnitude, random"),
        (("--technique", "magnitude", "--sparsity", "50%"), "zeros between 0 and 1, such as 0.5, got 50%"),
        (("--technique", "magnitude", "--sparsity", "50"), "zeros between 0 and 1, such as 0.5, got 50"),
        (("--technique", "magnitude", "--sparsity", "nan"), "zeros between 0 and 1, such as 0.5, got nan"),
        (("--technique", "magnitude", "--sparsity", "0"), "zeros between 0 and 1, such as 0.5, got 0"),
        (("--technique", "magnitude"), "give --sparsity, the fraction of zeros, such as 0.5, or a --pattern n:m"),
        ((*MAGNITUDE, "--pattern", "2/4"), "unknown --pattern '2/4'; give n:m such as 2:4, HxW such as 1x4, or one"),
        ((*MAGNITUDE, "--pattern", "4:2"), "--pattern 4:2: NM needs 1 <= n < m, got n=4, m=2"),
        ((*MAGNITUDE, "--pattern", "0x4"), "--pattern 0x4: a block's side must be at least 1"),
        ((*MAGNITUDE, "--allocation", "even"), "unknown --allocation 'even'; give one of uniform, global"),
        ((*MAGNITUDE, "--pattern", "2:4", "--allocation", "erk"), "gives every tensor the same sparsity"),
        ((*MAGNITUDE, "--pattern", "1:4"), "NM(n=1, m=4) ends at sparsity 1 - 1/4 = 0.75 and the schedule at 0.5"),
    ],
)  # fmt: skip
def test_wrong_usage_is_named(refused, bert, arguments, sentence):
    assert sentence in refused(bert, *arguments, code=2)


def test_nothing_is_overwritten(refused, bert, tmp_path):
    (tmp_path / "there").mkdir()
    assert "there exists, and nothing is overwritten; give another" in refused(bert, *MAGNITUDE, out=tmp_path / "there")
    assert "exists, and nothing is overwritten" in refused(bert, *MAGNITUDE, out=bert)
    assert "there is no folder" in refused(bert, *MAGNITUDE, out=tmp_path / "no" / "where")
    file = bert / "model.safetensors"
    assert "exists, and nothing is overwritten" in refused(file, *MAGNITUDE, out=file)


def test_the_folder_is_not_copied_into_itself(refused, bert):
    assert "sparse would lie in" in refused(bert, *MAGNITUDE, out=bert / "sparse")
    (bert / "sub").mkdir()
    assert "sparse would lie in" in refused(bert, *MAGNITUDE, out=bert / "sub" / "sparse")


def test_inputs_need_a_text_and_a_model(refused, bert, text):
    assert "looks at the inputs of layers; give a text with --calibration" in refused(bert, *WANDA)
    file = bert / "model.safetensors"
    found = refused(file, *WANDA, "--calibration", text)
    assert "has no config.json that says of which model; give its folder" in found
    assert "--reconstruct fits outputs; give a text with --calibration" in refused(bert, *MAGNITUDE, "--reconstruct")


def test_a_text_that_nothing_looks_at_is_refused(refused, bert, text):
    found = refused(bert, *MAGNITUDE, "--calibration", text)
    assert "looks at no inputs, so that nothing runs; leave out --calibration\n" in found
    found = refused(bert, *MAGNITUDE, "--blocks", "encoder.layer.*", "--device", "cpu")
    assert "leave out --blocks, --device\n" in found


def test_blocks_that_miss_a_weight_are_refused(refused, bert, text):
    found = refused(bert, *WANDA, "--calibration", text, "--blocks", "encoder.layer.0", "--select", "encoder")
    assert "encoder.layer.1" in found


def test_a_text_must_be_there_be_text_and_be_long_enough(refused, bert, tmp_path):
    path = tmp_path / "t.txt"
    assert "t.txt" in refused(bert, *WANDA, "--calibration", path)
    path.write_text(" \n\n")
    assert "t.txt has no text; give one of at least 64 tokens" in refused(bert, *WANDA, "--calibration", path)
    path.write_text("the cat runs home\n")
    assert "has 4 tokens, and one window takes 64; give a longer" in refused(bert, *WANDA, "--calibration", path)
    path.write_bytes(b"the cat \xff")
    assert "is not text in UTF-8 (invalid start byte at byte 8)" in refused(bert, *WANDA, "--calibration", path)


def test_windows_must_not_be_longer_than_the_model_reads(refused, bert, text):
    found = refused(bert, *WANDA, "--calibration", text, "--tokens", 65)
    assert "--tokens is 65, and the model takes texts of at most 64" in found


def test_the_tokenizer_of_another_model_is_recognised_by_its_ids(refused, bert, text, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, 100)
    text.write_text("word80 " + TEXT)
    found = refused(bert, *WANDA, "--calibration", text, "--tokenizer", other, "--samples", 1000)
    assert "the id 93, and the model knows 40; give the folder of the tokenizer" in found
    (other / "tokenizer.json").write_text("{")
    found = refused(bert, *WANDA, "--calibration", text, "--tokenizer", other)
    assert "other has no tokenizer that can be read" in found
    (other / "tokenizer.json").unlink()
    found = refused(bert, *WANDA, "--calibration", text, "--tokenizer", other)
    assert "other has no tokenizer that can be read" in found


def test_n_of_m_that_divides_no_matrix_is_refused(refused, bert):
    found = refused(bert, "--technique", "magnitude", "--pattern", "2:5")
    assert "NM(n=2, m=5) fits none of the" in found
    assert "5 does not divide its 16 inputs" in found


def test_names_that_fit_nothing_are_refused(refused, bert):
    assert "encodr" in refused(bert, *MAGNITUDE, "--select", "encodr")
    assert "poler" in refused(bert, *MAGNITUDE, "--exclude", "poler")


def test_a_weight_that_the_files_lack_is_left_and_refused_where_it_is_named(
    refused, bert, tmp_path, monkeypatch, capsys
):
    state = tensors(bert)
    save_file({name: value for name, value in state.items() if "pooler" not in name}, bert / "model.safetensors")
    assert "pooler.dense.weight is not in the files" in refused(bert, *MAGNITUDE, "--select", "pooler")
    assert openwork(monkeypatch, "prune", bert, *MAGNITUDE, "--out", tmp_path / "sparse") == 0
    assert "left as it is: pooler.dense.weight (the files do not have it)" in capsys.readouterr().out


def test_pickles_and_packed_files_are_not_written_again(refused, bert, tmp_path, monkeypatch, capsys):
    state = {"fc.weight": torch.ones(8, 8)}
    torch.save(state, tmp_path / "x.pt")
    found = refused(tmp_path / "x.pt", *MAGNITUDE)
    assert "a pickle is not written again; convert the weights first: openwork export" in found
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    assert "a pickle is not written again" in refused(folder, *MAGNITUDE)
    pytest.importorskip("zstandard")
    ow.save({"fc.weight": torch.eye(64)}, tmp_path / "x.sparse.safetensors")
    assert "is packed; give its plain twin" in refused(tmp_path / "x.sparse.safetensors", *MAGNITUDE)


def test_what_transformers_does_not_know_or_has_quantised_is_refused(refused, bert):
    path = bert / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_type": "nobody"}))
    assert "cannot load" in refused(bert, *MAGNITUDE)
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "its weights are quantised, and codes cannot be pruned" in refused(bert, *MAGNITUDE)
    path.write_text(json.dumps(config | {"hidden_size": 32}))
    assert "other shapes than its config.json says" in refused(bert, *MAGNITUDE)


def test_no_code_of_the_folder_runs(refused, bert, tmp_path):
    config = json.loads((bert / "config.json").read_text())
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}
    (bert / "config.json").write_text(json.dumps(config | own))
    (bert / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "cannot load" in refused(bert, *MAGNITUDE)
    assert not (tmp_path / "ran").exists()


def test_nan_in_the_weights_is_refused(refused, tmp_path):
    save_file({"fc.weight": torch.full((8, 8), torch.nan)}, tmp_path / "x.safetensors")
    assert "fc.weight has values that are no finite numbers" in refused(tmp_path / "x.safetensors", *MAGNITUDE)


def test_a_truncated_shard_is_refused(refused, tmp_path):
    dense = pretrained(tmp_path / "dense", "BertModel", shard="6KB")
    shard = sorted(dense.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    assert "is not a readable safetensors file" in refused(dense, *MAGNITUDE)
    shard.unlink()
    assert "which is not there; copy the folder again" in refused(dense, *MAGNITUDE)


@pytest.mark.parametrize(
    ("tensors_", "out", "sentence"),
    [
        (
            {"emb.weight": torch.ones(6, 4)},
            "y.safetensors",
            "nothing that is pruned by default: emb.weight is an",
        ),
        ({"bias": torch.ones(6)}, "y.safetensors", "x.safetensors holds no matrix, so that there is nothing to prune"),
        (
            {"fc.weight": torch.ones(4, 4, dtype=torch.int8), "fc.bias": torch.ones(4)},
            "y.safetensors",
            "x.safetensors holds no matrix of floats, and fc.weight is torch.int8; give the file from before it was",
        ),
        ({"fc.weight": torch.ones(4, 4)}, "y.bin", "x.safetensors becomes another .safetensors file, got --out "),
    ],
)
def test_a_file_of_which_nothing_is_pruned_says_why(refused, tmp_path, tensors_, out, sentence):
    save_file(tensors_, tmp_path / "x.safetensors")
    assert sentence in refused(tmp_path / "x.safetensors", *MAGNITUDE, out=tmp_path / out)


@pytest.mark.parametrize("names", [["to.weight"], ["type"], ["a", "a.b"], ["a..weight"], [".weight"], ["a."]], ids=str)
def test_a_matrix_with_a_name_that_no_module_can_hold_is_refused(refused, tmp_path, names):
    save_file({name: torch.ones(4, 4) for name in names}, tmp_path / "x.safetensors")
    said = refused(tmp_path / "x.safetensors", *MAGNITUDE, out=tmp_path / "y.safetensors")
    assert f"x.safetensors holds {names[-1]}, which no module of PyTorch can hold; rename it" in said


def test_the_directory_of_a_run_would_tell_of_other_weights(refused, tmp_path):
    run = tmp_path / "3f2a000000000000"
    run.mkdir()
    (run / "run.json").write_text("{}")
    save_file({"fc.weight": torch.ones(4, 4)}, run / "model.safetensors")
    said = refused(run, *MAGNITUDE)
    assert said.endswith(f"give {run / 'model.safetensors'}\n")
