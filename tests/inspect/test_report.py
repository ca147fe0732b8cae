import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import openwork as ow
from openwork.inspect.report import reports
from openwork.inspect.size import Size
from openwork.inspect.table import short
from tests.helpers import Tied, conv_net


def pruned() -> nn.Module:
    model = conv_net()
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).finalize()
    with torch.no_grad():
        model[0].bias.zero_()
    return model


def test_both_denominators_by_hand():
    report = ow.report(pruned())
    assert [(la.name, la.shape, la.weights, la.nonzero, la.sparsity) for la in report.layers] == [
        ("0.weight", (4, 2, 3, 3), 72, 36, 0.5),
        ("3.weight", (10, 64), 640, 320, 0.5),
        ("5.weight", (5, 10), 50, 25, 0.5),
    ]
    assert report.parameters == 72 + 4 + 640 + 10 + 50 + 5
    assert report.sparsity == 381 / 762
    assert report.sparsity_all == (381 + 4) / 781
    assert report.accidental == 4  # the biases, which nobody selected


def test_sizes_by_hand():
    model = nn.Linear(8, 8, dtype=torch.float16)
    with torch.no_grad():
        model.weight.fill_(1)[:4] = 0
        model.bias.fill_(1)
    (layer,) = ow.report(model).layers
    # 64 weights of 2 bytes; 64 bits and 32 values; half zeros are 1 bit of entropy each
    assert layer.size == Size(dense=128, bitmask=8 + 64, entropy=8 + 64)
    assert ow.report(model).size == Size(128 + 16, 72 + 16, 72 + 16)  # a bit mask would only enlarge the bias
    with torch.no_grad():
        model.weight.zero_()[0, 0] = 1
    # 64 · H(1/64) = 64 · 0.11612 bits = 7.4 bits
    assert ow.report(model).layers[0].size == Size(128, 8 + 2, 1 + 2)


def test_a_tensor_with_less_than_one_percent_of_zeros_was_not_pruned():
    model = nn.Embedding(200, 8, padding_idx=0)
    (layer,) = ow.report(model).layers
    assert (layer.accidental, layer.dead_outputs, layer.pattern) == (8, 1, "")  # 0.5 %
    with torch.no_grad():
        model.weight[:2] = 0  # exactly 1 %
    (layer,) = ow.report(model).layers
    assert (layer.accidental, layer.dead_outputs, layer.pattern) == (0, 2, "1x4")


@pytest.mark.parametrize("make", [pruned, Tied, lambda: weight_norm(nn.Linear(8, 4)), lambda: nn.LSTM(4, 8)])
def test_models_counted_together_have_the_reports_that_each_has_alone(make):
    models = [make() for _ in range(3)]
    for model in models[1:]:
        for parameter in model.parameters():
            parameter.data.mul_(torch.rand(parameter.shape) < 0.5)
    stacked = {n: torch.stack([dict(m.named_parameters())[n] for m in models]) for n, _ in models[0].named_parameters()}
    alone = [ow.report(model, select=ow.weight_matrices).to_dict() for model in models]
    assert [each.to_dict() for each in reports(models, ow.weight_matrices, stacked)] == alone


def test_a_sparsifier_tells_zeros_of_its_mask_from_others():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5)))
    with torch.no_grad():
        model[5].bias.fill_(1)
        model[5].weight.view(-1)[sparsifier.state_dict()["masks"]["5.weight"].view(-1)] = 0  # all that is kept
    report = ow.report(sparsifier)
    assert [(layer.nonzero, layer.accidental) for layer in report.layers] == [(36, 0), (320, 0), (0, 25)]
    assert report.accidental == 25
    assert sparsifier.sparsity() == report.sparsity == (381 + 25) / 762  # the zeros that are there, masked or not
    assert report.sparsity == (36 + 320 + 50) / 762  # of the values
    with pytest.raises(ValueError, match="a sparsifier has its own selection; leave select out"):
        ow.report(sparsifier, select=ow.weight_matrices)


