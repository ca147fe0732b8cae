"""What users try first gets one sentence where they try it, and changes nothing; names that are right work."""

import copy
import logging

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.inference.on_cpu import SparseOnCPU
from tests.helpers import Tied

G = ow.GradualMagnitude(ow.OneShot(0.5))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.gate, self.weight = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.classifier = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.table = nn.Parameter(torch.ones(2, 3))


def names(model, select):
    return [weight.name for weight in ow.sparsify(model, G, select=select).weights]


ATTENTION, CLASSIFIER = (
    ["attention.in_proj_weight", "attention.out_proj.weight"],
    ["classifier.0.weight", "classifier.2.weight"],
)


@pytest.mark.parametrize(
    ("select", "found"),
    [
        ("dense", ["dense.weight"]),
        ("gate", ["gate.weight"]),
        ("weight", ["weight.weight"]),
        (["dense", "gate.weight"], ["dense.weight", "gate.weight"]),
        (("cl*fier",), CLASSIFIER),
        ({"classifier"}, CLASSIFIER),
        (ow.matching("attention"), ATTENTION),
        (ow.matching("classifier.?"), CLASSIFIER),
        (ow.excluding("dense", "gate", "weight", "classifier"), ATTENTION),
        (ow.excluding("dense", "attention", "classifier"), ["gate.weight", "weight.weight"]),
        (ow.weights_of(nn.MultiheadAttention), ATTENTION[:1]),
        (ow.matching("table", among=ow.all_parameters), ["table"]),
    ],
    ids=str,
)
def test_names_of_weights_and_of_modules_select(select, found):
    assert names(Net(), select) == found


def test_per_layer_takes_the_same_names():
    per_layer = ow.PerLayer({"classifier": 0.0, "attention": 0.25})
    sparsity = ow.sparsify(Net(), ow.GradualMagnitude(ow.OneShot(0.5), allocation=per_layer)).layer_sparsity()
    assert {sparsity[name] for name in CLASSIFIER} == {0.0}
    assert {sparsity[name] for name in ATTENTION} == {0.25}
    assert sparsity["dense.weight"] == 0.5


def test_excluding_any_place_of_a_tied_weight_leaves_it_out():
    sparsifier = ow.sparsify(Tied(), G, select=ow.excluding("output"))
    assert [weight.name for weight in sparsifier.weights] == ["hidden.weight"]
    assert sparsifier.skipped["embedding.weight"] == "select excludes output.weight, to which it is tied"


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            ow.matching("dense", "clasifier"),
            "'clasifier' fits no parameter or module of Net; did you mean 'classifier'",
        ),
        (ow.excluding("clasifier"), "'clasifier' fits no parameter or module of Net; did you mean 'classifier'"),
        (
            ow.matching("dense", among=ow.excluding("Gate")),
            "'Gate' fits no parameter or module of Net; did you mean 'gate'",
        ),
        ("classifer.*", "'classifer.*' fits none of these, did you mean 'classifier"),
        (["dense", "table"], "'table' fits no weight that can be selected, only such as table: the selection does not"),
        ("table", "matching('table') fits table, which it does not pick without among=all_parameters"),
        ("zzz", "'zzz' fits none of these, its modules are table, dense, gate, weight, attention, classifier"),
    ],
    ids=str,
)
def test_a_name_that_fits_nothing_proposes_the_nearest(select, message):
    with pytest.raises(ValueError, match=r"fits") as error:
        ow.sparsify(Net(), G, select=select)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def meta():
    with torch.device("meta"):
        return nn.Linear(8, 8)


def scripted():
    return torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))


