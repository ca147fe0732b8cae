"""The rows of the matrix that are habits: what people do around a training step, with a model of two Linear layers."""

import copy
import io
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from .cases import NET, Case
from .libraries import Library
from .steps import SGD, only
from .training import REACHED, ClaimError, Row, Training, habit, needs_target, sparse_net

ROWS: list[Row] = []


@habit(
    ROWS,
    "deepcopy",
    "a copy made in training computes the same, can be trained, and stays as it was when training goes on",
)
def deep_copy(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    twin = copy.deepcopy(training.model)
    training.check_same(training.model, twin)
    batch = training.batch()
    before = training.output(twin, batch)
    training.run(3)
    if not torch.equal(training.output(twin, batch), before):
        raise ClaimError("training went on and changed the copy")
    torch.autograd.backward(twin(*batch).square().sum())


@habit(ROWS, "pickle", "`torch.save` of the module in training, `torch.load` and the same output")
def pickled(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    file = io.BytesIO()
    torch.save(training.model, file)
    file.seek(0)
    training.check_same(training.model, torch.load(file, weights_only=False))


@habit(ROWS, "moving average", "after three updates an EMA `AveragedModel` is as sparse as the model")
def averaged(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    ema: Any = get_ema_multi_avg_fn  # untyped
    average = AveragedModel(training.model, multi_avg_fn=ema(0.5))
    for _ in range(3):
        training.step()
        average.update_parameters(training.model)
    training.output(average)
    training.check_zeros(training.library.weights(average.module))


@habit(
    ROWS,
    "torch.compile, fullgraph",
    "the sparse model compiles as one graph (aot_eager), computes the same and trains on",
)
def compiled(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    torch._dynamo.reset()
    fast = torch.compile(training.model, fullgraph=True, backend="aot_eager")
    batch = training.batch()
    expected = training.output(training.model, batch)
    training.model.eval()
    with torch.no_grad():
        if not torch.allclose(fast(*batch), expected, atol=1e-5):
            raise ClaimError("the compiled model computes something else")
    training.model.train()
    for _ in range(3):
        torch.autograd.backward(training.loss(batch, fast))
        training.update()
        training.check_zeros()


@habit(
    ROWS,
    "state_dict into the plain model",
    "the state_dict documented for the purpose, taken in training, loads strictly",
)
def state_dict(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    dense = NET.make()
    dense.load_state_dict(training.library.plain_state())
    training.check_same(training.model, dense)
    training.check_zeros({name: dense.get_parameter(name) for name in NET.weights})


@habit(
    ROWS,
    "resume",
    "a run that is stopped halfway and restored from its checkpoint ends with the uninterrupted run's bits",
)
def resume(library: type[Library]) -> None:
    """Raises what is wrong."""
    whole, half = Training(library).run(10), Training(library).run(4)
    file = io.BytesIO()
    torch.save([half.library.state(), half.model.state_dict(), half.optimizers[0].state_dict()], file)
    file.seek(0)
    library_state, model_state, optimizer_state = torch.load(file, weights_only=False)
    again = Training(library, seed=1)
    again.library.before_restore(library_state)
    again.library.restore_model(model_state)
    again.optimizers[0].load_state_dict(optimizer_state)
    again.library.after_restore(library_state)
    again.steps = 4
    again.run(6)
    states = again.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        if not torch.equal(tensor, states[name]):
            raise ClaimError(f"{name} differs from the uninterrupted run's")
    for name, weight in whole.library.weights(whole.model).items():
        if not torch.equal(weight, again.library.weights(again.model)[name]):
            raise ClaimError(f"{name} is masked otherwise than in the uninterrupted run")


class Recomputed(nn.Module):
    """A model whose activations are computed again in the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """x: as the model's."""
        y = checkpoint(self.model, x, use_reentrant=False)
        assert isinstance(y, Tensor)
        return y


@habit(ROWS, "activation checkpointing", "training ends at the same weights as without recomputed activations")
def checkpointed(library: type[Library]) -> None:
    """Raises what is wrong."""
    plain, recomputed = Training(library).run(), Training(library, wrap=Recomputed).run()
    expected = plain.library.weights(plain.model)
    for name, weight in recomputed.library.weights(recomputed.library.model).items():
        if not torch.allclose(weight, expected[name], atol=1e-6):
            raise ClaimError(f"{name} differs from the run that keeps its activations")


def _frozen(library: type[Library], case: Case) -> None:
    torch.manual_seed(0)
    model = case.make()
    model.get_submodule("fc1").requires_grad_(False)
    before = copy.deepcopy(model.get_submodule("fc1").state_dict())
    training = Training(library, case, model=model, optimizers=_trainable).run()
    plain = training.finish()
    for name, tensor in plain.get_submodule("fc1").state_dict().items():
        changed = (tensor != before[name]) & (tensor != 0)
        if changed.any() or (f"fc1.{name}" not in case.weights and not torch.equal(tensor, before[name])):
            raise ClaimError(f"fc1.{name} was to stay as it is")


def _trainable(model: nn.Module) -> list[Optimizer]:
    return [torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)]


@habit(ROWS, "a frozen layer is left alone", "a layer without gradients and outside the selection keeps its bits")
def frozen(library: type[Library]) -> None:
    """Raises what is wrong."""
    _frozen(library, Case(NET.make, NET.inputs, ("fc2.weight",), by_name=True))


@habit(
    ROWS,
    "a frozen layer is pruned",
    "a selected layer without gradients becomes sparse, its kept weights keep their bits",
)
def frozen_pruned(library: type[Library]) -> None:
    """Raises what is wrong."""
    needs_target(library)
    _frozen(library, NET)


@habit(ROWS, "`.to(bfloat16)` in training", "a model that is converted between two steps keeps its zeros and trains on")
def half(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library, optimizers=partial(only, SGD)).run(REACHED)
    training.model.to(torch.bfloat16)
    for optimizer in training.optimizers:
        optimizer.load_state_dict(optimizer.state_dict())  # torch's own cast of the momentum
    training.run(3)
    # What random weights learn besides stays float32, since steps on it would round to nothing.
    own = [p for name, p in training.model.named_parameters() if ".reparam." not in f".{name}"]
    if any(parameter.dtype != torch.bfloat16 for parameter in own):
        raise ClaimError("a parameter is not bfloat16")


@habit(ROWS, "three in a row", "50 %, then 75 %, then 90 % of the same model, finished in between")
def three(library: type[Library]) -> None:
    """Raises what is wrong."""
    model = None
    for sparsity in (0.5, 0.75, 0.9):
        model = Training(library, model=model, sparsity=sparsity).run().finish()


@habit(ROWS, "fine-tuning keeps the zeros", "a model that is sparse already is trained on, and its zeros stay")
def fine_tune(library: type[Library]) -> None:
    """Raises what is wrong."""
    model = sparse_net(0.75)
    zeros = {name: model.get_parameter(name) == 0 for name in NET.weights}
    training = Training(library, model=model, begin=0, zeros="stay").run()
    for name, weight in training.library.weights(training.model).items():
        if not torch.equal(weight == 0, zeros[name]):
            raise ClaimError(f"{name} has other zeros than at the start")
    training.finish()


@habit(ROWS, "pruning a sparse model further", "from 50 % to 75 %: the old zeros stay and new ones join them")
def further(library: type[Library]) -> None:
    """Raises what is wrong."""
    model = sparse_net(0.5)
    zeros = {name: model.get_parameter(name) == 0 for name in NET.weights}
    training = Training(library, model=model, begin=0, zeros="grow").run()
    for name, weight in training.library.weights(training.model).items():
        if not (weight[zeros[name]] == 0).all():
            raise ClaimError(f"{name} lost zeros that it had")
    training.finish()


@habit(ROWS, "ties", "50 % of weights of one magnitude is 50 %")
def ties(library: type[Library]) -> None:
    """Raises what is wrong."""
    needs_target(library)
    torch.manual_seed(0)
    model = NET.make()
    with torch.no_grad():
        for name in NET.weights:
            model.get_parameter(name).sign_().mul_(0.1)
    # SGD without momentum and a vanishing learning rate leaves the ties as they are
    frozen_sgd = partial(only, partial(torch.optim.SGD, lr=0.0))
    Training(library, model=model, sparsity=0.5, optimizers=frozen_sgd).run().finish()


@habit(ROWS, "exact target", "90 % of tensors of odd sizes, to within one weight of each")
def exact(library: type[Library]) -> None:
    """Raises what is wrong."""
    needs_target(library)
    case = Case(lambda: Odd(), NET.inputs, ("fc1.weight", "fc2.weight"))
    Training(library, case, sparsity=0.9).run().finish()


class Odd(nn.Module):
    """(N, 16) -> (N, 3), with tensors of 16 * 17 and 17 * 3 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 17), nn.Linear(17, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 16) -> (N, 3)."""
        y: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return y
