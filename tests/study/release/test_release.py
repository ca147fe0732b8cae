"""Published checkpoints as weights of the study's models: the models compute what NumPy does with the variables."""

import numpy as np
import pytest
import torch

from openwork.formats.tensorflow.bundle import Bundle
from openwork.study.models.resnet import ResNet
from openwork.study.models.transformer import Transformer
from openwork.study.release.convert import Model, read_release
from openwork.study.release.technique import Technique
from tests.helpers import raises
from tests.programs.tensorflow_checkpoints import CASES, TINY, USED_ROW, variables
from tests.study.release import reference
from tests.study.release.checkpoints import NAME, unpacked

TECHNIQUES = {"split-heads": "magnitude", "extended": "magnitude"}
THRESHOLD = 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("release"))


def read(folder, case, technique=None, threshold=None):
    model, _, made = case.partition("-")
    technique = technique or TECHNIQUES.get(made, made)
    if technique == "variational-dropout" and threshold is None:
        threshold = THRESHOLD
    return read_release(folder / case / NAME, Model(model), Technique(technique), threshold)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("transformer")])
def test_the_imported_transformer_computes_what_tensorflow_would(folder, case):
    found = read(folder, case)
    split = case.endswith("split-heads")
    model = Transformer(
        TINY.vocabulary, width=TINY.width, hidden=TINY.hidden, heads=TINY.heads, layers=TINY.layers, split_heads=split
    ).eval()
    model.load_state_dict(found.model.state_dict())
    source, target = np.array([5, 9, 23, 2, 1]), np.array([7, 0, 3, 1])
    weights = reference.Weights(variables(case), case.partition("-")[2], THRESHOLD)
    row = USED_ROW if case.endswith("magnitude") else 0
    expected = reference.transformer(weights, source, target, heads=TINY.heads, layers=TINY.layers, row=row)
    with torch.no_grad():
        rows = [torch.from_numpy(ids)[None] for ids in (source, target)]
        whole = [torch.stack([ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None]]) for ids in rows]
        logits = model(*whole).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("resnet50")])
@pytest.mark.parametrize("size", [64, 77])
def test_the_imported_resnet_computes_what_tensorflow_would(folder, case, size):
    found = read(folder, case)
    model = ResNet(50, 1 / 64, TINY.classes, same_pool=True).eval()
    model.load_state_dict(found.model.state_dict())
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    weights = reference.Weights(variables(case), case.partition("-")[2], THRESHOLD)
    expected = reference.resnet50(weights, images.astype(np.float64))
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected[0]) > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


def scripts_sparsity(case, technique, threshold=None):
    """What the release's checkpoint_sparsity prints, as a fraction: by the ends of names alone."""
    found = variables(case)
    ends = {"magnitude": ("mask",), "l0": ("log_alpha", "_aux"), "variational-dropout": ("log_sigma2", "_aux")}[
        technique
    ]
    nonzero = total = 0
    for name in (name for name in found if name.endswith(ends)):
        values = found[name]
        if technique == "variational-dropout":
            leaf = "weights" if case.startswith("resnet") else "kernel"
            mean = name.replace("_aux", "") if name.endswith("_aux") else name.replace("log_sigma2", leaf)
            values = values - np.log(np.square(found[mean]) + 1e-8) < threshold
        elif technique == "l0":
            values = np.clip(1 / (1 + np.exp(-values)) * 1.2 - 0.1, 0, 1)
        nonzero, total = nonzero + np.count_nonzero(values), total + values.size
    return 1 - nonzero / total


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith("dense")])
def test_the_sparsity_is_that_of_the_releases_script_and_the_file_has_these_zeros_and_those_that_were_there(
    folder, case
):
    technique = TECHNIQUES.get(case.partition("-")[2], case.partition("-")[2])
    found = read(folder, case)
    assert found.release.sparsity == pytest.approx(scripts_sparsity(case, technique, THRESHOLD), abs=1e-12)
    assert 0.2 < found.release.sparsity < 0.8
    # Weights that are 0 without a mask, too: their values are multiples of 1/32.
    assert found.release.zeros < found.own.zeros < 1.2 * found.release.zeros
    assert found.own.total == found.release.total
    assert found.everything.zeros == sum(int((p == 0).sum()) for p in found.model.parameters())


@pytest.mark.parametrize(("threshold", "zeros"), [(-100.0, "all"), (100.0, "none")])
@pytest.mark.parametrize("model", ["transformer", "resnet50"])
def test_the_threshold_decides_which_weights_are_zero(folder, model, threshold, zeros):
    found = read(folder, f"{model}-variational-dropout", threshold=threshold)
    assert found.release.zeros == (found.release.total if zeros == "all" else 0)


def test_random_pruning_is_read_as_magnitude_pruning_is(folder):
    first, second = (read(folder, "resnet50-magnitude", technique) for technique in ("magnitude", "random"))
    assert first.release == second.release
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_a_dense_checkpoint_has_no_sparsity_of_the_release(folder):
    found = read(folder, "resnet50-dense")
    assert (found.release, found.dense) == (None, ())
    assert found.own.total == sum(p.numel() for n, p in found.model.named_parameters() if p.dim() > 1)


def test_the_first_convolution_of_extended_pruning_is_named_as_dense(folder):
    found = read(folder, "resnet50-extended")
    assert found.dense == ("conv1.weight",)
    assert found.release.total == read(folder, "resnet50-magnitude").release.total - 147  # 7 x 7 x 3 x 1


