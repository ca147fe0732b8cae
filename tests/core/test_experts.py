"""The inputs of experts: those that operations multiply with the matrix of each, whatever the module does."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import raises

HALF = ow.OneShot(0.5)
TOKENS = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
CHOSEN = torch.tensor([0, 2, 2, 0, 3, 2, 0, 3, 3, 3, 0, 2])  # expert 1 has no token


class Experts(nn.Module):
    """Four square experts (out, in) or (in, out), each of which multiplies its tokens, one way or another."""

    def __init__(self, way, transposed=False):
        super().__init__()
        self.way, self.is_transposed = way, transposed
        torch.manual_seed(0)
        weight = torch.randn(4, 8, 8)
        self.proj = nn.Parameter(weight.mT.contiguous() if transposed else weight)

    def matrix(self, number):
        return self.proj[number] if self.is_transposed else self.proj[number].mT  # (in, out)

    def forward(self, x):
        out = x.new_zeros(len(x), 8)
        if self.way == "batched":
            weight = self.proj[CHOSEN]
            if self.is_transposed:
                return torch.bmm(x[:, None], weight)[:, 0]
            return torch.bmm(weight, x[..., None])[..., 0]
        order = CHOSEN.argsort(stable=True)
        ends = CHOSEN.bincount(minlength=4).cumsum(0)
        if self.way == "grouped":
            weight = self.proj if self.is_transposed else self.proj.mT
            out[order] = torch._grouped_mm(x[order], weight, offs=ends.int())
            return out
        if self.way == "all at once":  # as many places for each expert, of which some stay empty
            weight = self.proj if self.is_transposed else self.proj.mT
            tokens = [x[number == CHOSEN] for number in range(4)]
            return torch.bmm(torch.stack([F.pad(some, (0, 0, 0, 4 - len(some))) for some in tokens]), weight)
        for number in CHOSEN.unique():
            rows, matrix = x[number == CHOSEN], self.matrix(number)
            if self.way == "linear":
                out[number == CHOSEN] = F.linear(rows, matrix.mT)
            elif self.way == "matmul":
                out[number == CHOSEN] = rows @ matrix
            elif self.way == "from the left":
                out[number == CHOSEN] = torch.mm(matrix.mT, rows.mT).mT
            else:
                out[number == CHOSEN] = torch.addmm(torch.zeros(8), rows, matrix)
        return out


WAYS = pytest.mark.parametrize(
    "way", ["linear", "matmul", "from the left", "addmm", "grouped", "batched", "all at once"]
)
TRANSPOSED = pytest.mark.parametrize("transposed", [False, True], ids=["out in", "in out"])
ALONE = "ignore:no token of the calibration reached"


def by_expert(technique):
    """Each expert's matrix (out, in) after the technique has pruned it alone, on its own tokens."""
    found = []
    for number, matrix in enumerate(Experts("linear").proj.detach()):
        layer = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            layer.weight.copy_(matrix)
        tokens = TOKENS[number == CHOSEN]
        ow.sparsify(layer, technique, calibrate=lambda model, x=tokens: model(x if len(x) else torch.eye(8))).finalize()
        found.append(layer.weight.detach())
    return torch.stack(found)


@WAYS
@TRANSPOSED
@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize(
    "technique", [ow.Wanda(HALF), ow.SparseGPT(HALF, pattern=ow.PerOutput())], ids=["wanda", "sgpt"]
)
def test_every_expert_is_pruned_by_its_own_tokens(way, transposed, technique):
    experts = Experts(way, transposed)
    ow.sparsify(experts, technique, calibrate=lambda model: model(TOKENS)).finalize()
    found = experts.proj.detach().mT if transposed else experts.proj.detach()
    torch.testing.assert_close(found, by_expert(technique))


@pytest.mark.parametrize("technique", [ow.Wanda, ow.RIA, ow.SparseGPT, ow.ADMM, ow.ALPS, ow.DSnoT])
def test_an_expert_without_tokens_goes_by_magnitude_and_is_named_once(technique):
    experts = nn.ModuleList([Experts("linear"), Experts("matmul", transposed=True)])
    technique = technique(HALF, pattern=ow.PerOutput())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ow.sparsify(experts, technique, calibrate=lambda model: [each(TOKENS) for each in model]).finalize()
    (one,) = [str(warning.message) for warning in said]
    assert one == (
        "no token of the calibration reached 2 matrices of experts, such as 0.proj[1]: their magnitudes alone decide "
        "there; calibrate with more batches"
    )
    dense = Experts("linear").proj.detach()[1]
    scores = dense.abs() / dense.abs().sum(0) + dense.abs() / dense.abs().sum(1, keepdim=True)
    scores = scores if isinstance(technique, ow.RIA) else dense.abs()
    kept = torch.zeros_like(dense, dtype=torch.bool).scatter_(1, scores.topk(4, dim=1).indices, True)
    found = experts[0].proj.detach()[1]
    if isinstance(technique, ow.ADMM | ow.ALPS):  # whose steps may take one of two that are nearly as large
        assert ((found != 0) == kept).float().mean() > 0.95
        torch.testing.assert_close(found[found != 0], dense[found != 0], rtol=0.01, atol=0)
    elif not isinstance(technique, ow.DSnoT):  # which still sees means
        torch.testing.assert_close(found, dense * kept)


