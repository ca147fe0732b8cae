"""Batches as loaders give them, and calls that fail and change nothing."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import openwork as ow

X = torch.arange(16.0).view(8, 2)
HALF = ow.GradualMagnitude(ow.OneShot(0.5))


class Net(nn.Module):
    """A batch norm on plain inputs, whose mean is then that of the inputs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.fc = nn.Linear(2, 2)

    def forward(self, x, labels=None):
        return self.fc(self.norm(x))


def batches(kind):
    return {
        "tensors": list(X.split(4)),
        "(x, y) of a DataLoader": DataLoader(TensorDataset(X, torch.zeros(8)), batch_size=4),
        "(x,)": [(x,) for x in X.split(4)],
        "((x, lengths), y)": [((x, 2), 0) for x in X.split(4)],
        "dicts": [{"x": x} for x in X.split(4)],
        "dicts with labels and names": [{"x": x, "labels": None, "name": "a"} for x in X.split(4)],
        "a generator": (x for x in X.split(4)),
    }[kind]


KINDS = [
    "tensors", "(x, y) of a DataLoader", "(x,)", "((x, lengths), y)", "dicts", "dicts with labels and names",
    "a generator",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_taken_as_loaders_give_them(kind):
    model = Net()
    assert ow.recalibrate_batchnorm(model, batches(kind)) == 2
    assert model.norm.running_mean.tolist() == [7.0, 8.0]
    pruned = Net()
    ow.prune(pruned, HALF, batches=batches(kind))
    assert pruned.norm.running_mean.tolist() == [7.0, 8.0]


def test_without_evaluate_nothing_is_measured():
    result = ow.prune(Net(), HALF)
    assert (result.sparsity, result.before, result.after, result.recalibrated) == (0.5, None, None, None)
    assert str(result) == "50.00% sparsity"


def broken(error):
    yield X
    raise error


FAILURES = {
    "a generator that raises": (lambda: broken(OSError("disk")), OSError),
    "Ctrl-C": (lambda: broken(KeyboardInterrupt()), KeyboardInterrupt),
    "another dtype": (lambda: [X, X.double()], RuntimeError),
    "another shape": (lambda: [X, torch.zeros(8, 3)], RuntimeError),
    "a dict without inputs": (lambda: [X, {"pixels": X}], TypeError),
    "an empty tuple": (lambda: [X, ()], TypeError),
    "one tensor": (lambda: X, TypeError),
    "one dict": (lambda: {"x": X}, TypeError),
    "a number": (lambda: 3, TypeError),
    "an empty loader": (list, ValueError),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("call", ["recalibrate", "prune"])
def test_a_call_that_fails_changes_nothing(name, call):
    make, error = FAILURES[name]
    model = Net()
    model.norm.running_mean.fill_(5.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calls = {
        "prune": lambda given: ow.prune(model, HALF, batches=given),
        "recalibrate": lambda given: ow.recalibrate_batchnorm(model, given),
    }
    with pytest.raises(error):
        calls[call](make())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert model.norm.momentum == 0.1


def test_a_loader_in_the_place_of_evaluate_is_named():
    with pytest.raises(
        TypeError, match="evaluate must be a function model -> metric, got a list; a loader is batches="
    ):
        ow.prune(Net(), HALF, [X])


def test_a_dict_that_the_model_does_not_take_names_both():
    with pytest.raises(
        TypeError, match=r"a batch has the entries pixels, and Net.forward takes x, labels; name the en"
    ):
        ow.recalibrate_batchnorm(Net(), [{"pixels": X}])


class Two(Net):
    """Takes two inputs."""

    def forward(self, x, y):
        return super().forward(x + y)


def test_what_a_hook_adds_to_a_batch_is_not_missed():
    model = Two()
    model.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs | {"y": args[0]}), with_kwargs=True)
    assert ow.recalibrate_batchnorm(model, [X]) == 1
    ow.prune(model, HALF, batches=[X])


CALLS = {
    "recalibrate_batchnorm": ow.recalibrate_batchnorm,
    "prune": lambda model, given: ow.prune(model, HALF, batches=given),
    "prune by inputs": lambda model, given: ow.prune(model, ow.Wanda(ow.OneShot(0.5)), batches=given),
    "reconstruct": lambda model, given: ow.prune(model, HALF, batches=given, reconstruct=True),
}


def state_of(model):
    """All that its modules hold, tensors and hooks by their values."""
    return [(type(module), {name: repr(value) for name, value in vars(module).items()}) for module in model.modules()]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("batch", "given"),
    [((X, X), "1 argument"), (X, "1 argument"), ({"x": X}, "the arguments x")],
    ids=["tuple", "tensor", "dict"],
)
def test_an_error_of_the_model_is_its_own_with_a_note_of_what_it_was_called_with(call, batch, given):
    model = Two()
    before = state_of(model)
    with pytest.raises(TypeError) as caught:
        CALLS[call](model, [batch])
    assert str(caught.value) == "Two.forward() missing 1 required positional argument: 'y'"
    (note,) = caught.value.__notes__
    assert note.startswith(f"Two was called with {given}; if these do not fit, make each batch a dict of all")
    assert state_of(model) == before
    CALLS[call](model, [{"x": X, "y": X}])


def test_only_a_type_error_of_the_model_has_a_note():
    for given in ([X, X.double()], [()]):  # the model's own, of another type; and openwork's
        with pytest.raises((RuntimeError, TypeError)) as caught:
            ow.recalibrate_batchnorm(Net(), given)
        assert not hasattr(caught.value, "__notes__")


def test_an_example_that_lacks_an_argument_has_a_note_too():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'") as caught:
        ow.report(Two(), example=X)
    assert caught.value.__notes__ == [
        "Two was called with 1 argument; if these do not fit, give one input, a tuple of arguments or a mapping of "
        "keyword arguments"
    ]


def test_names_of_arguments_that_are_no_strings_are_torchs_error():
    with pytest.raises(TypeError, match="keywords must be strings") as caught:
        ow.report(Two(), example={0: X})
    assert caught.value.__notes__[0].startswith("Two was called with the arguments 0; ")