GUESSES = {
    "select: a type": (lambda m: ow.sparsify(m, G, select=nn.Linear), "write select=weights_of(Linear)"),
    "select: types": (lambda m: ow.sparsify(m, G, select=[nn.Linear, nn.Conv2d]), "select=weights_of(Linear, Conv2d)"),
    "select: a module": (lambda m: ow.sparsify(m, G, select=m.dense), "a name or a list of names, got Linear"),
    "select: modules": (lambda m: ow.sparsify(m, G, select=[m.dense]), "a name or a list of names, got Linear"),
    "select: parameters": (lambda m: ow.sparsify(m, G, select=list(m.parameters())[:1]), "names, got Parameter"),
    "select: nothing": (lambda m: ow.sparsify(m, G, select=[]), "a name or a list of names, got nothing"),
    "select: None": (lambda m: ow.sparsify(m, G, select=None), "a name or a list of names, got None"),
    "select: of the name": (lambda m: ow.sparsify(m, G, select=lambda name: True), "select(name, parameter, module)"),
    "weights_of a name": (
        lambda m: ow.weights_of("Linear"),
        "weights_of takes types of modules such as nn.Linear, got",
    ),
    "weights_of nothing": (
        lambda m: ow.weights_of(),
        "weights_of takes types of modules such as nn.Linear, got nothing",
    ),
    "matching a list": (
        lambda m: ow.matching(["a", "b"]),
        "matching takes names or patterns, as matching('fc1', 'conv*')",
    ),
    "excluding nothing": (lambda m: ow.excluding(), "excluding takes names or patterns"),
    "excluding a type": (lambda m: ow.excluding(nn.Linear), "excluding takes names or patterns"),
    "a percentage": (lambda m: ow.GradualMagnitude(ow.OneShot(90)), "did you pass a percentage?"),
    "Cubic's percentage": (lambda m: ow.GradualMagnitude(ow.Cubic(90, end=9)), "did you pass a percentage?"),
    "a number for a schedule": (lambda m: ow.GradualMagnitude(0.9), "must be a schedule such as OneShot(0.9), got 0.9"),
    "prune to a number": (lambda m: ow.prune(m, 0.5), "such as GradualMagnitude(OneShot(0.8)), got 0.5"),
    "prune with L0": (lambda m: ow.prune(m, ow.L0(ow.Constant(1e-3)), float), "prune takes a technique with masks"),
    "prune a state dict": (lambda m: ow.prune(m.state_dict(), G), "expected an nn.Module, got a state dict"),
    "the class": (lambda m: ow.sparsify(m, ow.GradualMagnitude), "pass an instance"),
    "the name": (lambda m: ow.sparsify(m, "magnitude"), "expected a technique such as GradualMagnitude(...), got 'mag"),
    "the other order": (lambda m: ow.sparsify(G, m), "the model comes first and the technique second"),
    "the class of a model": (lambda m: ow.sparsify(Net, G), "got the class Net; pass an instance"),
    "a state dict": (lambda m: ow.sparsify(m.state_dict(), G), "expected an nn.Module, got a state dict"),
    "parameters": (lambda m: ow.sparsify(m.parameters(), G), "expected an nn.Module, got a generator"),
    "a list of modules": (lambda m: ow.sparsify([m], G), "expected an nn.Module, got a list"),
    "a seed that is text": (lambda m: ow.sparsify(m, G, seed="a"), "seed must be a whole number, got 'a'"),
    "no seed": (lambda m: ow.sparsify(m, G, seed=None), "seed must be a whole number, got None"),
    "half a seed": (lambda m: ow.prune(m, G, seed=0.5), "seed must be a whole number, got 0.5"),
    "a lazy layer": (
        lambda m: ow.sparsify(nn.LazyLinear(8), G),
        "weight has no values yet; run the model on one batch",
    ),
    "metadata": (
        lambda m: ow.save(m, "m.safetensors", metadata=["a"]),
        "metadata must map texts to texts, got ['a']; pass",
    ),
    "one name": (lambda m: ow.load("m.safetensors", names="gate"), "names are several, got 'gate'; pass ['gate']"),
    "no kernel": (
        lambda m: ow.accelerate(m.dense, torch.ones(4, 4), alternatives=["CSR"]),
        "alternatives are kernels with misfit() and convert(), got ['CSR']",
    ),
    "one kernel": (
        lambda m: ow.accelerate(m.dense, torch.ones(4, 4), alternatives=SparseOnCPU()),
        "alternatives are kernels with misfit() and convert(), got <",
    ),
    "meta": (lambda m: ow.sparsify(meta(), G), "weight is on the meta device and has no values; load the weights"),
    "compiled": (
        lambda m: ow.sparsify(torch.compile(m), G),
        "OptimizedModule wraps the model, which must be sparsified",
    ),
    "DataParallel": (lambda m: ow.sparsify(nn.DataParallel(m), G), "before; pass model.module"),
    "scripted": (lambda m: ow.sparsify(scripted(), G), "a scripted module runs compiled code"),
    "recalibrate a number": (
        lambda m: ow.recalibrate_batchnorm(5, []),
        "expected an nn.Module, got a int; the model comes first",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("guess", GUESSES)
def test_a_first_guess_gets_one_sentence_and_changes_nothing(guess):
    attempt, message = GUESSES[guess]
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((TypeError, ValueError)) as error:
        attempt(model)
    assert message in str(error.value)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert ow.sparsify(model, G)  # nobody holds it


def test_the_repr_and_the_log_say_what_was_selected_and_what_was_left_out(caplog, capsys):
    with caplog.at_level(logging.INFO, logger="openwork"):
        sparsifier = ow.sparsify(Net(), G, select=ow.excluding("dense", "classifier"))
    chosen = "gate.weight, weight.weight, attention.in_proj_weight, attention.out_proj.weight"
    shown = f"4 tensors, 4 skipped, 96 weights: {chosen}"
    assert f"step 0, {shown}; left out table, dense.weight, classifier.0.weight, classifier.2.weight)" in repr(
        sparsifier
    )
    first, *others = [record.getMessage() for record in caplog.records]
    assert first.endswith("selected 4 tensors with 96 weights: " + chosen)
    assert others[0] == "left out table: select does not pick the table of a Net"
    assert others[1] == "left out dense.weight: select does not pick the weight of a Linear"
    assert capsys.readouterr() == ("", "")


def test_nothing_is_logged_or_printed_unless_asked_for(caplog, capsys):
    ow.sparsify(Net(), G)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_warnings_of_the_study_reach_standard_error_where_nobody_has_set_up_logging():
    assert not logging.getLogger("openwork").handlers  # any handler, even one that does nothing, would keep them


@pytest.mark.parametrize("final", ["90%", None, [0.9]])
@pytest.mark.parametrize("technique", [ow.GradualMagnitude, ow.PruneRetrain, ow.L0], ids=lambda kind: kind.__name__)
def test_a_schedule_of_what_is_no_number_is_refused_by_every_technique(technique, final):
    with pytest.raises(TypeError, match="must be a schedule of numbers such as"):
        technique(ow.OneShot(final))


@pytest.mark.parametrize("metric", [torch.zeros(3, 2), torch.zeros(2), torch.zeros(0)])
def test_a_metric_of_several_numbers_is_refused_and_the_weights_are_as_before(metric):
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    with pytest.raises(TypeError, match="evaluate must return one number, got the shape"):
        ow.prune(model, G, lambda model: metric)
    assert torch.equal(model.weight, before)


def test_a_metric_that_is_a_tensor_with_a_gradient_becomes_a_plain_number():
    model = nn.Linear(4, 4)
    pruned = ow.prune(model, G, lambda model: model(torch.ones(4)).sum())
    assert type(pruned.before) is type(pruned.after) is float
    assert str(pruned).startswith("50.00% sparsity: ")


def test_report_names_the_kind_of_what_it_cannot_count_in_one_line():
    with pytest.raises(TypeError) as caught:
        ow.report(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    assert str(caught.value) == "report counts a module, a Sparsifier, a state dict or a file, got a SGD; give one"


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1j, 2j], [3.0 + 0j, 4.0 + 0j]]))

    def forward(self, x):
        return x @ self.weight


