"""Pruning block after block: what a block sees, what a layer becomes, and what stays as it was."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks.blockwise.chains import find_chains
from openwork.core.masks.blockwise.examples import at_rest
from openwork.core.masks.blockwise.prune import plan
from tests.core.blockwise.models import HALF, HOWS, Layer, Stack, ids, pruned_block_by_block, stack

LAYERS = [f"layers.{number}" for number in range(3)]


def chains_of(model, batches, blocks=None):
    planned = plan(model, HALF.fitting, batches, select=ow.weight_matrices, blocks=blocks)
    with at_rest(model):
        return [
            [block.name for block in chain.blocks] for chain in find_chains(model, planned.blocks, planned.examples[0])
        ]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("how", HOWS)
def test_each_block_sees_what_the_pruned_blocks_before_it_give(how):
    model = stack(how)
    twin = pruned_block_by_block(copy.deepcopy(model), HALF, ids(), LAYERS)
    assert len(chains_of(model, ids())) == HOWS[how]
    result = ow.prune(model, HALF, batches=ids())
    assert equal(model, twin)
    assert result.sparsity == 0.5
    assert [layer.name for layer in result.layers] == [
        f"{name}.{part}.weight" for name in LAYERS for part in ("up", "down")
    ]


def test_embeddings_and_heads_stay_dense_and_are_named():
    model = stack()
    result = ow.prune(model, HALF, batches=ids())
    assert list(result.skipped) == ["embedding.weight", "head.weight"]
    assert "lies in none of the blocks layers.0, layers.1, layers.2" in result.skipped["head.weight"]
    assert (model.head.weight != 0).all()
    assert "head.weight stays dense: " in result.table()


def test_padding_is_no_input():
    masks = [(torch.arange(7) < length).long().expand(2, 7) for length in (3, 5, 7)]
    batches = [{"ids": batch, "attention_mask": mask} for batch, mask in zip(ids(), masks, strict=True)]
    padded = copy.deepcopy(batches)
    for batch in padded:  # another token in the padding; no layer here mixes positions
        batch["ids"][batch["attention_mask"] == 0] = 0
    models = [stack() for _ in range(3)]
    for model, given in zip(models, [batches, padded, [batch["ids"] for batch in batches]], strict=True):
        ow.prune(model, HALF, batches=given)
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])


class Experts(nn.Module):
    """Two experts, of which only the first is ever asked."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        return self.experts[0](x)


def test_an_expert_without_inputs_is_pruned_by_its_weights_alone_and_that_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(Experts(), Experts())
    magnitude = copy.deepcopy(model)
    ow.prune(magnitude, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.PerOutput()))
    result = ow.prune(model, HALF, batches=[torch.randn(9, 8) * torch.arange(8)])
    assert torch.equal(model[1].experts[1].weight, magnitude[1].experts[1].weight)
    assert not torch.equal(model[0].experts[0].weight, magnitude[0].experts[0].weight)
    remarks = [(layer.remark, layer.error is None) for layer in result.layers]
    assert remarks == [("", False), ("no input reached it: pruned by its weights alone", True)] * 2


class Branches(nn.Module):
    """Two convolutions, of which only the first is ever asked."""

    def __init__(self, kind, kernel):
        super().__init__()
        self.asked, self.idle = (kind(4, 4, kernel, padding=1, stride=2) for _ in range(2))

    def forward(self, x):
        return self.asked(x)


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize(
    "technique", [HALF, ow.SparseGPT(ow.OneShot(0.5), pattern=ow.PerOutput())], ids=["Wanda", "SparseGPT"]
)
@pytest.mark.parametrize(("kind", "kernel", "size"), [(nn.Conv1d, 3, (9,)), (nn.Conv2d, (3, 2), (9, 9))], ids=str)
def test_a_convolution_without_inputs_is_pruned_by_its_weights_alone(kind, kernel, size, technique, reconstruct):
    torch.manual_seed(0)
    model = nn.Sequential(Branches(kind, kernel), Branches(kind, kernel))
    magnitude = copy.deepcopy(model)
    ow.prune(magnitude, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.PerOutput()))
    result = ow.prune(model, technique, batches=[torch.randn(50, 4, *size)], reconstruct=reconstruct)
    torch.testing.assert_close(model[1].idle.weight, magnitude[1].idle.weight)
    remarks = [(layer.remark, layer.error is None) for layer in result.layers]
    assert remarks == [("", False), ("no input reached it: pruned by its weights alone", True)] * 2


