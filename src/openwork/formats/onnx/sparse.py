"""ONNX's sparse initializers: the non-zero values of a weight with their positions."""

from typing import Any


def with_sparse_initializers(proto: Any) -> Any:
    """The model with each floating-point weight in the smaller form: dense, or its values and their positions.

    The specification has positions of eight bytes, so that a float32 weight gains from two thirds zeros on. -0.0, which
    masks leave of negative weights, is a zero too: it comes back as 0.0.

    Args:
        proto: An onnx ModelProto, which is changed.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = proto.graph
    dense = list(graph.initializer)
    del graph.initializer[:]
    for tensor in dense:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or values.ndim == 0:
            graph.initializer.append(tensor)
            continue
        flat = np.ascontiguousarray(values).reshape(-1)
        (at,) = np.nonzero(flat)
        if at.size * (flat.itemsize + 8) >= flat.nbytes:
            graph.initializer.append(tensor)
            continue
        kept = numpy_helper.from_array(flat[at], tensor.name)
        positions = numpy_helper.from_array(at.astype(np.int64))
        graph.sparse_initializer.append(helper.make_sparse_tensor(kept, positions, list(values.shape)))
    return proto
