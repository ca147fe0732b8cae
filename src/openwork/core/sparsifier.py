"""The life cycle: `sparsify` a model, `attach` its optimizer, train, `finalize`."""

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.masking import Masking
from openwork.core.optimizers import check_optimizer, check_ownership, follow, parameter_ids
from openwork.core.patterns import fitting
from openwork.core.reparameterize import Reparameterizing
from openwork.core.selection import Select, Weight, find_weights, weight_matrices
from openwork.core.sharded import is_sharded, reshard
from openwork.core.technique import MaskTechnique, Reparameterization, Technique

_FORMAT = 2
_active: weakref.WeakSet["Sparsifier"] = weakref.WeakSet()


class Sparsifier:
    """What makes one model sparse; made by `sparsify`. Holds all state of the technique.

    model: the sparsified module; technique: the settings; weights: the selected tensors, tied ones once;
    skipped: why matrices were left out, by name; steps: completed optimizer steps.
    """

    def __init__(self, model: nn.Module, technique: Technique, select: Select, seed: int, from_zeros: bool) -> None:
        reshard(model)
        weights, skipped = find_weights(model, select)
        if isinstance(technique, MaskTechnique):
            weights, misfits = fitting(technique.pattern, weights)
            skipped |= misfits
        chosen = {id(weight.parameter) for weight in weights}
        for other in _active:
            held = (site.module._parameters.get(site.leaf) for weight in other.weights for site in weight.sites)
            if not chosen.isdisjoint(id(parameter) for parameter in held):
                raise ValueError(
                    f"{weights[0].name} is being sparsified by {other.technique} already; call finalize() on that "
                    "sparsifier first, or select other weights"
                )
        self.model = model
        self.technique: Technique = technique
        self.weights: list[Weight] = weights
        self.skipped: dict[str, str] = skipped
        self.steps = 0
        self._optimizers: list[torch.optim.Optimizer] = []
        self._optimizer_hooks: list[RemovableHandle] = []
        self._owned: dict[torch.optim.Optimizer, list[int]] = {}  # indices of the weights that each moves
        # Optimizers whose state came from elsewhere; cleared at their next step, so that parts may load in any order.
        self._unmasked_state: set[torch.optim.Optimizer] = set()
        self._finalized = False
        self._mechanism: Masking | Reparameterizing
        if isinstance(technique, MaskTechnique):
            self._mechanism = Masking(technique, weights, seed, from_zeros=from_zeros)
            self._mechanism.prune()
        elif isinstance(technique, Reparameterization):
            if from_zeros:
                raise ValueError(f"from_zeros needs masks, and {type(technique).__name__} has none; leave it out")
            _refuse_shards(technique, weights)
            self._mechanism = Reparameterizing(technique, weights, seed)
        else:
            raise TypeError(
                f"expected a technique such as GradualMagnitude(...), got {technique!r}; is it an instance?"
            )
        _active.add(self)

    def __repr__(self) -> str:
        counts = sum(weight.parameter.numel() for weight in self.weights)
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"Sparsifier({self.technique}, {len(self.weights)} tensors{skipped}, {counts:,} weights, step {self.steps})"
        )

    def attach(
        self, optimizer: torch.optim.Optimizer, *more: torch.optim.Optimizer, penalty_gradient: bool = False
    ) -> "Sparsifier":
        """The same sparsifier, which from now on follows the optimizer's steps.

        more: further optimizers, where each owns a part of the weights. Weights are sparse after every step of theirs,
        and the steps of the last one are counted: pass last the one whose step ends an iteration.
        penalty_gradient: add the penalty's gradient inside ``optimizer.step()``, for hosts that own the loss; leave
        `penalty` out of the loss then. Each optimizer adds that of its own parameters.
        Raises ValueError where a weight is owned by none or by two of the optimizers, where one is attached already,
        for LBFGS, and for masks with an optimizer whose eps is 0; TypeError for a wrapper that runs no step hooks.
        """
        self._check_live()
        if self._optimizers:
            raise ValueError("an optimizer is attached already; call detach() first")
        reshard(self.model)
        optimizers = [optimizer, *more]
        for each in optimizers:
            check_optimizer(each, masks=isinstance(self._mechanism, Masking))
        check_ownership(self._trained_parameters(), optimizers)
        if isinstance(self._mechanism, Masking):
            self._mechanism.follow_parameters()
        else:
            _refuse_shards(self.technique, self.weights)
        trained = isinstance(self.technique, MaskTechnique) and self.technique.hidden == "trained"
        for each in optimizers:
            self._optimizer_hooks += follow(
                each,
                partial(self._before_step, each, penalty_gradient),
                partial(self._after_step, each),
                once=trained,
            )
            self._optimizer_hooks.append(each.register_load_state_dict_post_hook(self._unmasked_state.add))
            self._unmasked_state.add(each)
        self._optimizers = optimizers
        self._owned = _shares(self.weights, optimizers)
        return self

    def detach(self) -> None:
        """Lets go of the optimizers: their steps are no longer followed. Does nothing where none is attached."""
        for hook in self._optimizer_hooks:
            hook.remove()
        self._optimizers, self._optimizer_hooks, self._owned = [], [], {}
        self._unmasked_state.clear()

    def penalty(self) -> Tensor:
        """What to add to the mean loss of a batch, shape (): zero for masks, coefficient * KL or L0 otherwise."""
        self._check_live()
        return self._mechanism.penalty()

    def step(self) -> None:
        """Counts one optimizer step; only for loops without a torch optimizer to attach to, right after its update."""
        self._check_live()
        if self._optimizers:
            raise ValueError("the attached optimizer's steps are counted already; leave step() out")
        if isinstance(self.technique, MaskTechnique) and self.technique.hidden == "trained":
            raise ValueError(
                "hidden='trained' moves masked weights inside optimizer.step(); attach the optimizer instead"
            )
        self._advance(None, counts=True)

    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the selected weights as evaluation uses them.

        Under FSDP2 that of all processes, which must all call this, `layer_sparsity` and `attach`.
        """
        self._check_live()
        total = sum(weight.parameter.numel() for weight in self.weights)
        return sum(self._mechanism.zeros().values()) / total

    def layer_sparsity(self) -> dict[str, float]:
        """The fraction of zeros, 0-1, of each selected weight, by name."""
        self._check_live()
        zeros = self._mechanism.zeros()
        return {weight.name: zeros[weight.name] / weight.parameter.numel() for weight in self.weights}

    def expected_nonzero(self) -> dict[str, float]:
        """The number of non-zero weights that training computes with, by name: kept ones, or the expected number.

        Under L0 it is the expectation over the gates, which evaluation replaces by their deterministic values.
        """
        self._check_live()
        if isinstance(self._mechanism, Reparameterizing):
            return self._mechanism.expected_nonzero()
        zeros = self._mechanism.zeros()
        return {weight.name: float(weight.parameter.numel() - zeros[weight.name]) for weight in self.weights}

    def mask_gradients(self) -> None:
        """Masks gradients now, for those who read or clip gradients that the backward hooks did not see.

        These are gradients written by hand, and those that FSDP2 offloads to the CPU.
        """
        self._check_live()
        if isinstance(self._mechanism, Masking):
            self._mechanism.mask_gradients()

    def finalize(self) -> nn.Module:
        """The model itself with plain modules, dense keys and real zeros; the sparsifier's work is over."""
        self._check_live()
        self.detach()
        model = self._mechanism.finalize(self.model, in_place=True)
        self._finalized = True
        _active.discard(self)
        return model

    def finalized_copy(self) -> nn.Module:
        """A copy of the model as `finalize` would return it; training goes on undisturbed."""
        self._check_live()
        return self._mechanism.finalize(self.model, in_place=False)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: with the model's and the optimizer's state, training resumes bit-exactly.

        Under FSDP2 the tensors are DTensors, for torch.distributed.checkpoint.
        Variational dropout and L0 also draw from torch's global generator, whose state is the training loop's to keep.
        """
        self._check_live()
        return {
            "format": _FORMAT,
            "technique": type(self.technique).__name__,
            "steps": self.steps,
            **self._mechanism.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`. Raises ValueError for another technique's, another model's or a foreign one."""
        self._check_live()
        if not isinstance(state, dict) or not {"format", "technique", "steps"} <= state.keys():
            raise ValueError("this is not a sparsifier's state_dict; pass what Sparsifier.state_dict() returned")
        if state["format"] != _FORMAT:
            raise ValueError(
                f"the state has format {state['format']}, this version reads {_FORMAT}; use the one that saved it"
            )
        if state["technique"] != type(self.technique).__name__:
            raise ValueError(
                f"the state was saved by {state['technique']} and this sparsifier runs "
                f"{type(self.technique).__name__}; sparsify with the technique that saved it"
            )
        self._mechanism.load_state_dict(state)
        if isinstance(self._mechanism, Masking):
            self._unmasked_state.update(self._optimizers)
        self.steps = state["steps"]

    def _trained_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that the optimizers have to own, by name."""
        needed = {weight.name: weight.parameter for weight in self.weights}
        if isinstance(self._mechanism, Reparameterizing):
            needed |= self._mechanism.parameters()
        return {name: parameter for name, parameter in needed.items() if parameter.requires_grad}

    def _before_step(self, optimizer: torch.optim.Optimizer, penalty_gradient: bool) -> None:
        if isinstance(self._mechanism, Masking):
            if optimizer in self._unmasked_state:
                self._mechanism.clear_state(optimizer)
                self._unmasked_state.remove(optimizer)
            self._mechanism.before_step(self._owned[optimizer])
        elif penalty_gradient:
            ids = parameter_ids(optimizer)
            own = [p for p in self._trained_parameters().values() if id(p) in ids]
            # Set by GradScaler for the time of the step where it leaves it to a fused optimizer to unscale gradients.
            scale = getattr(optimizer, "grad_scale", None)
            with torch.enable_grad():
                penalty = self.penalty() if scale is None else self.penalty() * scale
                if own:
                    penalty.backward(inputs=own)

    def _after_step(self, optimizer: torch.optim.Optimizer, moved: bool) -> None:
        self._advance(optimizer, counts=moved and optimizer is self._optimizers[-1])

    def _advance(self, optimizer: torch.optim.Optimizer | None, *, counts: bool) -> None:
        self.steps += counts
        if isinstance(self._mechanism, Masking):
            owned = self._owned[optimizer] if optimizer else list(range(len(self.weights)))
            updated = self._mechanism.after_step(self.steps if counts else None, owned, optimizer)
            for attached in self._optimizers if updated else ():
                self._mechanism.clear_state(attached)
        elif counts:
            self._mechanism.after_step(self.steps)

    def _check_live(self) -> None:
        if self._finalized:
            raise ValueError("this sparsifier is finalized; call sparsify again to go on from the model's zeros")


def sparsify(
    model: nn.Module,
    technique: Technique,
    *,
    select: Select = weight_matrices,
    seed: int = 0,
    from_zeros: bool = False,
) -> Sparsifier:
    """The sparsifier of ``model``, which is changed in place; call it before the optimizer, DDP, FSDP2 and
    compile.

    select: which parameters become sparse, by default the matrices and kernels of all layers (`weight_matrices`).
    seed: of random masks, ties and initial gates; they do not depend on torch's global generator.
    from_zeros: the zeros that the weights hold now stay zero for good, whatever the schedule says; to prune a sparse
    model further, or with ``Constant(0.0)`` to fine-tune it as it is. Masks only.
    Raises ValueError where nothing matches or the pattern fits nothing, and where another sparsifier holds one of the
    weights.
    """
    return Sparsifier(model, technique, select, seed, from_zeros)


def _refuse_shards(technique: Technique, weights: list[Weight]) -> None:
    for weight in weights:
        if is_sharded(weight.parameter):
            raise ValueError(
                f"{type(technique).__name__} does not work under fully_shard, which holds {weight.name}: its "
                "penalty needs whole weights; use DistributedDataParallel, or a technique with masks"
            )


def _shares(weights: list[Weight], optimizers: list[torch.optim.Optimizer]) -> dict[torch.optim.Optimizer, list[int]]:
    """The indices of the weights that each optimizer moves; the last one also takes those that nobody moves."""
    *others, last = optimizers
    shares = {}
    rest = list(range(len(weights)))
    for optimizer in others:
        ids = parameter_ids(optimizer)
        shares[optimizer] = [index for index in rest if id(weights[index].parameter) in ids]
        rest = [index for index in rest if index not in shares[optimizer]]
    return {**shares, last: rest}