def test_a_sparsifier_reports_what_finalize_would_give():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(1e-4)), select=ow.weights_of(nn.Linear))
    live = ow.report(sparsifier, example=torch.randn(1, 2, 6, 6))
    assert live == ow.report(
        sparsifier.finalize(), select=ow.weights_of(nn.Linear), example=torch.randn(1, 2, 6, 6)
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
def test_the_filters_of_a_transposed_convolution_lie_along_its_second_axis(groups):
    model = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    with torch.no_grad():
        model.weight[:, 1] = 0  # output 1 of each group
        model.weight[0] = 0  # what input 0 feeds: an input of the first group alone
    (layer,) = ow.report(model, select=ow.weights_of(nn.ConvTranspose2d)).layers
    assert (layer.shape, layer.dead_outputs) == ((4, 6 // groups, 3, 3), groups)
    assert layer.dead_inputs == 1


def test_the_table_and_the_dictionary_say_the_same():
    report = ow.report(pruned())
    table, plain = str(report).splitlines(), report.to_dict()
    assert table[0] == "781 parameters, 385 zeros, 4 of them accidental"
    first = next(line for line in table if line.startswith("0.weight"))
    assert first.split()[:5] == ["0.weight", "4x2x3x3", "72", "36", "50.00%"]
    assert table[-2].split()[:5] == ["selected", "weights", "762", "381", "50.00%"]
    assert table[-1].split()[:5] == ["all", "parameters", "781", "396", "49.30%"]
    assert json.loads(json.dumps(plain))["sparsity"] == {"selected": 0.5, "all": 385 / 781}
    layer = plain["layers"][2]
    assert {key: layer[key] for key in ("name", "shape", "weights", "nonzero", "sparsity", "dtype")} == {
        "name": "5.weight", "shape": [5, 10], "weights": 50, "nonzero": 25, "sparsity": 0.5, "dtype": "float32"
    }  # fmt: skip
    assert layer["bytes"]["dense"] == 200
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| 0.weight | 4x2x3x3 | 72 | 36 | 50.00% |")


def test_a_deep_model_stays_readable():
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(1000, 3000), nn.Linear(3000, 1000))

    model = nn.Module()
    model.a_name_of_considerable_length = nn.ModuleList(block() for _ in range(30))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model.a_name_of_considerable_length[7][0].weight[:1500] = 0
    report = ow.report(model)
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) < 15
    (up,) = [line for line in lines if "3000x1000" in line]
    assert "x30" in up
    assert "1.67%" in up  # 50 % of one of thirty
    assert "0.0-50.0%" in up
    assert sum(line.startswith("| a_name") for line in report.to_markdown().splitlines()) == 60


def test_short_counts_have_three_digits():
    counts = (0, 7, 999, 1_000, 9_994, 9_996, 99_940, 99_960, 999_600, 25_557_032, 8.2e9)
    assert [short(count) for count in counts] == [
        "0", "7", "999", "1.00 k", "9.99 k", "10.0 k", "99.9 k", "100 k", "1.00 M", "25.6 M", "8.20 G"
    ]  # fmt: skip


def test_tied_weights_count_once():
    report = ow.report(Tied())
    assert [(layer.name, layer.also) for layer in report.layers] == [
        ("embedding.weight", ("output.weight",)),
        ("hidden.weight", ()),
    ]
    assert report.parameters == 66 + 36 + 6


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "nested.pt", "lightning.pt", "legacy.pt"])
def test_files_are_counted_without_their_model(tmp_path, name):
    state = pruned().state_dict()
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        nested = {"nested.pt": {"model": state, "step": 3}, "lightning.pt": {"state_dict": state}}
        torch.save(nested.get(name, state), path, _use_new_zipfile_serialization=name != "legacy.pt")
    model = conv_net()
    model.load_state_dict(state)
    found = ow.report(path).to_dict()
    read = {"nested.pt": ["read is what lies under 'model'"], "lightning.pt": ["read is what lies under 'state_dict'"]}
    assert found.pop("notes") == read.get(name, [])
    assert {**found, "notes": []} == ow.report(state).to_dict() == ow.report(model).to_dict()


def test_a_file_has_no_modules_to_select_from_or_to_run(tmp_path):
    for arguments in ({"select": ow.weight_matrices}, {"example": torch.ones(1)}):
        with pytest.raises(ValueError, match="a checkpoint knows no modules, which select and example need; load it"):
            ow.report(tmp_path / "x.pt", **arguments)


def test_missing_and_foreign_files_give_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*nothing.pt; give a"):
        ow.report(tmp_path / "nothing.pt")
    text = tmp_path / "text.pt"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text.pt is not a readable torch checkpoint \("):
        ow.report(text)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"is not a readable safetensors file \("):
        ow.report(tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name; save a state_dict"):
        ow.report(tmp_path / "list.pt")


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(1.0)), ow.L0(ow.Constant(1.0))], ids=repr)
def test_random_variables_are_not_counted_as_weights(technique):
    model = nn.Linear(4, 4)
    sparsifier = ow.sparsify(model, technique)
    with pytest.raises(ValueError, match="Linear are random variables; report on its sparsifier"):
        ow.report(model)
    assert ow.report(sparsifier).parameters == 20