@pytest.mark.filterwarnings(ALONE)
def test_an_expert_without_tokens_keeps_about_as_much_as_others_where_they_compete():
    experts = Experts("linear")
    technique = ow.Wanda(HALF, pattern=ow.Unstructured())
    ow.sparsify(experts, technique, calibrate=lambda model: model(TOKENS)).finalize()
    share = (experts.proj != 0).float().mean((1, 2))
    assert 0.25 < share[1] < 0.75


@dataclass(frozen=True)
class Counted(ow.Evidence):
    """Counts rows, from a beginning of its own."""

    def begin(self, weight):
        return {"seen": torch.full((weight.shape[-1],), 100)}

    def input(self, kept, rows):
        kept["seen"] += len(rows)


@dataclass(frozen=True)
class Counts(ow.MaskTechnique):
    """Magnitude pruning that counts rows."""

    evidence: ClassVar[ow.Evidence] = Counted(inputs=True)

    def scores(self, view):
        return view.weight.abs()


@pytest.mark.filterwarnings(ALONE)
def test_evidence_of_experts_begins_and_is_kept_for_each_of_them():
    experts = Experts("grouped")
    sparsifier = ow.sparsify(experts, Counts(HALF), calibrate=lambda model: model(TOKENS))
    seen = sparsifier.state_dict()["evidence"]["proj"]["seen"]
    assert seen.tolist() == [[104] * 8, [108] * 8, [104] * 8, [104] * 8]  # expert 1 was shown one row for each input
    again = ow.sparsify(Experts("grouped"), Counts(HALF), calibrate=lambda model: model(TOKENS))
    again.load_state_dict(sparsifier.state_dict())


def test_experts_that_nothing_multiplied_are_an_error():
    class Idle(Experts):
        def forward(self, x):
            return x

    with raises(ValueError, "the calibration called no layer with proj; run batches through all selected layers"):
        ow.sparsify(Idle("linear"), ow.Wanda(HALF), calibrate=lambda model: model(TOKENS))


PATTERNS = [ow.Unstructured(), ow.PerOutput(), ow.NM(2, 4), ow.NM(4, 8), ow.Block(2, 4), ow.Rows(), ow.Columns()]


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("technique", [ow.SparseGPT, ow.ADMM, ow.ALPS, ow.RIA, ow.Wanda])
def test_experts_can_have_every_pattern(technique, pattern):
    experts = Experts("linear")
    ow.sparsify(experts, technique(HALF, pattern=pattern), calibrate=lambda model: model(TOKENS)).finalize()
    assert int((experts.proj == 0).sum()) == 128
    if isinstance(pattern, ow.NM):
        assert ((experts.proj != 0).unflatten(2, (-1, pattern.m)).sum(3) == pattern.n).all()


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2Moe"])
def test_experts_of_transformers_are_seen_whatever_computes_them(kind, way):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    if kind == "Mixtral":
        config = transformers.MixtralConfig(**sizes, intermediate_size=24, num_local_experts=3, vocab_size=50)
    else:
        experts = {"num_experts": 3, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
        config = transformers.Qwen2MoeConfig(
            **sizes, **experts, intermediate_size=24, shared_expert_intermediate_size=24, vocab_size=50
        )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    ids = torch.randint(50, (4, 8), generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = {}
    for each in ("eager", way):
        model.load_state_dict(state)
        model.set_experts_implementation(each)
        technique = ow.SparseGPT(HALF, pattern=ow.NM(2, 4))
        ow.sparsify(model, technique, select="*.experts", calibrate=lambda model: model(ids)).finalize()
        found[each] = [p.detach().clone() for name, p in model.named_parameters() if ".experts." in name]
    for one, two in zip(found["eager"], found[way], strict=True):
        assert int((one == 0).sum()) == one.numel() // 2
        torch.testing.assert_close(one, two)
