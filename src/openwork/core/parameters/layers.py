"""torch's own layers with random weights: forwards that replace theirs.

A layer that is linear in its weight passes its operation, ``op(x, weight, bias)``, to the distribution. Recurrent
layers are those of Gale et al. 2019 (after arXiv 1708.00077): from input to hidden an operation, like a Linear on the
sequence; from hidden to hidden one sample of the weights for all time steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openwork.core.ownership import RANDOM
from openwork.core.parameters.products import MATRIX, Casting, Layer, Lookup, Product
from openwork.core.parameters.weight import Op, ReparameterizedWeight
from openwork.core.parameters.whole import ready
from openwork.core.precision import LOW, exact
from openwork.kernels.products import Settings
from openwork.noise import draws_for

NOISE_SEED = "_openwork_noise_seed"
"""The attribute of a recurrent cell that holds the seed of its noise in this optimizer step."""


class RandomWeight(NamedTuple):
    """What a module with random weights holds for each.

    Args:
        name: The parameter's first name in the model.
        distribution: Its distribution.
    """

    name: str
    distribution: ReparameterizedWeight


def distribution(module: nn.Module, leaf: str) -> ReparameterizedWeight | None:
    """The distribution of the parameter ``leaf``; None where it is not random.

    Raises:
        ValueError: Under ``torch.fx.symbolic_trace``.
    """
    found: RandomWeight | None = module.__dict__[RANDOM].get(leaf)
    if found is None:
        return None
    # make_fx sets the flag as well, but records operations, so that each call of what it makes draws anew.
    if _symbolic_trace.is_fx_symbolic_tracing() and get_proxy_mode() is None:
        raise ValueError(
            f"{found.name} is a random variable, and torch.fx would record one sample of it as a constant; trace the "
            "sparsifier's finalized_copy() instead"
        )
    return found.distribution


def draw(module: nn.Module, leaf: str, generator: torch.Generator | None = None) -> Tensor:
    """The weight by the name ``leaf``: a sample in training, deterministic in evaluation.

    Args:
        module: The layer.
        leaf: The name of its parameter, which is returned itself where it is not random.
        generator: On the parameter's device; by default torch's.
    """
    parameter = _parameter(module, leaf)
    random = distribution(module, leaf)
    if random is None:
        return parameter
    if not module.training:
        with ready(random):
            return deterministic(random, parameter)
    draws_for(module.__dict__[RANDOM][leaf].name)
    with ready(random):
        return random.sample(exact(parameter), generator).to(parameter.dtype)


def _parameter(module: nn.Module, leaf: str) -> Tensor:
    parameter = module._parameters.get(leaf)
    if parameter is None:
        raise ValueError(
            f"the {leaf} of a {type(module).__bases__[0].__name__} is a random variable and no longer a parameter; "
            "finalize the sparsifier before you remove it"
        )
    return parameter


def deterministic(random: ReparameterizedWeight, parameter: Tensor) -> Tensor:
    """The weight of evaluation, of ``parameter``'s dtype, in which small values may become zero."""
    return random.effective(exact(parameter)).to(parameter.dtype)


