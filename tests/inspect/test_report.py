import contextlib
import json

import pytest
import torch
from helpers import Tied, conv_net
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import openwork as ow


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
    assert report.sparsity_all == (381 + 4) / 781  # the four biases are accidental zeros


def test_the_table_and_the_dictionary_say_the_same():
    report = ow.report(pruned())
    table, plain = str(report), report.to_dict()
    assert table.splitlines()[1].split() == ["0.weight", "4x2x3x3", "72", "36", "50.00%"]
    assert table.splitlines()[-2].split() == ["selected", "weights", "762", "381", "50.00%"]
    assert json.loads(json.dumps(plain))["sparsity"] == {"selected": 0.5, "all": 385 / 781}
    assert plain["layers"][2] == {"name": "5.weight", "shape": [5, 10], "weights": 50, "nonzero": 25, "sparsity": 0.5}


def test_tied_weights_count_once():
    report = ow.report(Tied())
    assert [layer.name for layer in report.layers] == ["embedding.weight", "hidden.weight"]
    assert report.parameters == 66 + 36 + 6


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "nested.pt", "lightning.pt"])
def test_files_are_counted_without_their_model(tmp_path, name):
    state = pruned().state_dict()
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(
            {"nested.pt": {"model": state, "step": 3}, "lightning.pt": {"state_dict": state}}.get(name, state), path
        )
    assert ow.report(path).to_dict() == ow.report(str(path)).to_dict() == ow.report(pruned_again(state)).to_dict()


def pruned_again(state):
    model = conv_net()
    model.load_state_dict(state)
    return model


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


def test_a_file_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"model": Attack()}, tmp_path / "attack.pt")
    with pytest.raises(ValueError, match="only tensors and plain values"):
        ow.report(tmp_path / "attack.pt")
    assert not marker.exists()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_damaged_files_give_a_sentence_or_a_report(tmp_path, data, suffix):
    path = tmp_path / f"damaged{suffix}"
    state = {"a.weight": torch.arange(12.0).view(3, 4)}
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ValueError):  # any other exception fails the test
        assert all(layer.nonzero <= layer.weights for layer in ow.report(path).layers)
