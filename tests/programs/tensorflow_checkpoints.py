"""Tiny checkpoints with the names of the paper's release, and TFRecords of images, written by TensorFlow itself.

``python -m tests.programs.tensorflow_checkpoints FILE.tar.xz`` writes all `CASES`, and needs TensorFlow 2
(``pip install tensorflow==2.21.0``). Their values come from `variables`, which needs NumPy alone, so that tests know
them.
"""

import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCKS = (3, 4, 6, 3)


class Sizes(NamedTuple):
    """Those of a Transformer, and the channels of a ResNet's stem and its classes."""

    vocabulary: int
    width: int
    hidden: int
    heads: int
    layers: int
    stem: int
    classes: int


TINY = Sizes(24, 8, 16, 2, 2, 1, 5)
FULL = Sizes(33_288, 512, 2_048, 8, 6, 64, 1_000)
USED_ROW = 3  # of the target space embedding, in the one case that keeps Adam's state
LABELS = ((1, 3, 2), (2, 1))
LISTS = {"int64_list": "Int64List", "bytes_list": "BytesList", "float_list": "FloatList"}
CASES = [
    *(f"transformer-{name}" for name in ("dense", "magnitude", "split-heads", "variational-dropout", "l0")),
    *(f"resnet50-{name}" for name in ("dense", "magnitude", "extended", "variational-dropout", "l0")),
]


def variables(case: str, sizes: Sizes = TINY) -> dict[str, Array]:
    """The variables of a case by name."""
    model, _, technique = case.partition("-")
    found = dict((_transformer if model == "transformer" else _resnet50)(technique, sizes))
    found["global_step"] = np.array(500_000, np.int64)
    if technique in ("magnitude", "split-heads", "extended"):
        found["model_pruning/last_mask_update_step"] = np.array(400_000, np.int32)
    return found


