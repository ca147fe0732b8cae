"""The work of `accelerate`: layers measured with each kernel, and a copy of the model with the fastest ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.converted import Converted
from openwork.core.copies import copied_model
from openwork.core.forward import call, copied, first_line
from openwork.core.selection import Site, find_weights, weight_matrices
from openwork.core.snapshot import snapshot
from openwork.inference.accelerated import Accelerated
from openwork.inference.alternative import Alternative
from openwork.inference.alternatives import alternatives as usual_alternatives
from openwork.inference.calls import Call, record_calls
from openwork.inference.choice import LayerChoice, break_even, choose, not_tried
from openwork.inference.models import TOLERANCES, bytes_of, difference, tensors_of
from openwork.inference.timing import time_in_turns


def accelerating(
    model: nn.Module,
    sample: Any,
    device: torch.device,
    alternatives: Sequence[Alternative] | None,
    rounds: int,
    graph: bool,
) -> Accelerated:
    """Does what `accelerate` says, which has checked all but the sample.

    Args:
        model: The model.
        sample: Its input.
        device: Where the model is.
        alternatives: What to try; None for all kernels for the device.
        rounds: How often to measure.
        graph: Whether to measure replays of CUDA graphs.

    Raises:
        ValueError: If the sample does not fit, or the model cannot be copied.
    """
    search = _Search(usual_alternatives(device) if alternatives is None else alternatives, rounds, graph)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all of which `_output` seeds
        return _accelerated(_copy(model, {}), sample, device, search)


def _accelerated(dense: nn.Module, sample: Any, device: torch.device, search: "_Search") -> Accelerated:
    """What `accelerate` returns; ``dense`` is a copy of the model."""
    unchanged = snapshot(dense)  # forward passes may count, or fill caches
    expected = _output(dense, sample)
    unchanged()
    choices, forms = _choose_all(dense, sample, search)
    unchanged()
    for layer, reason in _unusable(dense, forms, sample).items():
        choices[layer] = choices[layer].kept_dense(reason)
        del forms[layer]
    fast, timed = _copy(dense, forms), copied(sample)
    far, problem = difference(_floats(expected), _floats(_output(fast, sample)))
    with torch.no_grad():
        before, after = time_in_turns(
            [lambda: call(dense, timed), lambda: call(fast, timed)], device, rounds=search.rounds, graph=search.graph
        )
    unchanged()
    if not forms or problem or after.median >= before.median:
        for layer in forms:
            choices[layer] = choices[layer].kept_dense(problem or "the model gets no faster")
        forms, after, far = {}, before, 0.0
    fast = _copy(dense, forms) if forms else dense
    return Accelerated(fast, tuple(choices.values()), before, after, far, bytes_of(dense), bytes_of(fast), str(device))


@dataclass
class _Search:
    """What layers are tried with, and the break-even that was found for each kind of layer."""

    alternatives: Sequence[Alternative]
    rounds: int
    graph: bool
    break_even: dict[Any, float | None] = field(default_factory=dict)

    def layer(self, name: str, layer: nn.Module, calls: Counter[Call]) -> tuple[LayerChoice, Converted | None]:
        choice, form = choose(name, layer, calls, self.alternatives, self.rounds, self.graph)
        best = choice.best
        if best is None:
            return choice, form
        kind = (best.kernel, choice.shape, layer.extra_repr(), frozenset(calls.items()))
        if kind not in self.break_even:
            one = next(one for one in self.alternatives if one.name == best.kernel)
            self.break_even[kind] = break_even(layer, calls, one, self.graph)
        return replace(choice, break_even=self.break_even[kind]), form


def _choose_all(
    model: nn.Module, sample: Any, search: _Search
) -> tuple[dict[nn.Module, LayerChoice], dict[nn.Module, Converted]]:
    """A choice for each module with weights, and the layers that a kernel computes faster, in its form."""
    sites: dict[nn.Module, Site] = {}
    for weight in find_weights(model, weight_matrices)[0]:
        for site in weight.sites:  # several where it is tied
            sites.setdefault(site.module, site)
    problems = {site.module: _problem(site) for site in sites.values()}
    calls = record_calls(model, [module for module, problem in problems.items() if not problem], sample)
    choices, forms = {}, {}
    for site in sites.values():
        layer, name = site.module, site.name.removesuffix(site.leaf).removesuffix(".")
        if layer in calls:
            choices[layer], form = search.layer(name, layer, calls[layer])
            if form:
                forms[layer] = form
        else:
            choices[layer] = not_tried(name, site.leaf, layer, problems[layer])
    return choices, forms


def _problem(site: Site) -> str:
    """Why nothing is tried with a weight; "" where something is."""
    module = site.module
    weight = module._parameters[site.leaf]
    assert weight is not None
    if site.leaf != "weight":
        return f"no kernel for {type(module).__name__}"
    if not int((weight == 0).sum()):
        return "no zeros"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks"
    return ""


def _copy(model: nn.Module, forms: Mapping[nn.Module, Converted]) -> nn.Module:
    """A copy in evaluation mode that shares the parameters, with layers in other forms wherever it refers to them.

    Raises:
        ValueError: If the model cannot be copied.
    """
    known: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    fast = copied_model(model, known | {id(layer): form for layer, form in forms.items()}).eval()
    for module in fast.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(isinstance(m, Converted) for m in module.modules()):
            # Its fast path reads the weights of its layers; this says that it does not know the activation.
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, Converted) for m in module.modules()):
            module.use_nested_tensor = False  # with a padding mask it would pass nested tensors, which no kernel takes
    return fast


@torch.no_grad()
def _output(model: nn.Module, sample: Any) -> Any:
    """The model's output; of a model that draws random numbers, the same ones each time.

    Raises:
        ValueError: If the sample does not fit.
    """
    try:
        torch.manual_seed(0)
        return call(model, copied(sample))
    except Exception as error:
        raise ValueError(
            f"the model does not take the sample ({first_line(error)}); give one input, a tuple of arguments or a "
            "mapping of keyword arguments"
        ) from error


def _unusable(model: nn.Module, forms: Mapping[nn.Module, Converted], sample: Any) -> dict[nn.Module, str]:
    """The layers that cannot take another form in this model, and why."""
    try:
        calls = record_calls(_copy(model, forms), forms.values(), sample)
        return {layer: "code outside the model calls it" for layer, form in forms.items() if not calls[form]}
    except Exception:  # some code reads a weight, its dtype or another attribute of a layer: of which ones?
        unusable: dict[nn.Module, str] = {}
        usable: dict[nn.Module, Converted] = {}
        for layer, form in forms.items():
            together = usable | {layer: form}  # code may need one dense layer of several, as for next(parameters())
            try:
                called = record_calls(_copy(model, together), [form], sample)[form]
            except Exception as error:
                unusable[layer] = f"other code reads it ({first_line(error)})"
                continue
            if called:
                usable = together
            else:
                unusable[layer] = "code outside the model calls it"
        return unusable


def _floats(output: Any) -> list[Tensor]:
    """What is compared: numbers that other orders of sums may change, and no decisions that are made of them."""
    plain = [tensor for tensor in tensors_of(output) if tensor.layout is torch.strided and not tensor.is_nested]
    return [tensor for tensor in plain if tensor.dtype in TOLERANCES]
