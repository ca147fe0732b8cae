"""PEFT: LoRA on a sparse model, trained and merged through its zeros."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import peft.tuners.lora.layer as lora
except ImportError as error:
    raise ImportError('peft is missing; pip install "openwork[peft]"') from error

_BEFORE = "_openwork_before_merging"


class _ThroughZeros(lora.LoraVariant):
    """A low-rank change of which only what falls on weights that are not zero counts: (W + BA) * (W != 0)."""

    @staticmethod
    def init(module: Any, adapter_name: str, **unused: Any) -> None:
        """Nothing to prepare, whatever of the configuration a release of PEFT passes."""

    def supports_lora_conversion(self) -> bool:
        """No: the change has as many ranks as the zeros give it, and what PEFT would take fills them."""
        return False

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **unused: Any) -> Tensor:
        """The layer's result with the change added."""
        change = _change(module, active_adapter)
        if module.fan_in_fan_out:
            change = change.t()
        return result + F.linear(module.lora_dropout[active_adapter](x), change.to(x.dtype))

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight with the change added."""
        _remember(module)
        return orig_weight + _change(module, active_adapter).to(orig_weight)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Adds the change to the weight."""
        _remember(module)
        orig_weight.data += _change(module, active_adapter).to(orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight as it was before the first adapter was merged, bit for bit; subtracting would round."""
        if len(module.merged_adapters):  # others of the layer are still to be taken back
            return orig_weight
        before: Tensor = module.__dict__.pop(_BEFORE)
        return before.to(orig_weight)


def keep_zeros(model: nn.Module) -> list[str]:
    """Lets the LoRA adapters of a PEFT model keep the zeros of the weights that they change, in place.

    From now on an adapter's layer computes with (W + scaling * B A) * (W != 0), in training as well, so that merging
    changes nothing but rounding: ``merge_adapter`` and ``merge_and_unload`` leave zeros where they are, and
    ``unmerge_adapter`` gives W back bit for bit, of which a merged layer keeps a copy. Call it after
    ``get_peft_model`` and ``PeftModel.from_pretrained``, and again after ``add_adapter``, ``load_adapter`` and
    ``add_weighted_adapter``: an adapter that is made later is plain LoRA, and an adapter's file does not say it.

    Args:
        model: A PEFT model, or any model with LoRA layers, whose sparse weights hold their zeros.

    Returns:
        The names of the weights whose zeros are kept.

    Raises:
        ValueError: If no weight under an adapter has zeros, one is merged, or one has an adapter of another kind.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, lora.LoraLayer)]
    sparse = [(name, layer) for name, layer in layers if _has_zeros(layer)]
    if not sparse:
        raise ValueError(
            f"none of the {len(layers)} LoRA layers has a weight with zeros; prune the model first, then get_peft_model"
        )
    for name, layer in sparse:
        if layer.merged and _BEFORE not in layer.__dict__:
            raise ValueError(f"{name} is merged, which has filled its zeros; call unmerge_adapter() first")
        others = {type(one).__name__ for one in layer.lora_variant.values() if not isinstance(one, _ThroughZeros)}
        kind = ", ".join(sorted(others)) or type(layer).__name__
        if others or type(layer) is not lora.Linear:
            raise ValueError(
                f"{name} is a LoRA layer of the kind {kind}, and zeros are kept by plain LoRA on Linear and Conv1D; "
                "leave it out of target_modules, or turn the variant off"
            )
    for _, layer in sparse:
        layer.lora_variant.update({adapter: _ThroughZeros() for adapter in layer.lora_A})
    return [f"{name}.base_layer.weight" for name, _ in sparse]


def _has_zeros(layer: Any) -> bool:
    weight = getattr(layer.get_base_layer(), "weight", None)
    return isinstance(weight, Tensor) and weight.is_floating_point() and bool((weight == 0).any())


def _change(module: Any, adapter: str) -> Tensor:
    weight = module.__dict__.get(_BEFORE, module.get_base_layer().weight)
    change: Tensor = module.get_delta_weight(adapter)
    return torch.where(weight.to(change.device) != 0, change, 0)


def _remember(module: Any) -> None:
    if not module.merged_adapters:
        module.__dict__[_BEFORE] = module.get_base_layer().weight.detach().clone()
    elif _BEFORE not in module.__dict__:
        raise ValueError(
            f"the adapters {module.merged_adapters} were added after keep_zeros and have filled the zeros; call "
            "unmerge_adapter(), then keep_zeros(model) again"
        )
