"""The rows of the matrix that are optimizers: torch's, pytorch_optimizer's and 8-bit ones, each under openwork's masks.

The names are written down, so that a page lists what an environment lacks; a test compares them with the packages.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import AdamW, Optimizer

from .cases import Case, NotApplicableError
from .libraries import Library, OpenworkMasks
from .training import BEGIN, REACHED, ClaimError, Row, check_count

NAMES = {
    "torch.optim": (
        "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam"
    ),
    "bitsandbytes.optim": (
        "AdEMAMix AdEMAMix32bit AdEMAMix8bit Adagrad Adagrad32bit Adagrad8bit Adam Adam32bit Adam8bit AdamW "
        "AdamW32bit AdamW8bit LAMB LAMB32bit LAMB8bit LARS LARS32bit LARS8bit Lion Lion32bit Lion8bit "
        "PagedAdEMAMix PagedAdEMAMix32bit PagedAdEMAMix8bit PagedAdam PagedAdam32bit PagedAdam8bit PagedAdamW "
        "PagedAdamW32bit PagedAdamW8bit PagedLion PagedLion32bit PagedLion8bit PytorchLARS RMSprop RMSprop32bit "
        "RMSprop8bit SGD SGD32bit SGD8bit"
    ),
    "torchao.optim": "Adam4bit Adam8bit AdamFp8 AdamW4bit AdamW8bit AdamWFp8",
    "pytorch_optimizer": (
        "A2Grad ADOPT APOLLO ASGD AccSGD AdEMAMix AdaBelief AdaBound AdaDelta AdaFactor AdaGC AdaGO AdaHessian "
        "AdaLOMO AdaMax AdaMod AdaMuon AdaNorm AdaPNM AdaShift AdaSmooth AdaTAM Adai Adalite AdamC AdamG AdamMini "
        "AdamP AdamS AdamWSN Adan AggMo Aida AliG Alice Amos Ano ApolloDQN AvaGrad BCOS BSAM CAME Conda DASH "
        "DAdaptAdaGrad DAdaptAdam DAdaptAdan DAdaptLion DAdaptSGD DeMo DiffGrad DistributedMuon DualAdam EXAdam "
        "EmoFact EmoLynx EmoNavi FAdam FOCUS FTRL Fira FlashAdamW FriendlySAM FriendlySAM.second_step Fromage "
        "GSAM GaLore Grams Gravity GrokFastAdamW Kate Kron LARS LOMO LaProp Lamb Lion LoRARite LookSAM "
        "LookSAM.second_step Lookahead MADGRAD MARS MSVAG Magma Muon MuonClip Nero NorMuon NovoGrad OrthoGrad "
        "PAdam PCGrad PID PNM Prodigy QHAdam QHM RACS RAdam ROSE Ranger Ranger21 SAM SAM.second_step SCION "
        "SCIONLight SGDP SGDSaI SGDW SM3 SOAP SPAM SPlus SRMM SWATS SaRA SafeFP16Optimizer ScalableShampoo "
        "ScheduleFreeAdamW ScheduleFreeRAdam ScheduleFreeSGD ScheduleFreeWrapper Shampoo SignSGD "
        "SimplifiedAdEMAMix SophiaH SpectralSphere StableAdamW StableSPAM TAM TRAC Tiger VSGD WSAM "
        "WSAM.second_step Yogi"
    ),
}
WITH_CLOSURE = {"SAM", "WSAM", "LookSAM", "FriendlySAM", "AliG", "BSAM", "LBFGS"}
MUON = {f"pytorch_optimizer.{name}" for name in ["AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon"]}
MATRICES = {"torch.optim.Muon", "pytorch_optimizer.SpectralSphere"}  # take nothing else
SECOND_ORDER = {"AdaHessian", "SophiaH"}
IN_BACKWARD = {"LOMO", "AdaLOMO"}
VALUES = {"lr": 1e-3, "num_iterations": 20, "num_epochs": 2, "total_steps": 20, "num_data": 100, "momentum": 0.9}
"""Of arguments without a default."""
STEPS = REACHED + 4


class Layers(nn.Module):
    """(N, width) -> (N, width + 8): a square weight, which has the shape of a preconditioner, and another one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width + 8)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, width) -> (N, width + 8)."""
        y: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return y


def case_of(title: str) -> Case:
    """Weights of 4,096 and more, from which on state has 8 bits, as some keep it; small ones of pytorch_optimizer."""
    width = 16 if split(title)[0] == "pytorch_optimizer" else 64
    return Case(lambda: Layers(width), lambda: (torch.randn(16, width),), ("fc1.weight", "fc2.weight"))


class Rho:
    """GSAM's schedule of its radius."""

    def step(self) -> float:
        """Always the same."""
        return 0.05