def test_counts_of_a_ranking_see_a_convolution_without_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(Branches(nn.Conv2d, 3), Branches(nn.Conv2d, 3))
    ranked = ow.Wanda(ow.OneShot(0.5), allocation=ow.GlobalRanking(), pattern=ow.Unstructured())
    assert ow.prune(model, ranked, batches=[torch.randn(50, 4, 9, 9)]).sparsity == 0.5


def test_fewer_rows_than_columns_are_remarked():
    model = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2))
    result = ow.prune(model, HALF, batches=[torch.randn(4, 8)])
    assert [layer.remark for layer in result.layers] == ["4 rows of inputs for 8 columns: give more batches", ""]


@pytest.mark.parametrize("how", HOWS)
def test_a_device_changes_nothing_but_the_place(how):
    model, twin = stack(how), stack(how)
    ow.prune(model, HALF, batches=ids(), device="cpu")
    ow.prune(twin, HALF, batches=ids())
    assert equal(model, twin)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["plain", "something between"])
def test_blocks_do_their_work_on_a_gpu_and_come_back(how):
    model, twin = stack(how), stack(how)
    result = ow.prune(model, HALF, batches=ids(), device="cuda", reconstruct=True)
    ow.prune(twin, HALF, batches=ids(), reconstruct=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert result.peak_memory > 0
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_error_of_a_layer_is_that_of_its_outputs():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0]]))
    (layer,) = ow.prune(model, HALF, batches=[torch.eye(2)]).layers
    assert (layer.zeros, layer.size, layer.error) == (1, 2, pytest.approx(0.1))  # 1^2 / (3^2 + 1^2)


def test_the_error_of_many_rows_is_right_within_a_few_percent():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64, bias=False)), torch.randn(5000, 64) * torch.rand(64)
    dense = model[0].weight.detach().clone()
    (layer,) = ow.prune(model, HALF, batches=[*x.split(600)]).layers
    true = ((x @ (dense - model[0].weight.detach()).T) ** 2).sum() / ((x @ dense.T) ** 2).sum()
    assert layer.error == pytest.approx(float(true), rel=0.05)  # of 64 * 64 sums of 1,024 rows, about 1 % each


@pytest.mark.parametrize("allocation", [ow.GlobalRanking(), ow.ERK(), ow.PerLayer({"layers.1": 0.8})], ids=repr)
def test_an_allocation_counts_over_all_blocks_of_the_dense_model(allocation):
    technique = ow.Wanda(ow.OneShot(0.5), allocation=allocation, pattern=ow.Unstructured())
    dense, model = stack(), stack()
    counted = ow.sparsify(
        *(dense, technique),
        select=ow.matching("layers"),
        calibrate=lambda model: [model(batch) for batch in ids()],
    ).layer_sparsity()
    result = ow.prune(model, technique, batches=ids())
    assert {layer.name: layer.sparsity for layer in result.layers} == counted


def test_layers_that_nothing_repeats_are_pruned_one_after_another():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    images = [torch.randn(2, 1, 8, 8) for _ in range(3)]
    twin = pruned_block_by_block(copy.deepcopy(model), HALF, images, ["0", "2", "4"])
    assert chains_of(model, images) == [["0"], ["2"], ["4"]]
    result = ow.prune(model, HALF, batches=images)
    assert equal(model, twin)
    assert not result.skipped