def _transformer(technique: str, s: Sizes) -> Iterator[tuple[str, Array]]:
    shared = f"sparse_transformer/symbol_modality_{s.vocabulary}_{s.width}/shared"
    pieces = {"variational-dropout": (12, 12), "l0": (9, 8, 7)} if s == TINY else {}
    rows = pieces.get(technique, (s.vocabulary,))
    for number, count in enumerate(rows):
        weights = _weights(f"{shared}/weights_{number}", count, s.width)
        yield f"{shared}/weights_{number}", weights
        if technique in ("variational-dropout", "l0"):
            yield f"{shared}/weights_{number}_aux", _auxiliary(f"{shared}/{number}", weights, technique)
    if technique in ("magnitude", "split-heads"):
        yield f"{shared}/mask", _mask(shared, s.vocabulary, s.width)
        yield f"{shared}/threshold", np.array(0.25, np.float32)
    space = "sparse_transformer/body/target_space_embedding/kernel"
    yield space, _weights(space, 32, s.width)
    if technique == "magnitude":
        for slot in ("Adam", "Adam_1"):
            moments = np.zeros((32, s.width), np.float32)
            moments[USED_ROW] = 0.5
            yield f"training/{space}/{slot}", moments
            yield f"training/{shared}/weights_0/{slot}", np.ones((s.vocabulary, s.width), np.float32)
        yield "training/beta1_power", np.array(0.5, np.float32)
    norm = "layer_preprocess" if technique == "variational-dropout" else "layer_prepostprocess"
    for side in ("encoder", "decoder"):
        body = f"sparse_transformer/body/{side}"
        for number in range(s.layers):
            layer = f"{body}/layer_{number}"
            parts = ("self_attention", "encdec_attention")[: 1 if side == "encoder" else 2]
            for part in parts:
                for letter in ("q", "k", "v", "output_transform"):
                    scope = f"{layer}/{part}/multihead_attention/{letter}"
                    if technique == "split-heads" and letter != "output_transform":
                        for head in range(s.heads):
                            place = f"{scope}_shard_{head}"
                            yield f"{place}/kernel", _weights(place, s.width, s.width // s.heads)
                            yield f"{place}/mask", _mask(place, s.width, s.width // s.heads)
                            yield f"{place}/threshold", np.array(0.25, np.float32)
                    else:
                        yield from _dense(scope, s.width, s.width, technique, bias=False)
            yield from _dense(f"{layer}/ffn/conv1", s.width, s.hidden, technique, bias=True)
            yield from _dense(f"{layer}/ffn/conv2", s.hidden, s.width, technique, bias=True)
            for part in (*parts, "ffn"):
                yield from _norm(f"{layer}/{part}/{norm}/layer_norm", s)
        yield from _norm(f"{body}/{norm}/layer_norm", s)


def _norm(scope: str, s: Sizes) -> Iterator[tuple[str, Array]]:
    yield f"{scope}/layer_norm_scale", 1 + _weights(f"{scope}/scale", s.width) / 4
    yield f"{scope}/layer_norm_bias", _weights(f"{scope}/bias", s.width) / 4


def _dense(scope: str, inputs: int, outputs: int, technique: str, *, bias: bool) -> Iterator[tuple[str, Array]]:
    masked = technique in ("magnitude", "split-heads")
    place = f"{scope}/fully_connected" if masked else scope
    weights = _weights(place, inputs, outputs)
    yield f"{place}/{'weights' if masked else 'kernel'}", weights
    yield from _beside(place, weights, technique)
    if bias:
        yield f"{place}/{'biases' if masked else 'bias'}", _weights(f"{place}/bias", outputs)


def _resnet50(technique: str, s: Sizes) -> Iterator[tuple[str, Array]]:
    norms = 0

    def convolution(name: str, size: int, inputs: int, outputs: int) -> Iterator[tuple[str, Array]]:
        nonlocal norms
        plain = technique == "dense" or (technique == "extended" and name == "initial_conv")
        # Plain layers of TensorFlow are made inside of a scope of their own name.
        place = f"resnet_model/{name}/{name}" if plain else f"resnet_model/{name}"
        weights = _weights(place, size, size, inputs, outputs)
        yield f"{place}/weights", weights
        if not plain:
            yield from _beside(place, weights, "magnitude" if technique == "extended" else technique)
        yield f"{place}/weights/Momentum", np.zeros((1,), np.float32)
        norm = f"resnet_model/batch_normalization{f'_{norms}' if norms else ''}"
        norms += 1
        yield f"{norm}/gamma", 1 + _weights(f"{norm}/gamma", outputs) / 4
        yield f"{norm}/beta", _weights(f"{norm}/beta", outputs) / 4
        yield f"{norm}/moving_mean", _weights(f"{norm}/mean", outputs) / 4
        yield f"{norm}/moving_variance", 1 + np.abs(_weights(f"{norm}/variance", outputs))

    yield from convolution("initial_conv", 7, 3, s.stem)
    inputs = s.stem
    for group, blocks in enumerate(BLOCKS, 1):
        channels = s.stem * 2 ** (group - 1)
        for number in range(blocks):
            name = f"block_group{group}_{number}_1" if number else f"block_group_projection_block_group{group}"
            if not number:
                yield from convolution(f"bottleneck_projection_{name}", 1, inputs, 4 * channels)
            yield from convolution(f"bottleneck_1_{name}", 1, inputs, channels)
            yield from convolution(f"bottleneck_2_{name}", 3, channels, channels)
            yield from convolution(f"bottleneck_3_{name}", 1, channels, 4 * channels)
            inputs = 4 * channels
    place = "resnet_model/final_dense/final_dense" if technique == "dense" else "resnet_model/final_dense"
    weights = _weights(place, inputs, s.classes)
    yield f"{place}/weights", weights
    yield from _beside(place, weights, "magnitude" if technique == "extended" else technique)
    yield f"{place}/biases", _weights(f"{place}/biases", s.classes)


def _beside(place: str, weights: Array, technique: str) -> Iterator[tuple[str, Array]]:
    """What a technique keeps beside a layer's weights."""
    if technique in ("magnitude", "split-heads"):
        yield f"{place}/mask", _mask(place, *weights.shape)
        yield f"{place}/threshold", np.array(0.25, np.float32)
    elif technique != "dense":
        name = "log_sigma2" if technique == "variational-dropout" else "log_alpha"
        yield f"{place}/{name}", _auxiliary(place, weights, technique)


def _mask(place: str, *shape: int) -> Array:
    return np.asarray(_numbers(f"{place}/mask", shape) % 4 == 0, np.float32)


def _auxiliary(place: str, weights: Array, technique: str) -> Array:
    """Log sigma^2 with log alpha, or log alpha itself, in steps of an eighth from -6 to 6."""
    log_alpha = ((_numbers(f"{place}/aux", weights.shape) % 97).astype(np.float32) - 48) / 8
    if technique == "l0":
        return log_alpha
    # Rounded, as many digits make a large file.
    return np.asarray(np.round(4 * (np.log(weights**2 + 1e-8) + log_alpha)) / 4, np.float32)


def _weights(place: str, *shape: int) -> Array:
    """Multiples of 1/32 from -1 to 1, about as spread out as normal numbers."""
    raw = _numbers(place, shape)
    parts = np.stack([(raw >> np.uint64(8 * byte)) % np.uint64(17) for byte in range(4)])
    return np.asarray((parts.sum(0).astype(np.float32) - 32) / 32, np.float32)


def _numbers(place: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """The same numbers in every version of NumPy."""
    count = int(np.prod(shape))
    return np.random.PCG64(crc32(place.encode())).random_raw(max(count, 1))[:count].reshape(shape) >> np.uint64(16)


def write(case: str, folder: Path) -> None:
    """Lets TensorFlow save a case: ``folder/model.ckpt-500000``."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    sharded = case == "transformer-magnitude"
    devices = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), tf.Session(config=devices) as session:
        for number, (name, value) in enumerate(variables(case).items()):
            parts = 3 if name.endswith("ffn/conv1/kernel") and case == "transformer-l0" else 1
            partitioner: Callable[..., Any] | None = tf.fixed_size_partitioner(parts, axis=1) if parts > 1 else None
            with tf.device(f"/cpu:{number % 2 if sharded else 0}"):
                tf.get_variable(
                    name,
                    shape=value.shape,
                    dtype=value.dtype,
                    initializer=tf.constant_initializer(value) if parts == 1 else _slices(value),
                    partitioner=partitioner,
                    use_resource=False,
                )
        session.run(tf.global_variables_initializer())
        # Sharded: a file for each device that holds variables, merged to one index.
        saver = tf.train.Saver(sharded=sharded)
        saver.save(session, str(folder / "model.ckpt"), global_step=500_000, write_meta_graph=False)
    (folder / "checkpoint").unlink()


def write_records(folder: Path) -> None:
    """Lets TensorFlow write two shards of images as the paper's code reads them: labels 1, 3, 2 and 2, 1."""
    import tensorflow.compat.v1 as tf

    def feature(**values: Any) -> Any:
        return tf.train.Feature(**{kind: getattr(tf.train, LISTS[kind])(value=[v]) for kind, v in values.items()})

    with tf.Graph().as_default(), tf.Session() as session:
        for shard, labels in enumerate(LABELS):
            with tf.python_io.TFRecordWriter(str(folder / f"validation-{shard:05}-of-00002")) as writer:
                for number, label in enumerate(labels):
                    pixels = np.full((18, 20 + number, 3), 60 * label, np.uint8)
                    encoded = session.run(tf.io.encode_jpeg(pixels, quality=90))
                    named = {
                        "image/height": feature(int64_list=18),
                        "image/class/label": feature(int64_list=label),
                        "image/class/synset": feature(bytes_list=b"n01440764"),
                        "image/encoded": feature(bytes_list=encoded),
                        "image/object/bbox/xmin": feature(float_list=0.25),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=named))
                    writer.write(example.SerializeToString(deterministic=True))


def _slices(value: Array) -> Callable[..., Any]:
    def initial(shape: Any, dtype: Any = None, partition_info: Any = None) -> Any:
        start = partition_info.var_offset
        return value[tuple(slice(s, s + int(n)) for s, n in zip(start, shape, strict=True))]

    return initial


def main(path: Path) -> None:
    """Writes all cases to an archive."""
    with tarfile.open(path, "w:xz") as archive, tempfile.TemporaryDirectory() as temporary:
        for case in (*CASES, "tfrecords"):
            folder = Path(temporary) / case
            folder.mkdir()
            if case == "tfrecords":
                write_records(folder)
            else:
                write(case, folder)
            for file in sorted(folder.iterdir()):
                content = file.read_bytes()
                info = tarfile.TarInfo(f"{case}/{file.name}")  # without a date: equal checkpoints, equal archives
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