def made(title: str, model: nn.Module) -> Optimizer:
    """The optimizer of that title for all parameters, with its default settings where it has some."""
    package, name = split(title)
    try:
        kind: Any = getattr(importlib.import_module(package), name.partition(".")[0])
    except ImportError as error:
        raise NotApplicableError(f"{package} is not installed") from error
    parameters = list(model.parameters())
    matrices, rest = [p for p in parameters if p.dim() == 2], [p for p in parameters if p.dim() != 2]
    two_groups = [{"params": matrices, "use_muon": True}, {"params": rest, "use_muon": False}]
    given: dict[str, Any] = VALUES | {
        "params": matrices if title in MATRICES else two_groups if title in MUON else parameters,
        "model": model,
        "optimizer": AdamW(parameters),
        "base_optimizer": AdamW(parameters) if name == "GSAM" else AdamW,
        "rho_scheduler": Rho(),
    }
    wanted = inspect.signature(kind.__init__).parameters.values()
    needed = [each.name for each in wanted if each.default is each.empty and each.name in given]
    if package == "bitsandbytes.optim" and any(each.name == "momentum" for each in wanted):
        needed.append("momentum")  # whose default of 0 it refuses
    optimizer: Optimizer = kind(**{name: given[name] for name in needed})
    return optimizer


def stepped(title: str, optimizer: Any, closure: Callable[[], Tensor], inputs: Tensor) -> None:
    """One training step as the optimizer's documentation has it; ``closure`` computes loss and gradients."""
    name = split(title)[1]
    if name == "GSAM":
        optimizer.set_closure(nn.MSELoss(), inputs, torch.ones(len(inputs), inputs.shape[1] + 8))
        optimizer.step()
    elif name.endswith(".second_step"):
        closure()
        optimizer.first_step(zero_grad=True)
        closure()
        optimizer.second_step(zero_grad=True)
    else:
        closure()
        if name in WITH_CLOSURE:
            optimizer.step(torch.enable_grad()(closure))
        elif name not in IN_BACKWARD:
            optimizer.step()


def trained(title: str, library: Callable[..., OpenworkMasks] | None) -> None:
    """Trains a few steps, densely or with the library. Raises what is wrong."""
    torch.manual_seed(0)
    case = case_of(title)
    model = case.make()
    sparse = library(model, case, sparsity=0.75, begin=BEGIN, zeros="none") if library is not None else None
    optimizer: Any = made(title, model)
    if sparse is not None:
        sparse.attach([optimizer])
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(1, STEPS + 1):
        (x,) = case.inputs()

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = (model(x) - 1).square().mean()
            scaled = split(title)[1] == "SafeFP16Optimizer"
            graph = split(title)[1] in SECOND_ORDER
            optimizer.backward(loss) if scaled else torch.autograd.backward(loss, create_graph=graph)
            return loss

        stepped(title, optimizer, closure, x)
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise ClaimError(f"{name} is not finite after step {step}")
        if sparse is not None:
            _check(sparse, step)
    if sparse is not None:
        if hasattr(optimizer, "eval"):
            optimizer.eval()  # which swaps weights in a schedule-free one
            _check(sparse, STEPS)
        plain = sparse.finish()
        for name in case.weights:
            check_count(name, plain.get_parameter(name), 0.75, STEPS)


def refuse(title: str, library: Callable[..., OpenworkMasks]) -> None:
    """Raises what the library refuses an optimizer with, whether it diverges by this processor's rounding or not."""
    case = case_of(title)
    model = case.make()
    sparse = library(model, case, sparsity=0.75, begin=BEGIN, zeros="none")
    try:
        optimizer = made(title, model)
    except Exception:  # nothing to refuse
        return
    sparse.attach([optimizer])


def _check(sparse: OpenworkMasks, step: int) -> None:
    """Raises ClaimError unless the sparsifier has counted the steps, and says which zeros there are."""
    sparsifier = sparse.sparsifier
    if sparsifier.steps != step:
        raise ClaimError(f"{sparsifier.steps} steps were counted of {step}")
    masks, claimed = sparsifier.masks(), sparsifier.layer_sparsity()
    for name, weight in sparse.weights(sparse.model).items():
        moved, zeros = int((weight[~masks[name]] != 0).sum()), int((weight == 0).sum())
        if moved:
            raise ClaimError(f"{name} has {moved} weights under its mask after step {step}")
        if zeros != round(claimed[name] * weight.numel()):
            raise ClaimError(f"{name} has {zeros} zeros after step {step}, and {claimed[name]:.3f} is claimed")
        if step >= REACHED:
            check_count(name, weight, 0.75, step)


def split(title: str) -> tuple[str, str]:
    """The package and the name of an optimizer."""
    package = next(package for package in NAMES if title.startswith(f"{package}."))
    return package, title.removeprefix(f"{package}.")


def trains(title: str, library: type[Library]) -> None:
    """Raises what is wrong under masks, or NotApplicableError where the optimizer does not train densely either."""
    assert issubclass(library, OpenworkMasks)
    alone = title == "pytorch_optimizer.DistributedMuon" and not distributed.is_initialized()
    if alone:
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with torch.compiler.set_stance("force_eager"):  # some compile their step, which takes half a minute
            try:
                trained(title, None)
            except NotApplicableError:
                raise
            except Exception as error:
                refuse(title, library)
                raise NotApplicableError(f"does not train the dense model on a CPU: {error}") from error
            trained(title, library)
    finally:
        if alone:
            distributed.destroy_process_group()


CLAIM = (
    "each step is counted once, and leaves the zeros that the sparsifier states, in the end 75 % of a square weight "
    "and of another one; all weights stay finite, as they do without masks, with the optimizer's default settings"
)
ROWS = [
    Row(title, "optimizer", CLAIM, partial(trains, title), only="openwork")
    for package, names in NAMES.items()
    for title in (f"{package}.{name}" for name in names.split())
]