def test_a_head_may_be_larger_than_all_blocks():
    model = stack(words=2000)
    assert chains_of(model, ids()) == [LAYERS]


def test_a_residual_network_is_pruned_in_the_blocks_of_its_stages():
    from openwork.study.models.small_resnet import SmallResNet

    torch.manual_seed(0)
    model, images = SmallResNet().eval(), [torch.randn(4, 3, 16, 16) for _ in range(2)]
    stages = [f"stage{stage}.{number}" for stage in (1, 2, 3) for number in range(3)]
    assert chains_of(model, images) == [stages]
    twin = pruned_block_by_block(copy.deepcopy(model), HALF, images, stages)
    ow.recalibrate_batchnorm(twin, images)
    result = ow.prune(model, HALF, batches=images)
    assert equal(model, twin)
    assert list(result.skipped) == ["stem.weight", "fc.weight"]


def test_blocks_may_be_named():
    model = stack()
    assert chains_of(model, ids()) == [LAYERS]
    inner = ow.matching("layers")
    planned = plan(model, HALF.fitting, ids(), select=inner, blocks=["layers.*"])
    assert [block.name for block in planned.blocks] == LAYERS
    result = ow.prune(model, HALF, batches=ids(), select=[*LAYERS, "head"], blocks=["layers.*", "head"])
    assert len(result.layers) == 7


ODD = [
    (["layers.0", "layers.1"], "layers.2.up.weight, layers.2.down.weight lie in none of the blocks"),
    (["layer.*"], "the block 'layer.*' fits no module; did you mean "),
    (["layers"], r"the block 'layers' is a list of modules; name those in it, as with 'layers\.\*'"),
    (["layers.*", "layers.0.up"], "the block 'layers.0.up' lies inside of the block 'layers.0'"),
]


@pytest.mark.parametrize(("blocks", "words"), ODD)
def test_blocks_that_do_not_fit_are_refused(blocks, words):
    model = stack()
    with pytest.raises(ValueError, match=words):
        ow.prune(model, HALF, batches=ids(), select="layers", blocks=blocks)
    assert equal(model, stack())


def test_progress_is_a_line_for_each_block():
    lines = []
    ow.prune(stack(), HALF, batches=ids(), progress=lines.append)
    assert len(lines) == 3
    assert lines[1].startswith("2 of 3: layers.1, 50.0% zeros, relative errors up to 0.")


def test_evaluate_is_called_before_and_after():
    model = stack().train()
    result = ow.prune(model, HALF, lambda model: float((model.layers[0].up.weight == 0).sum()), batches=ids())
    assert (result.before, result.after, result.recalibrated) == (0.0, 64.0, None)
    assert model.training
    assert result.minutes > 0
    assert result.peak_memory is None or result.peak_memory > 0


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2))

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_batch_norms_see_the_batches_when_all_blocks_are_pruned():
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(6, 4)
    result = ow.prune(model, HALF, lambda model: 1.0, batches=(part for part in x.split(3)))
    assert result.recalibrated == 1.0
    twin = copy.deepcopy(model)
    ow.recalibrate_batchnorm(twin, x.split(3))
    assert equal(model, twin)


@pytest.mark.parametrize("argument", [{"blocks": "layers.*"}, {"device": "cpu"}, {"progress": print}], ids=str)
def test_arguments_that_would_do_nothing_are_refused(argument):
    with pytest.raises(ValueError, match=f"{next(iter(argument))} is for pruning block after block by inputs"):
        ow.prune(stack(), ow.GradualMagnitude(ow.OneShot(0.5)), **argument)
    with pytest.raises(ValueError, match="GradualMagnitude does not look at batches, and the model has no BatchNorm"):
        ow.prune(stack(), ow.GradualMagnitude(ow.OneShot(0.5)), batches=ids())


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99", 3.5], ids=str)
def test_a_device_on_which_torch_cannot_compute_is_refused_and_nothing_changes(device):
    model, dense = stack(), stack()
    with pytest.raises(ValueError, match=f"torch cannot compute on device='?{device}'? here"):
        ow.prune(model, HALF, batches=ids(), device=device)
    assert equal(model, dense)
    ow.prune(model, HALF, batches=ids())
    with pytest.raises(ValueError, match=f"torch cannot compute on device='?{device}'? here"):
        ow.reconstruct(model, dense, ids(), device=device)