def test_movement_of_complex_weights_is_along_their_own_direction():
    model = Complex()
    sparsifier = ow.sparsify(model, ow.Movement(ow.OneShot(0.5, at=1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    model.weight.grad = torch.tensor(
        [[-1j, 1j], [-1.0 + 1j, 1.0 + 1j]]
    )  # a step grows the first column, shrinks the other
    optimizer.step()
    assert (model.weight != 0).tolist() == [[True, False], [True, False]]


def test_dynamic_surgery_takes_complex_weights():
    model = Complex()
    sparsifier = ow.sparsify(model, ow.DynamicSurgery(ow.Splicing(4), rate=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for _ in range(4):
        model.weight.grad = torch.zeros(2, 2, dtype=torch.complex64)
        optimizer.step()
    assert (model.weight != 0).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("technique", [G, ow.L0(ow.Constant(1e-3)), ow.STR()], ids=lambda one: type(one).__name__)
def test_weights_that_nobody_can_change_are_refused_and_a_copy_is_not(technique):
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"0.weight was made under torch.inference_mode\(\), .* copy.deepcopy"):
        ow.sparsify(model, technique)
    assert type(model[0]) is nn.Linear
    ow.report(model)
    ow.sparsify(copy.deepcopy(model), technique)
    model = nn.Sequential(nn.Linear(4, 4))
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"under torch.inference_mode\(\) torch makes tensors"),
    ):
        ow.sparsify(model, technique)
    assert type(model[0]) is nn.Linear


def test_prune_sensitivity_and_permute_refuse_them_too():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4))
    batches = [torch.ones(2, 4)]
    two_of_four = ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4))
    for change in (
        lambda: ow.prune(model, G),
        lambda: ow.prune(model, ow.Wanda(ow.OneShot(0.5)), batches=batches),
        lambda: ow.sensitivity(model, lambda model: 1.0),
        lambda: ow.permute(model, batches[0], two_of_four),
    ):
        with pytest.raises(ValueError, match=r"0.weight was made under torch.inference_mode"):
            change()
    with torch.inference_mode(), pytest.raises(ValueError, match=r"under torch.inference_mode\(\) torch makes tensors"):
        ow.permute(model, batches[0], two_of_four)
    ow.accelerate(model, batches[0])
    ow.shrink(model, batches[0])
    with torch.inference_mode():  # where they can be changed, and put back
        ow.sensitivity(model, lambda model: 1.0)