def operate(
    module: nn.Module,
    leaf: str,
    op: Op,
    x: Tensor,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``op(x, weight, bias)`` with a random weight; in training its distribution computes it.

    Args:
        module: The layer.
        leaf: The name of the weight.
        op: The layer's operation, linear in the weight.
        x: The layer's input.
        bias: The layer's bias, if there is one.
        generator: On the weight's device; by default torch's.
    """
    random = distribution(module, leaf)
    if random is None or not module.training:
        return op(x, draw(module, leaf), bias)
    parameter = _parameter(module, leaf)
    draws_for(module.__dict__[RANDOM][leaf].name)
    if parameter.dtype not in LOW:
        with ready(random):
            output: Tensor = random(op, x, parameter, bias, generator)
        return output

    with ready(random):
        output = random(_casting(op), x, exact(parameter), bias, generator)
    cast_by_host = x.is_floating_point() and torch.is_autocast_enabled(x.device.type)
    return output if cast_by_host else output.to(parameter.dtype)


def _casting(op: Op) -> Op:
    """The operation with a weight that is cast to the dtype of x."""
    if isinstance(op, Product):
        return Casting(op)
    return lambda x, weight, bias: op(x, weight.to(x.dtype) if x.is_floating_point() else weight, bias)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """x: (..., in) -> (..., out)."""
    return operate(layer, "weight", MATRIX, x, layer.bias)


def convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """x: (N, in, ...) -> (N, out, ...)."""
    if type(layer)._conv_forward not in _PLAIN_CONVOLUTIONS:
        return operate(layer, "weight", layer._conv_forward, x, layer.bias)
    padding: Any = layer.padding
    around: list[int] = layer._reversed_padding_repeated_twice
    none = (0,) * len(layer.kernel_size)
    if layer.padding_mode != "zeros":
        x, padding = F.pad(x, around, mode=layer.padding_mode), none
    elif padding == "valid":
        padding = none
    elif padding == "same":
        if around[::2] == around[1::2]:
            padding = tuple(reversed(around[::2]))
        else:
            x, padding = F.pad(x, around), none
    settings = Settings(layer.stride, padding, layer.dilation, none, layer.groups)
    return operate(layer, "weight", Layer(settings), x, layer.bias)


def transposed_convolution(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor, output_size: list[int] | None = None
) -> Tensor:
    """x: (N, in, ...) -> (N, out, ...)."""
    dimensions = len(layer.kernel_size)
    stride, padding, kernel, dilation = layer.stride, layer.padding, layer.kernel_size, layer.dilation
    assert isinstance(padding, tuple)
    own: Any = layer  # typed for one number of dimensions only
    extra = own._output_padding(x, output_size, stride, padding, kernel, dimensions, dilation)
    settings = Settings(stride, padding, dilation, extra, layer.groups, transposed=True)
    return operate(layer, "weight", Layer(settings), x, layer.bias)


def embedding(layer: nn.Embedding, x: Tensor) -> Tensor:
    """x: integer ids of any shape -> (*x.shape, embedding_dim); ids stand for one-hot vectors."""
    return operate(layer, "weight", Lookup(layer.padding_idx, layer.scale_grad_by_freq), x)


def recurrent(layer: nn.RNNBase, x: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
    """What RNN, LSTM and GRU return for the same arguments."""
    lstm, directions = layer.mode == "LSTM", 2 if layer.bidirectional else 1
    if isinstance(x, PackedSequence):
        sequence, (batch, order, back) = x.data, (int(x.batch_sizes[0]), x.sorted_indices, x.unsorted_indices)
        sizes: Tensor | None = x.batch_sizes
    else:
        sizes, order, back = None, None, None
        alone = x.dim() == 2  # one sequence without a batch dimension
        sequence = x.unsqueeze(1) if alone else x.transpose(0, 1) if layer.batch_first else x  # (time, batch, in)
        batch = sequence.shape[1]
        if alone and hx is not None:
            hx = tuple(h.unsqueeze(1) for h in hx) if lstm else hx.unsqueeze(1)
    if hx is None:
        widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
        zeros = [sequence.new_zeros(layer.num_layers * directions, batch, width) for width in widths]
        states = zeros if lstm else zeros[:1]
    else:
        states = list(hx) if lstm else [hx]
        states = [state if order is None else state.index_select(1, order) for state in states]
    finals: list[tuple[Tensor, ...]] = []
    for depth in range(layer.num_layers):
        part = slice(depth * directions, (depth + 1) * directions)
        sequence, *final = _one_layer(layer, depth, sequence, sizes, [state[part] for state in states])
        finals.append(tuple(final))
        if depth + 1 < layer.num_layers:
            sequence = F.dropout(sequence, layer.dropout, layer.training)
    last = [torch.cat(parts) for parts in zip(*finals, strict=True)]
    if isinstance(x, PackedSequence):
        last = [state if back is None else state.index_select(1, back) for state in last]
        output: Any = PackedSequence(sequence, x.batch_sizes, order, back)
    elif alone:
        last, output = [state.squeeze(1) for state in last], sequence.squeeze(1)
    else:
        output = sequence.transpose(0, 1) if layer.batch_first else sequence
    return output, tuple(last) if lstm else last[0]


def _one_layer(
    layer: nn.RNNBase, depth: int, x: Tensor, sizes: Tensor | None, states: list[Tensor]
) -> tuple[Tensor, ...]:
    """x: (time, batch, in), or packed data of these batch sizes -> output, and the final state or states."""
    suffixes = [f"_l{depth}", f"_l{depth}_reverse"][: 2 if layer.bidirectional else 1]
    inputs: list[Tensor] = []
    if any(distribution(layer, f"weight_ih{suffix}") for suffix in suffixes):
        # The operation happens before torch's kernel begins, which gets an identity in place of the input weights.
        padded = x if sizes is None else pad_packed_sequence(PackedSequence(x, sizes))[0]
        projected = [operate(layer, f"weight_ih{suffix}", MATRIX, padded.transpose(0, 1)) for suffix in suffixes]
        x = torch.cat(projected, dim=-1).transpose(0, 1)
        if sizes is not None:
            lengths = (sizes[:, None] > torch.arange(int(sizes[0]), device="cpu")).sum(0)
            x = pack_padded_sequence(x, lengths).data
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        inputs = list(identity.chunk(len(suffixes)))
    weights: list[Tensor] = []
    for number, suffix in enumerate(suffixes):
        weights.append(inputs[number] if inputs else draw(layer, f"weight_ih{suffix}"))
        weights.append(draw(layer, f"weight_hh{suffix}"))
        if layer.bias:
            weights += [draw(layer, f"bias_ih{suffix}"), draw(layer, f"bias_hh{suffix}")]
        if layer.proj_size:
            weights.append(draw(layer, f"weight_hr{suffix}"))
    kernels: dict[str, Callable[..., tuple[Tensor, ...]]] = {
        "LSTM": torch.lstm,
        "GRU": torch.gru,
        "RNN_TANH": torch.rnn_tanh,
        "RNN_RELU": torch.rnn_relu,
    }
    state = states if layer.mode == "LSTM" else states[0]
    settings = (weights, layer.bias, 1, 0.0, layer.training, layer.bidirectional)
    kernel = kernels[layer.mode]
    return kernel(x, state, *settings, False) if sizes is None else kernel(x, sizes, state, *settings)


def recurrent_cell(layer: nn.RNNCellBase, x: Tensor, hx: Any = None) -> Any:
    """What RNNCell, LSTMCell and GRUCell return for the same arguments.

    A cell does not know where a sequence begins: within an optimizer step, every call draws the same noise.
    """
    generator = torch.Generator(x.device).manual_seed(layer.__dict__[NOISE_SEED])
    lstm = isinstance(layer, nn.LSTMCell)
    alone = x.dim() == 1
    rows = x.unsqueeze(0) if alone else x
    if hx is None:
        hx = x.new_zeros(len(rows), layer.hidden_size)
        hx = (hx, hx) if lstm else hx
    elif alone:
        hx = tuple(h.unsqueeze(0) for h in hx) if lstm else hx.unsqueeze(0)
    hidden = draw(layer, "weight_hh", generator)  # first, so that it does not depend on the size of the batch
    entry = draw(layer, "weight_ih") if distribution(layer, "weight_ih") is None else None
    if entry is None:
        rows = operate(layer, "weight_ih", MATRIX, rows, generator=generator)
        entry = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    biases = (draw(layer, "bias_ih"), draw(layer, "bias_hh")) if layer.bias else (None, None)
    kernel: Callable[..., Any] = torch.lstm_cell if lstm else torch.gru_cell
    if isinstance(layer, nn.RNNCell):
        kernel = torch.rnn_tanh_cell if layer.nonlinearity == "tanh" else torch.rnn_relu_cell
    output = kernel(rows, hx, entry, hidden, *biases)
    if not alone:
        return output
    return tuple(h.squeeze(0) for h in output) if lstm else output.squeeze(0)


_PLAIN_CONVOLUTIONS = (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)

FORWARDS: dict[Callable[..., Any], Callable[..., Any]] = {
    nn.Linear.forward: linear,
    nn.Conv1d.forward: convolution,
    nn.Conv2d.forward: convolution,
    nn.Conv3d.forward: convolution,
    nn.ConvTranspose1d.forward: transposed_convolution,
    nn.ConvTranspose2d.forward: transposed_convolution,
    nn.ConvTranspose3d.forward: transposed_convolution,
    nn.Embedding.forward: embedding,
    nn.RNN.forward: recurrent,
    nn.LSTM.forward: recurrent,
    nn.GRU.forward: recurrent,
    nn.RNNCell.forward: recurrent_cell,
    nn.LSTMCell.forward: recurrent_cell,
    nn.GRUCell.forward: recurrent_cell,
}
"""A layer's forward -> the forward that replaces it, also in a subclass that inherits it."""