def test_batches_and_calibrate_are_not_both_looked_at():
    with pytest.raises(ValueError, match="Wanda gets its inputs from batches or from calibrate, and both are given"):
        ow.prune(stack(), HALF, batches=ids(), calibrate=lambda model: model(ids()[0]), select="layers")


@pytest.mark.parametrize("argument", [{"progress": True}, {"blocks": 3}, {"blocks": [nn.Linear(2, 2)]}], ids=str)
def test_arguments_of_another_kind_are_refused_and_nothing_changes(argument):
    model, dense = stack(), stack()
    with pytest.raises(TypeError, match=r"progress must be a function of|blocks takes names of modules"):
        ow.prune(model, HALF, batches=ids(), select="layers", **argument)
    assert equal(model, dense)


WORDS = "use the model's own tokenizer"
BAD = {
    "none": ([], "there is no batch to take inputs from"),
    "of another tokenizer": ([*ids(), torch.full((1, 3), 99)], f"the batches ask embedding for row 99, .* 20; {WORDS}"),
    "negative": ([torch.full((1, 3), -100)], "the batches ask embedding for row -100"),
    "all padding": (
        [{"ids": batch, "attention_mask": torch.zeros_like(batch)} for batch in ids()],
        "the attention_mask of every batch is 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_batches_that_cannot_be_used_are_refused_and_nothing_changes(name):
    batches, words = BAD[name]
    model = stack().train()
    with pytest.raises(ValueError, match=words):
        ow.prune(model, HALF, batches=batches)
    assert equal(model, stack())
    assert model.training


def test_inputs_that_are_not_finite_are_refused_and_nothing_changes():
    torch.manual_seed(0)
    model = nn.Sequential(Layer(), Layer())
    with torch.no_grad():
        model[0].up.weight.mul_(1e15)
        model[0].down.weight.mul_(1e25)
    before, spoiled = copy.deepcopy(model), torch.randn(4, 8)
    spoiled[2, 3] = float("nan")
    with pytest.raises(ValueError, match="batch 1 holds NaN or infinite inputs"):
        ow.prune(model, HALF, batches=[torch.randn(4, 8), spoiled])
    with pytest.raises(ValueError, match=r"the inputs of 1 are NaN or infinite for batch 0; leave that batch out, or"):
        ow.prune(model, HALF, batches=[torch.randn(4, 8)])
    assert equal(model, before)


def test_a_walk_that_fails_half_way_changes_nothing():
    class Spoils(Layer):
        def forward(self, hidden, scale=None):
            if (self.up.weight == 0).any():  # once it is pruned itself
                raise OSError("disk")
            return super().forward(hidden, scale)

    model = stack()
    model.layers[1].__class__ = Spoils
    with pytest.raises(OSError, match="disk"):
        ow.prune(model, HALF, batches=ids())
    assert equal(model, stack())


def test_a_layer_that_the_model_does_not_call_is_named():
    model = Stack(layers=2)
    model.layers.append(Layer())
    model.forward = lambda ids: model.head(model.layers[1](model.layers[0](model.embedding(ids))))
    with pytest.raises(ValueError, match=r"the model does not call layers\.2 with the first batch; give it all inputs"):
        ow.prune(model, HALF, batches=ids())


def test_a_weight_of_codes_or_a_technique_with_gradients_still_takes_calibrate():
    model = nn.Linear(4, 2)
    result = ow.prune(model, ow.SNIP(ow.OneShot(0.5)), calibrate=lambda model: model(torch.eye(4)).sum().backward())
    assert (result.sparsity, result.layers[0].error) == (0.5, None)
