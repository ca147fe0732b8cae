"""The peers' adapters: torch.nn.utils.prune, torch.ao.pruning and NNCF, each used as its documentation says."""

import importlib
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune as _prune

from .cases import Case
from .libraries import Library, Zeros

prune: Any = _prune  # its functions are untyped


class TorchPrune(Library):
    """`prune.l1_unstructured` for every weight at one step, `prune.remove` at the end."""

    title = "torch.nn.utils.prune"
    package = "torch.nn.utils.prune"

    def __init__(self, model: nn.Module, case: Case, *, sparsity: float, begin: int, zeros: Zeros) -> None:
        super().__init__(model, case, sparsity=sparsity, begin=begin, zeros=zeros)
        if begin == 0:
            self.after_step(0)

    def after_step(self, step: int) -> None:
        """Masks, once."""
        if step != self.begin:
            return
        for _, module, leaf in self.sites(self.model):
            if self.zeros == "stay":
                prune.custom_from_mask(module, leaf, module.get_parameter(leaf) != 0)
            else:
                prune.l1_unstructured(module, leaf, self.sparsity)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Original times mask, as the forward hook computes it."""
        found: dict[str, Tensor] = {}
        for name, module, leaf in self.sites(model):
            masked = f"{leaf}_mask" in module._buffers
            found[name] = (
                module.get_parameter(f"{leaf}_orig") * module.get_buffer(f"{leaf}_mask")
                if masked
                else module.get_parameter(leaf)
            )
        return found

    def finish(self) -> nn.Module:
        """The masks multiplied into the weights."""
        for _, module, leaf in self.sites(self.model):
            prune.remove(module, leaf)
        return self.model

    def before_restore(self, state: dict[str, Any]) -> None:
        """Masks of ones, to be loaded into."""
        for _, module, leaf in self.sites(self.model):
            prune.identity(module, leaf)


class AoPruning(Library):
    """`WeightNormSparsifier` on blocks of one weight: prepare, step after each training step, squash_mask."""

    title = "torch.ao.pruning"
    package = "torch.ao.pruning"

    def __init__(self, model: nn.Module, case: Case, *, sparsity: float, begin: int, zeros: Zeros) -> None:
        super().__init__(model, case, sparsity=sparsity, begin=begin, zeros=zeros)
        module: Any = importlib.import_module("torch.ao.pruning")
        self.sparsifier = module.WeightNormSparsifier(sparsity, sparse_block_shape=(1, 1), zeros_per_block=1)
        self.sparsifier.prepare(model, [{"tensor_fqn": name} for name in case.weights])
        if begin == 0:
            self.after_step(0)

    def after_step(self, step: int) -> None:
        """The sparsifier's step."""
        if step >= self.begin:
            self.sparsifier.step()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parametrised attributes."""
        return {name: getattr(module, leaf) for name, module, leaf in self.sites(model)}

    def finish(self) -> nn.Module:
        """The masks multiplied into the weights."""
        self.sparsifier.squash_mask()
        return self.model

    def state(self) -> dict[str, Any]:
        """The masks, which the model's state lacks."""
        state: dict[str, Any] = self.sparsifier.state_dict()
        return state

    def restore_model(self, state: dict[str, Tensor]) -> None:
        """Not strictly: the model's state leaves the masks to the sparsifier's by design."""
        self.model.load_state_dict(state, strict=False)

    def after_restore(self, state: dict[str, Any]) -> None:
        """The masks."""
        self.sparsifier.load_state_dict(state)


class Nncf(Library):
    """`nncf.prune` by local magnitude at one step, `nncf.strip` at the end."""

    title = "NNCF"
    package = "nncf"

    def __init__(self, model: nn.Module, case: Case, *, sparsity: float, begin: int, zeros: Zeros) -> None:
        super().__init__(model, case, sparsity=sparsity, begin=begin, zeros=zeros)
        self.nncf: Any = importlib.import_module("nncf")
        self.torch: Any = importlib.import_module("nncf.torch")
        if begin == 0:
            self.after_step(0)

    @classmethod
    def load(cls) -> None:
        """With the part that is imported only by strip and needs torchao."""
        importlib.import_module("nncf.torch.function_hook.strip")

    def after_step(self, step: int) -> None:
        """Masks, once."""
        if step == self.begin:
            matrices = [name for name, p in self.model.named_parameters() if p.dim() > 1]
            others = [name for name in matrices if name not in self.case.weights]
            self.model = self.nncf.prune(
                self.model,
                mode=self.nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
                ratio=self.sparsity,
                ignored_scope=self.nncf.IgnoredScope(names=others, validate=False) if others else None,
                examples_inputs=self.case.inputs(),
            )

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parameters under NNCF's masks; those that it left out as they are."""
        algorithm: Any = importlib.import_module("nncf.torch.function_hook.pruning.magnitude.algo")
        wrapper: Any = importlib.import_module("nncf.torch.function_hook.wrapper")
        hooks = algorithm.get_pruned_modules(model) if wrapper.is_wrapped(model) else {}
        # By the tensor, since a tied one has a mask under one of its names.
        masks = {id(model.get_parameter(name)): hook.binary_mask for name, hook in hooks.items()}
        weights = {name: module.get_parameter(leaf) for name, module, leaf in self.sites(model)}
        return {name: weight * masks[id(weight)] if id(weight) in masks else weight for name, weight in weights.items()}

    def finish(self) -> nn.Module:
        """The masks multiplied into the weights, which are trainable again."""
        plain: nn.Module = self._strip(do_copy=False)
        return plain.requires_grad_(True)

    def plain_state(self) -> dict[str, Tensor]:
        """Of a stripped copy."""
        return self._strip(do_copy=True).state_dict()

    def _strip(self, *, do_copy: bool) -> nn.Module:
        style = self.nncf.StripFormat.IN_PLACE
        plain: nn.Module = self.nncf.strip(
            self.model, do_copy=do_copy, strip_format=style, example_input=self.case.inputs()
        )
        return plain

    def state(self) -> dict[str, Any]:
        """Where the masks belong; they are in the model's state."""
        state: dict[str, Any] = self.torch.get_config(self.model)
        return state

    def before_restore(self, state: dict[str, Any]) -> None:
        """The masks' places."""
        self.model = self.torch.load_from_config(self.model, state)


PEERS: dict[str, type[Library]] = {"prune": TorchPrune, "ao": AoPruning, "nncf": Nncf}
