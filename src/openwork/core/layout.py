"""How layers store their weights, and the one layout in which rows and columns are counted: (out, in, kernel...).

Linear, Conv, LSTM and attention store weights so. An Embedding's is taken as stored, (tokens, features), like the
softmax weight that it is often tied to. ConvTranspose and the Conv1D of transformers store (in, out, ...): theirs are
transposed.
Rows of a grouped convolution hold the inputs of its group; a row of a grouped ConvTranspose is one output map of every
group.
"""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


def output_first(tensor: Tensor, module: nn.Module) -> Tensor:
    """``tensor``, of the shape of a weight of ``module``, with outputs before inputs; applied twice, as it was."""
    # The Conv1D of transformers is known by its name, since importing transformers takes seconds.
    swapped = isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"
    return tensor.transpose(0, 1) if swapped and tensor.dim() > 1 else tensor
