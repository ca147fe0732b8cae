"""What hangs elsewhere in the model since `sparsify`: modules that were replaced, wrapped, renamed or resized."""

import pytest
import torch
from torch import nn

import openwork as ow

HALF = ow.GradualMagnitude(ow.OneShot(0.5))
TECHNIQUES = [HALF, ow.VariationalDropout(ow.Constant(1e-4)), ow.L0(ow.Constant(1e-4))]
GONE = "1.weight is no longer in the model; put its layer back"


class Adapted(nn.Module):
    """A layer with a low-rank adapter around it, as LoRA puts one."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.ones(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def started(technique):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    return model, ow.sparsify(model, technique)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
@pytest.mark.parametrize(
    "ask",
    ["sparsity", "layer_sparsity", "masks", "finalized_copy", "finalize"],
)
def test_a_replaced_layer_is_refused_wherever_its_sparsity_is_asked_for(technique, ask):
    model, sparsifier = started(technique)
    model[1] = nn.Linear(8, 3)
    with pytest.raises(ValueError, match=GONE):
        getattr(sparsifier, ask)()


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_a_removed_layer_is_refused_by_report_and_attach(technique):
    model, sparsifier = started(technique)
    del model[1]
    with pytest.raises(ValueError, match=GONE):
        ow.report(sparsifier)
    with pytest.raises(ValueError, match=GONE):
        sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_layer_that_is_put_back_can_be_finalized():
    model, sparsifier = started(HALF)
    layer, model[1] = model[1], nn.Linear(8, 3)
    with pytest.raises(ValueError, match=GONE):
        sparsifier.finalize()
    model[1] = layer
    assert (sparsifier.finalize()[1].weight == 0).sum() == 16


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_a_layer_inside_an_adapter_counts_and_is_copied_as_before(technique):
    model, sparsifier = started(technique)
    before = sparsifier.sparsity()
    model[1] = Adapted(model[1])
    assert sparsifier.sparsity() == before
    assert ow.report(sparsifier).sparsity == before
    assert [layer.name for layer in ow.report(sparsifier).layers] == ["0.weight", "1.base.weight"]
    model.eval()
    x = torch.randn(3, 8)
    assert torch.equal(sparsifier.finalized_copy()(x), model(x))


def test_no_zero_of_a_mask_is_accidental_after_its_layer_was_renamed():
    model, sparsifier = started(HALF)
    model.insert(0, nn.Flatten())
    report = ow.report(sparsifier)
    assert [layer.name for layer in report.layers] == ["1.weight", "2.weight"]
    assert (report.zeros, report.accidental) == (48, 0)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_a_weight_that_was_resized_in_place_is_refused_at_the_next_step_and_by_finalize(technique):
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4))
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    dict(model.named_parameters())["0.weight"].data = torch.randn(12, 8)  # as resize_token_embeddings does
    sentence = r"0.weight had the shape \(10, 8\) in sparsify and has \(12, 8\) now; sparsify after such a change"
    for call in (optimizer.step, sparsifier.sparsity, sparsifier.finalize):
        with pytest.raises(ValueError, match=sentence):
            call()
