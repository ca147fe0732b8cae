"""The life cycle: `attach` the optimizer of a model that `sparsify` has made sparse, train, `finalize`."""

import warnings
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.chosen import check_model, choose_weights, log_choice, refuse_inference_mode, summary
from openwork.core.dead_paths import dead_paths
from openwork.core.following import capturing, follow
from openwork.core.mechanism import Calibrate, Mechanism, whole_number
from openwork.core.optimizers import Groups, check_optimizer, check_ownership, parameter_groups, parameter_ids, shares
from openwork.core.ownership import hold, refuse_held, refuse_overlapping, release
from openwork.core.saved import FORMAT, check_saved
from openwork.core.seeding import check_seed
from openwork.core.seen import Seen
from openwork.core.selection import Select, Selection, Weight, all_parameters
from openwork.core.sharded import reshard
from openwork.core.technique import Technique, check_technique


class Sparsifier:
    """Makes one model sparse, and holds all state of the technique. `sparsify` returns it.

    Attributes:
        model: The sparsified module.
        technique: The settings.
        weights: The selected tensors, tied ones once.
        skipped: Why matrices were left out, by name.
        steps: Completed optimizer steps.
    """

    def __init__(
        self,
        model: nn.Module,
        technique: Technique,
        *,
        select: Selection,
        seed: int,
        keep_zeros: bool,
        calibrate: Calibrate | None,
    ) -> None:
        check_model(model)
        check_technique(technique)
        refuse_inference_mode()
        seed = check_seed(seed)
        reshard(model)
        weights, skipped = choose_weights(model, select)
        weights, misfits = technique.fitting(weights)
        refuse_held(weights)
        refuse_overlapping(weights)
        self.model = model
        self.technique: Technique = technique
        self.weights: list[Weight] = weights
        self.skipped: dict[str, str] = skipped | misfits
        self.steps = 0
        self._optimizers: list[torch.optim.Optimizer] = []
        self._optimizer_hooks: list[RemovableHandle] = []
        self._owned: dict[torch.optim.Optimizer, list[int]] = {}  # indices of the weights that each moves
        self._finalized = False
        self._captured = False  # whether a CUDA graph may hold steps of the attached optimizers
        self._mechanism: Mechanism = technique.mechanism(weights, seed=seed, keep_zeros=keep_zeros)
        self._mechanism.start(model, calibrate)
        hold(weights, self, str(technique))
        log_choice(technique, self.weights, self.skipped)
        self._seen = Seen(model, weights)
        for remark in dead_paths(model, self._mechanism.masks):
            warnings.warn(remark, stacklevel=3)

    def __repr__(self) -> str:
        return f"Sparsifier({self.technique}, step {self.steps}, {summary(self.weights, self.skipped)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raises TypeError: a copy would follow neither the model's copy nor the optimizer's."""
        raise TypeError(
            "a sparsifier cannot be copied or pickled, since it follows one model and its optimizer; sparsify the "
            "copy and load state_dict(), or take finalized_copy()"
        )

    @property
    def mechanism(self) -> Mechanism:
        """What the technique does to this model, for a loop that stacks it with others."""
        return self._mechanism

    def attach(
        self, optimizer: torch.optim.Optimizer, *more: torch.optim.Optimizer, penalty_gradient: bool = False
    ) -> "Sparsifier":
        """Follows the optimizer's steps from now on, and returns the same sparsifier.

        Args:
            optimizer: The optimizer of the model's parameters; where it wraps another one, as Lookahead and SAM do, the
                wrapper.
            more: Further optimizers, where each owns a part of the weights. Weights are sparse after every step of
                each. The steps of the last optimizer count: pass last the one whose step ends an iteration.
            penalty_gradient: Add the penalty's gradient inside ``optimizer.step()``, for hosts that own the loss; then
                leave `penalty` out of the loss. Each optimizer adds that of the parameters that it owns.

        Raises:
            TypeError: If an optimizer is a wrapper that runs no step hooks.
            ValueError: If none or two of the optimizers own a weight, an optimizer is attached already, one is LBFGS or
                steps inside backward(), or its eps is 0 under masks. Nothing is attached then.
        """
        self._check_live()
        if self._optimizers:
            raise ValueError("an optimizer is attached already; call detach() first")
        optimizers = [optimizer, *more]
        for each in optimizers:
            check_optimizer(each, once=self._mechanism.closure_once)
            self._mechanism.check_optimizer(each)
        reshard(self.model)
        found = self._seen.find()
        check_ownership(self._trained_parameters(), optimizers)
        owned = shares(self.weights, optimizers)
        try:
            self._mechanism.attached(optimizers)
            for each in optimizers:
                hooks = follow(
                    each,
                    partial(self._before_step, each, penalty_gradient),
                    partial(self._after_step, each),
                    partial(self._mechanism.state_loaded, each),
                    once=self._mechanism.closure_once,
                )
                for hook in hooks:
                    self._optimizer_hooks.append(hook)  # one by one, since the next may fail
        except BaseException:
            self.detach()
            raise
        self._seen.attach(found, optimizers, penalty=penalty_gradient)
        self._optimizers, self._owned = optimizers, owned
        return self

    def detach(self) -> None:
        """Stops following the optimizers. Does nothing where none is attached."""
        for hook in self._optimizer_hooks:
            hook.remove()
        self._optimizers, self._optimizer_hooks, self._owned = [], [], {}
        self._captured = False
        self._mechanism.detached()

    def penalty(self) -> Tensor:
        """What to add to the mean loss of a batch, shape (): zero for masks, otherwise coefficient * KL or L0."""
        self._check_live()
        self._seen.penalty = True
        return self._mechanism.penalty()

    def step(self) -> None:
        """Counts one step: an attached optimizer's that a CUDA graph has replayed, or one of a loop without any."""
        self._check_live()
        if self._optimizers and not self._captured:
            raise ValueError("the attached optimizer's steps are counted already; leave step() out")
        if not self._optimizers and (reason := self._mechanism.needs_optimizer):
            raise ValueError(f"{reason}; attach the optimizer instead")
        self._seen.find()
        self.steps += 1
        self._mechanism.after_step(self.steps, list(range(len(self.weights))), None)
        self._seen.step()

    def count_to(self, steps: int) -> None:
        """Takes note of the steps that this model has made as one of several stacked ones.

        Args:
            steps: All that are completed.
        """
        self._check_live()
        self.steps = steps
        self._mechanism.count_to(steps)
        self._seen.step()

    def masks(self) -> dict[str, Tensor]:
        """The mask of each selected weight, by name: bool, True where evaluation computes with the weight.

        The mask of a random variable is True where its deterministic weight is not zero. Under FSDP2 all are DTensors.
        """
        self._check_live()
        self._seen.find()
        return self._mechanism.masks()

    def parameter_groups(self, weight_decay: float, *, decayed: Select = all_parameters, means: bool = False) -> Groups:
        """Parameter groups for an optimizer: decayed parameters and others, each with its ``weight_decay``.

        Weight decay is a prior. A weight that is a random variable has its technique's, and what is learned besides is
        no weight: neither decays. Where a penalty is no prior, weights decay; of a technique without one, all decays.

        Args:
            weight_decay: That of the decayed parameters, >= 0; the others have 0.
            decayed: Which of the other parameters decay, by default all.
            means: Whether the means of random variables count among the other parameters.

        Returns:
            One or two groups with all parameters of the model, each parameter once.
        """
        self._check_live()
        spared: set[int] = set()
        if self._mechanism.penalised:
            spared |= {id(parameter) for parameter in self._mechanism.parameters().values()}
        if self._mechanism.prior and not means:
            spared |= {id(weight.parameter) for weight in self.weights}
        return parameter_groups(self.model, weight_decay, decayed=decayed, spared=spared)

    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the selected weights as evaluation uses them.

        Under FSDP2 it is that of all processes, which must all call this and whatever else counts or sums weights.
        """
        self._check_live()
        self._seen.find()
        total = sum(weight.parameter.numel() for weight in self.weights)
        return sum(self._mechanism.zeros().values()) / total

    def layer_sparsity(self) -> dict[str, float]:
        """The fraction of zeros, 0-1, of each selected weight, by name."""
        self._check_live()
        self._seen.find()
        zeros = self._mechanism.zeros()
        return {weight.name: zeros[weight.name] / max(weight.parameter.numel(), 1) for weight in self.weights}

    def expected_nonzero(self) -> dict[str, float]:
        """The number of non-zero weights that training computes with, by name: kept ones, or the expected number.

        Under L0 it is the expectation over the gates, which evaluation replaces by their deterministic values.
        """
        self._check_live()
        return self._mechanism.expected_nonzero()

    def mask_gradients(self) -> None:
        """Masks gradients now, for code that reads or clips gradients that the backward hooks did not see.

        These are gradients written by hand, those that FSDP2 offloads to the CPU, and all before a backward pass ends.
        """
        self._check_live()
        self._mechanism.mask_gradients()

    def finalize(self) -> nn.Module:
        """Ends the sparsifier's work, and returns the model itself with plain modules, dense keys and real zeros.

        It warns where training did not end as it was meant to: the schedule is unfinished, no optimizer was attached,
        another one than the attached one trains, nothing took the penalty, a layer is empty or a path through it dead,
        or other code wrote to masked weights. Weights of another sparsifier stay as they are, for its own `finalize`.

        Raises:
            ValueError: If weights were tied, untied, or replaced with their modules since `sparsify`.
        """
        self._check_live()
        self._seen.find()
        remarks = self._seen.remarks(type(self.technique).__name__, self._mechanism, self.steps)
        for remark in [*remarks, *self._mechanism.remarks(), *dead_paths(self.model, self._mechanism.masks)]:
            warnings.warn(remark, stacklevel=2)
        self.detach()
        self._seen.close()
        model = self._mechanism.finalize(self.model, in_place=True)
        release(self.weights)
        self._finalized = True
        return model

    def finalized_copy(self) -> nn.Module:
        """A copy as `finalize` of all the model's sparsifiers would leave it, without warnings; training goes on."""
        self._check_live()
        self._seen.find()
        return self._mechanism.finalize(self.model, in_place=False)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: with the model's and the optimizer's state, training resumes bit-exactly.

        Under FSDP2 the tensors are DTensors, for torch.distributed.checkpoint. Variational dropout and L0 also draw
        from torch's global generator, whose state the training loop must save.
        """
        self._check_live()
        return {
            "format": FORMAT,
            "technique": type(self.technique).__name__,
            "steps": self.steps,
            **self._mechanism.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved ``state``, which `state_dict` returned.

        Raises:
            ValueError: If the state is another technique's, another model's or no sparsifier's; nothing changes.
        """
        self._check_live()
        check_saved(state, type(self.technique).__name__)
        steps = whole_number(state, "steps", least=0)
        self._mechanism.load_state_dict(state)
        self.steps = steps
        self._seen.load()

    def _trained_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that the optimizers must own, by name."""
        needed = {weight.name: weight.parameter for weight in self.weights} | self._mechanism.parameters()
        return {name: parameter for name, parameter in needed.items() if parameter.requires_grad}

    def _before_step(self, optimizer: torch.optim.Optimizer, penalty_gradient: bool) -> None:
        if self._seen.thawed():
            check_ownership(self._trained_parameters(), self._optimizers)
            self._owned = shares(self.weights, self._optimizers)
        counts = optimizer is self._optimizers[-1]
        self._mechanism.before_step(self._owned[optimizer], optimizer, counts=counts)
        if penalty_gradient:
            ids = parameter_ids(optimizer)
            own = [p for p in self._trained_parameters().values() if id(p) in ids]
            # GradScaler sets this during the step of a fused optimizer, which unscales gradients instead of it.
            self._mechanism.add_penalty_gradient(own, getattr(optimizer, "grad_scale", None))

    def _after_step(self, optimizer: torch.optim.Optimizer, moved: bool) -> None:
        captured = capturing()  # only its replays move the weights
        self._captured |= captured
        counts = moved and not captured and optimizer is self._optimizers[-1]
        self.steps += counts
        self._mechanism.after_step(self.steps if counts else None, self._owned[optimizer], optimizer)
        if counts:
            self._seen.step()

    def _check_live(self) -> None:
        if self._finalized:
            raise ValueError("this sparsifier is finalized; call sparsify again to go on from the model's zeros")
