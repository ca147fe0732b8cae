"""The rows of the matrix about models that change, or hold other things than plain weights, while they are sparse."""

import copy
import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .cases import NET, Case, NotApplicableError
from .libraries import Library
from .steps import only
from .training import REACHED, ClaimError, Row, Training, habit

ROWS: list[Row] = []


def _check_stated(training: Training) -> None:
    """Raises ClaimError unless the library states the sparsity that its weights have."""
    weights = training.library.weights(training.library.model)
    for name, stated in training.library.stated().items():
        zeros, n = int((weights[name] == 0).sum()), weights[name].numel()
        if round(stated * n) != zeros:
            raise ClaimError(f"{name} has {zeros} zeros of {n}, and a sparsity of {stated:.3f} is stated")


@habit(
    ROWS,
    "averaged weights",
    "averages over the whole training, its dense beginning included, are loaded: what is stated is what runs, and the "
    "next step has the zeros",
)
def averaged(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library)
    average = AveragedModel(training.model)
    for _ in range(REACHED + 1):
        training.step()
        average.update_parameters(training.model)
    training.model.load_state_dict(average.module.state_dict())
    _check_stated(training)
    training.run(2).finish()


@habit(
    ROWS,
    "older checkpoint",
    "a state from before the zeros is loaded in training: what is stated is what runs, and the next step has the zeros",
)
def older(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(1)
    state = copy.deepcopy(training.model.state_dict())
    training.run(REACHED)
    training.model.load_state_dict(state)
    _check_stated(training)
    training.run(2).finish()


class Twins(nn.Module):
    """(N, 16) -> (N, 16): two layers of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 16) -> (N, 16)."""
        y: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return y


@habit(
    ROWS, "tied later", "two weights become one tensor in training: it has its zeros after each step, and is trained"
)
def tied(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library, Case(Twins, NET.inputs, NET.weights)).run(REACHED)
    one, two = (training.model.get_submodule(name) for name in ("fc1", "fc2"))
    two.weight = one.weight
    before = training.library.weights(training.library.model)["fc2.weight"].detach().clone()
    training.run(3)
    if torch.equal(training.library.weights(training.library.model)["fc2.weight"], before):
        raise ClaimError("fc2.weight is no longer trained")
    training.finish()


@habit(ROWS, "unfrozen later", "a frozen layer is trained from some step on, and its zeros are there after each step")
def unfrozen(library: type[Library]) -> None:
    """Raises what is wrong."""
    torch.manual_seed(0)
    model = NET.make()
    model.get_submodule("fc1").requires_grad_(False)
    trainable = partial(only, partial(torch.optim.AdamW, lr=1e-2))
    training = Training(library, model=model, optimizers=lambda m: trainable(_Trainable(m))).run(REACHED)
    frozen = [p for p in training.model.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    training.optimizers[0].add_param_group({"params": frozen})
    training.run(3).finish()


class _Trainable(nn.Module):
    """The trainable parameters of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.list = nn.ParameterList(p for p in model.parameters() if p.requires_grad)


@habit(
    ROWS,
    "LoRA merge",
    "a product of two small matrices is added to `layer.weight` in place: the kept weights change, what is stated is "
    "what runs, and the next step has the zeros",
)
def merged(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library).run(REACHED)
    before = training.library.weights(training.library.model)["fc1.weight"].detach().clone()
    layer: Any = training.model.get_submodule("fc1")
    with torch.no_grad():
        layer.weight.add_(torch.full((32, 2), 0.1) @ torch.full((2, 16), 0.1))
    after = training.library.weights(training.library.model)["fc1.weight"]
    if (after == before)[before != 0].any():
        raise ClaimError("kept weights of fc1 did not change")
    _check_stated(training)
    training.run(2).finish()


@habit(ROWS, "a quantised layer", "bitsandbytes' 4-bit layer keeps its codes, and the layer after it becomes sparse")
def quantised(library: type[Library]) -> None:
    """Raises what is wrong."""
    try:
        layers: Any = importlib.import_module("bitsandbytes").nn
    except ImportError as error:
        raise NotApplicableError("bitsandbytes is not installed") from error
    torch.manual_seed(0)
    model: Any = NET.make()
    plain = nn.Linear(16, 32)
    layer: Any = layers.Linear4bit(16, 32, quant_type="nf4", compute_dtype=torch.float32)
    model.fc1 = layer
    layer.load_state_dict(plain.state_dict())
    layer.weight = layer.weight._quantize("cpu")
    codes = layer.weight.detach().clone()
    training = Training(library, Case(lambda: model, NET.inputs, ("fc2.weight",)), model=model).run()
    finished = training.library.finish()
    if not torch.equal(finished.get_parameter("fc1.weight").detach(), codes):
        raise ClaimError("fc1 has other codes than before")
    training.check_zeros({"fc2.weight": finished.get_parameter("fc2.weight")})


@habit(ROWS, "bfloat16 parameters", "a bfloat16 model gets its zeros, and what is learned besides the weights moves")
def bfloat16(library: type[Library]) -> None:
    """Raises what is wrong."""
    torch.manual_seed(0)
    model = NET.make().to(torch.bfloat16)
    own = {name for name, _ in model.named_parameters()}
    slow = partial(only, partial(torch.optim.AdamW, lr=1e-3))
    training = Training(library, model=model, optimizers=slow)
    learned = {name: p for name, p in training.model.named_parameters() if library.learned and name not in own}
    before = {name: parameter.detach().clone() for name, parameter in learned.items()}
    training.run(20)
    for name, parameter in learned.items():
        if float((parameter != before[name]).float().mean()) < 0.5:
            raise ClaimError(f"{name} does not move at a learning rate of 0.001")
    training.finish()
