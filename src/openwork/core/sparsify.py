"""`sparsify`, with which everything begins."""

from torch import nn

from openwork.core.mechanism import Calibrate
from openwork.core.selection import Selection, weight_matrices
from openwork.core.sparsifier import Sparsifier
from openwork.core.technique import Technique


def sparsify(
    model: nn.Module,
    technique: Technique,
    *,
    select: Selection = weight_matrices,
    seed: int = 0,
    keep_zeros: bool = False,
    calibrate: Calibrate | None = None,
) -> Sparsifier:
    """Makes ``model`` sparse, in place, from now on; call it before the optimizer, DDP, FSDP2 and compile.

    Args:
        model: The model. Masks leave its modules alone; a technique with random variables switches their classes.
        technique: Says which weights become zero, and when.
        select: Which parameters become sparse, by default the matrices and kernels of all layers (`weight_matrices`):
            a selection, or a name or list of names as `matching` takes them.
        seed: The seed of random masks, ties and initial gates, which do not depend on torch's global generator.
        keep_zeros: Whether the zeros that the weights hold now stay zero for good, whatever the schedule says: to prune
            a sparse model further, or with ``Constant(0.0)`` to fine-tune it as it is. Masks only.
        calibrate: For a technique that looks at inputs, or at gradients before training: a function that runs batches
            through the model it is given, and ``backward()`` on a loss for gradients, or that returns the loss or the
            outputs where the technique differentiates them itself. Autograd is off where the technique asks for none.
            Gradients, buffers, training flags and torch's generators are afterwards as they were. Where several
            processes run, all must sparsify; what they found is averaged over them, and where the calibration of one
            fails, all raise.

    Returns:
        The sparsifier, which holds the state.

    Raises:
        TypeError: If ``technique`` is no instance of a technique, its methods take the wrong arguments, or another
            argument is of the wrong kind.
        ValueError: If nothing is selected or fits the pattern, another sparsifier holds one of the weights, or the
            technique cannot have its evidence. The model is then as it was.
    """
    return Sparsifier(model, technique, select=select, seed=seed, keep_zeros=keep_zeros, calibrate=calibrate)