def test_what_is_not_used_is_named(folder):
    found = read(folder, "transformer-magnitude").unused
    few = dict.fromkeys(("beta1_power", "global_step", "last_mask_update_step"), 1)
    assert {leaf: len(names) for leaf, names in found.items()} == {"Adam": 2, "Adam_1": 2, "threshold": 33, **few}
    assert read(folder, "transformer-dense").unused == {"global_step": ["global_step"]}


def test_weights_for_one_padding_do_not_load_into_the_other_network(folder):
    state = read(folder, "resnet50-dense").model.state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.s. in state_dict: \"pool.same\""):
        ResNet(50, 1 / 64, TINY.classes).load_state_dict(state)


class Changed(Bundle):
    """A checkpoint with some variables changed, renamed or left out."""

    def __init__(self, case, folder, change):
        super().__init__(folder / case / NAME)
        self.values = variables(case)
        change(self.values)

    @property
    def names(self):
        return sorted(self.values)

    def shape(self, name):
        return self.values[name].shape

    def tensor(self, name):
        return torch.from_numpy(self.values[name])


def without(*ends):
    def change(values):
        for name in [name for name in values if name.endswith(ends)]:
            del values[name]

    return change


def replaced(end, value):
    def change(values):
        (name,) = (name for name in values if name.endswith(end))
        values[name] = np.asarray(value(values[name]), values[name].dtype)

    return change


def added(name, like):
    return lambda values: values.update({name: values[next(n for n in values if n.endswith(like))]})


OUTPUT = "encoder/layer_0/self_attention/multihead_attention/output_transform/kernel"


@pytest.mark.parametrize(
    ("case", "change", "said"),
    [
        (
            "transformer-dense",
            without(OUTPUT),
            "no variable for 1 of 66 weights of the transformer: encoder.0.own.output",
        ),
        ("transformer-dense", without("encoder/layer_1/ffn/conv1/kernel"), "encoder.1.up.weight; is it a whole"),
        ("transformer-dense", without("decoder/layer_prepostprocess/layer_norm/layer_norm_bias"), "decoder_norm.bias"),
        ("transformer-dense", without("target_space_embedding/kernel"), "target_space; is it a whole checkpoint"),
        ("resnet50-dense", without("biases"), "no variable for 1 of 267 weights of the resnet50: fc.bias"),
        ("resnet50-dense", without("batch_normalization_7/moving_variance"), "layer1.1.bn3.running_var"),
        ("resnet50-dense", without("batch_normalization_7/gamma"), "has 52 batch norms, and a ResNet-50 has 53"),
        (
            "resnet50-dense",
            added("x/bottleneck_1_block_group2_4_1/weights", "final_dense/weights"),
            "3, 5, 6, 3 blocks",
        ),
        ("transformer-dense", replaced(OUTPUT, lambda w: w[:4]), "has the shape [8, 4] in our order of axes, and"),
        ("transformer-dense", replaced(OUTPUT, lambda w: w[0]), "has the shape [8], which is none for encoder.0.own"),
        ("resnet50-dense", replaced("initial_conv/weights", lambda w: w[:5, :5]), "conv1.weight of the model needs"),
        ("resnet50-dense", replaced("normalization_1/gamma", lambda w: w[:2]), "layer1.0.downsample.1.weight of the"),
        ("resnet50-magnitude", replaced("final_dense/mask", lambda m: m / 2), "a mask has other numbers than 0 and 1:"),
        ("resnet50-magnitude", replaced("final_dense/mask", lambda m: m[:3]), "and the weights beside it [32, 5]"),
        ("resnet50-l0", added("resnet_model/final_dense/mask", "final_dense/weights"), "has both log_alpha and mask"),
        (
            "resnet50-l0",
            without("log_alpha"),
            "has no log_alpha beside its weights, so it is not l0; give --technique dense",
        ),
        (
            "resnet50-dense",
            added("resnet_model/initial_conv/kernel", "initial_conv/weights"),
            "has both 'resnet_model/ini",
        ),
    ],
)
def test_a_checkpoint_that_is_not_the_models_is_refused(folder, monkeypatch, case, change, said):
    monkeypatch.setattr("openwork.study.release.convert.Bundle", lambda prefix: Changed(case, folder, change))
    with raises(ValueError, "model.ckpt-500000", said) if said[0] != "a" else raises(ValueError, said):
        read(folder, case)


def test_the_order_of_batch_norms_is_that_of_their_numbers_not_of_their_names(folder):
    # batch_normalization_10 comes before batch_normalization_2 in the alphabet.
    found, values = read(folder, "resnet50-dense").model.state_dict(), variables("resnet50-dense")
    expected = {"bn1": "", "layer1.0.downsample.1": "_1", "layer1.0.bn3": "_4", "layer4.2.bn3": "_52"}
    for ours, theirs in expected.items():
        gamma = values[f"resnet_model/batch_normalization{theirs}/gamma"]
        assert found[f"{ours}.weight"].tolist() == gamma.tolist()


@pytest.mark.parametrize("row", [0, 3, 8])
def test_the_row_of_the_target_space_is_the_one_that_adam_moved(folder, monkeypatch, row):
    def change(values):
        for slot in ("Adam", "Adam_1"):
            moments = values[f"training/sparse_transformer/body/target_space_embedding/kernel/{slot}"]
            moments[3], moments[row] = 0, 0.5

    case = "transformer-magnitude"
    monkeypatch.setattr("openwork.study.release.convert.Bundle", lambda prefix: Changed(case, folder, change))
    found = read(folder, case)
    table = variables(case)["sparse_transformer/body/target_space_embedding/kernel"]
    assert found.model.target_space[8].tolist() == table[row].tolist()
    assert found.model.target_space[row].tolist() == table[8].tolist()
    assert len(found.notes) == (row != 8)
