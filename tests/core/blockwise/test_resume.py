"""A prune that stops goes on from the blocks that are finished."""

import copy
import os

import pytest
import torch

import openwork as ow
from tests.core.blockwise.models import HALF, ids, stack
from tests.core.blockwise.test_prune import equal

RANKED = ow.Wanda(ow.OneShot(0.5), allocation=ow.GlobalRanking(), pattern=ow.Unstructured())


class Stopped(BaseException):
    pass


def stopping_after(blocks):
    lines = []

    def progress(line):
        lines.append(line)
        if len(lines) == blocks:
            raise Stopped

    return progress


@pytest.mark.parametrize("fresh", [True, False], ids=["a fresh model", "the model as it was left"])
@pytest.mark.parametrize("settings", [{}, {"reconstruct": True}], ids=str)
@pytest.mark.parametrize("technique", [HALF, RANKED], ids=["Wanda", "ranked"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_resumed_prune_ends_with_the_same_bits(tmp_path, blocks, technique, settings, fresh):
    whole = stack()
    expected = ow.prune(whole, technique, batches=ids(), **settings)
    model = stack()
    with pytest.raises(Stopped):
        ow.prune(model, technique, batches=ids(), resume=tmp_path / "a", progress=stopping_after(blocks), **settings)
    model = stack() if fresh else model
    result = ow.prune(model, technique, batches=ids(), resume=tmp_path / "a", **settings)
    assert equal(model, whole)
    assert result.layers == expected.layers


def test_what_is_finished_stays_and_the_rest_is_as_it_was(tmp_path):
    model, whole = stack(), stack()
    ow.prune(whole, HALF, batches=ids())
    with pytest.raises(Stopped):
        ow.prune(model, HALF, batches=ids(), resume=tmp_path, progress=stopping_after(2))
    assert equal(model.layers[:2], whole.layers[:2])
    assert equal(model.layers[2], stack().layers[2])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0000.safetensors", "0001.safetensors", "plan.json"]


def other_model():
    model = stack()
    with torch.no_grad():
        model.layers[2].down.weight += 1
    return model


def other_head():
    model = stack()
    with torch.no_grad():
        model.head.bias += 1
    return model


OTHERS = {
    "another technique": (
        (stack, ow.Wanda(ow.OneShot(0.6)), ids()),
        {},
        r"a prune whose technique is Wanda\(schedule=OneShot\(final=0.5",
    ),
    "another seed": ((stack, HALF, ids()), {"seed": 1}, "a prune whose seed is 0; pass what it was begun with"),
    "reconstruction": ((stack, HALF, ids()), {"reconstruct": True}, "whose reconstruct is False"),
    "other inputs": ((stack, HALF, ids()[:2]), {}, "with other inputs"),
    "other weights": ((other_model, HALF, ids()), {}, r"of a model with other weights in layers\.2; load the model"),
    "another bias": ((other_head, HALF, ids()), {}, "with other parameters outside of the blocks"),
    "other blocks": ((stack, HALF, ids()), {"select": "layers.*.up"}, "with other "),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_folder_of_another_prune_is_refused_and_nothing_changes(tmp_path, name):
    (make, technique, batches), settings, words = OTHERS[name]
    with pytest.raises(Stopped):
        ow.prune(stack(), HALF, batches=ids(), resume=tmp_path, progress=stopping_after(1))
    model = make()
    with pytest.raises(ValueError, match=words):
        ow.prune(model, technique, batches=batches, resume=tmp_path, **settings)
    assert equal(model, make())


class Bare(torch.nn.Module):
    """Layers without biases, so that nothing but their weights tells two of them apart."""

    def __init__(self, factor=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8, bias=False) for _ in range(2))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.randn(8, 8, generator=generator) * factor)

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("changed", [0, 1], ids=["the first block", "the second block"])
def test_a_model_with_other_weights_in_a_finished_block_is_refused_and_stays(tmp_path, blocks, changed):
    batches = [torch.randn(20, 8, generator=torch.Generator().manual_seed(1))]
    model = Bare()
    with pytest.raises(Stopped):
        ow.prune(model, HALF, batches=batches, resume=tmp_path, progress=stopping_after(blocks))
    other = Bare()
    with torch.no_grad():
        other.layers[changed].weight[0, 0] += 1
    before = copy.deepcopy(other)
    with pytest.raises(ValueError, match=rf"a model with other weights in layers\.{changed}; load the model"):
        ow.prune(other, HALF, batches=batches, resume=tmp_path)
    assert equal(other, before)
    with pytest.raises(ValueError, match=r"with other weights in layers\.0"):
        ow.prune(Bare(2.0), HALF, batches=batches, resume=tmp_path)
    ow.prune(model, HALF, batches=batches, resume=tmp_path)  # as it was left


class Normed(Bare):
    """Layers with a batch norm and a constant between them."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)
        self.register_buffer("scale", torch.ones(8), persistent=False)

    def forward(self, x):
        return self.layers[1](self.norm(self.layers[0](x)) * self.scale)


ROWS = [torch.randn(20, 8, generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("buffer", ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "scale"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_model_with_other_buffers_is_refused_and_stays(tmp_path, blocks, buffer):
    with pytest.raises(Stopped):
        ow.prune(Normed(), HALF, batches=ROWS, resume=tmp_path, progress=stopping_after(blocks))
    other = Normed()
    other.get_buffer(buffer).add_(1)
    before = copy.deepcopy(other)
    with pytest.raises(
        ValueError, match=r"a model with other buffers, such as the statistics of batch norms; load the"
    ):
        ow.prune(other, HALF, batches=ROWS, resume=tmp_path)
    assert equal(other, before)


def test_a_model_whose_batch_norms_a_finished_prune_has_calibrated_may_come_again(tmp_path):
    model, whole = Normed(), Normed()
    ow.prune(whole, HALF, batches=ROWS)
    for _ in range(3):
        ow.prune(model, HALF, batches=ROWS, resume=tmp_path)
        assert equal(model, whole)
    fresh = Normed()
    ow.prune(fresh, HALF, batches=ROWS, resume=tmp_path)
    assert equal(fresh, whole)
    (tmp_path / "0001.safetensors").unlink()  # its weights are those before no more
    with pytest.raises(ValueError, match=r"a model with other weights in layers\.1"):
        ow.prune(model, HALF, batches=ROWS, resume=tmp_path)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"holds other files; pass resume= a new folder"):
        ow.prune(stack(), HALF, batches=ids(), resume=tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is damaged .*; remove the folder to begin anew"):
        ow.prune(stack(), HALF, batches=ids(), resume=tmp_path)


def test_a_full_disk_names_the_file_and_leaves_no_part_of_it(tmp_path, monkeypatch):
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 1:  # all but plan.json
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    model, whole = stack(), stack()
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/0000.safetensors'$"):
        ow.prune(model, HALF, batches=ids(), resume=tmp_path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    ow.prune(model, HALF, batches=ids(), resume=tmp_path)
    ow.prune(whole, HALF, batches=ids())
    assert equal(model, whole)


def test_a_kill_while_a_file_is_written_costs_that_block_alone(tmp_path, monkeypatch):
    def killed(self, target):
        if target.name == "0001.safetensors":
            raise Stopped
        return real(self, target)

    real = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", killed)
    with pytest.raises(Stopped):
        ow.prune(stack(), HALF, batches=ids(), resume=tmp_path)
    monkeypatch.undo()
    assert {file.name for file in tmp_path.iterdir()} == {"0000.safetensors", "0001.safetensors.new", "plan.json"}
    model, whole = stack(), stack()
    ow.prune(model, HALF, batches=ids(), resume=tmp_path)
    ow.prune(whole, HALF, batches=ids())
    assert equal(model, whole)


class Fed(torch.nn.Module):
    """Takes its inputs in a dict or a tuple, and a number beside them."""

    def __init__(self):
        super().__init__()
        self.stack = stack()

    def forward(self, held, scale=1.0):
        inputs = held["ids"] if isinstance(held, dict) else held[0]
        return self.stack(inputs) * scale


@pytest.mark.parametrize(
    "other",
    [
        {"held": {"ids": ids()[1]}, "scale": 1.0},
        {"held": {"ids": ids()[0]}, "scale": 2.0},
        {"held": (ids()[0],), "scale": 1.0},
        {"held": {"ids": ids()[0], "more": "text"}, "scale": 1.0},
    ],
    ids=["other inputs in a dict", "another number", "a tuple", "another entry"],
)
def test_inputs_that_lists_and_numbers_hold_are_compared_too(tmp_path, other):
    given = {"held": {"ids": ids()[0]}, "scale": 1.0}
    ow.prune(Fed(), HALF, batches=[given], resume=tmp_path)
    ow.prune(Fed(), HALF, batches=[copy.deepcopy(given)], resume=tmp_path)
    with pytest.raises(ValueError, match="with other inputs"):
        ow.prune(Fed(), HALF, batches=[other], resume=tmp_path)


@pytest.mark.parametrize("left", [0, 5, 200])
def test_a_damaged_block_is_named_and_its_weights_stay(tmp_path, left):
    ow.prune(stack(), HALF, batches=ids(), resume=tmp_path)
    file = tmp_path / "0001.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    model = stack()
    with pytest.raises(ValueError, match=r"0001.safetensors is damaged \(.*; remove it, and its block is pruned anew"):
        ow.prune(model, HALF, batches=ids(), resume=tmp_path)
    assert equal(model.layers[1:], stack().layers[1:])
    file.unlink()
    ow.prune(model, HALF, batches=ids(), resume=tmp_path)
    whole = stack()
    ow.prune(whole, HALF, batches=ids())
    assert equal(model, whole)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "blocks").touch()
    with pytest.raises(ValueError, match=r"is a file; pass a folder for finished blocks"):
        ow.prune(stack(), HALF, batches=ids(), resume=tmp_path / "blocks")
