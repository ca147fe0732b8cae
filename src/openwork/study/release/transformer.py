"""Which variables of the release's Transformer are which weights of ours.

Scopes are those of tensor2tensor and of TensorFlow's model_pruning: ``encoder/layer_0/self_attention/
multihead_attention/q``, below which masked layers have a scope of their own. The names of some scopes differ by
tensor2tensor's version, so only what all versions share must match.
"""

import re

import torch
from torch import nn

from openwork.study.models.transformer import TARGET_SPACE, Transformer
from openwork.study.release.target import DENSE, Mapping, Target, target
from openwork.study.release.variables import BIASES, WEIGHTS, Variables

_NORM = r"layer_pre(?:post)?process(?:_\d+)?/layer_norm(?:_\d+)?"
_PARTS = {"query": "q", "key": "k", "value": "v"}
_GENERIC = 0  # the row of the target space that problems of tensor2tensor have unless they choose another
MARK = r"shared/weights_\d+"
"""What only a Transformer's checkpoint has."""


def transformer(variables: Variables) -> Mapping:
    """The weights of a Transformer with as many layers as the checkpoint has."""
    shards = sorted(variables.matching(MARK), key=lambda name: int(name.rpartition("_")[2]))
    space = variables.of("target_space_embedding", ("kernel",))
    targets = [Target("embedding.weight", tuple(shards), sparse=True), target("target_space", space)]
    for side in ("encoder", "decoder"):
        for number in range(_layers(variables, side)):
            targets += _layer(variables, side, number)
        targets += _norm(variables, f"{side}_norm", side)
    row = _used_row(variables)
    moved = () if row == TARGET_SPACE else (("target_space", row, TARGET_SPACE),)
    note = f"the target space embedding's row {row}, which the release adds to the source, is row {TARGET_SPACE} here"
    return Mapping(targets, (note,) if moved else (), moved)


def model(state: dict[str, torch.Size]) -> nn.Module:
    """A Transformer of the sizes that a state's shapes tell, on the meta device.

    Args:
        state: The shape of each weight; heads do not show in them, unless each has its own matrices.
    """
    layers = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("encoder.")), default=0)
    heads = len([key for key in state if key.startswith("encoder.0.own.query.head.")])
    vocabulary, width = state["embedding.weight"]
    hidden = state["encoder.0.up.weight"][0]
    with torch.device("meta"):
        return Transformer(
            vocabulary, width=width, hidden=hidden, heads=heads or 1, layers=layers, split_heads=heads > 0
        )


def _layers(variables: Variables, side: str) -> int:
    found = [re.search(rf"(?:^|/){side}/layer_(\d+)/", name) for name in variables.names]
    return max((int(match[1]) + 1 for match in found if match), default=1)


def _layer(variables: Variables, side: str, number: int) -> list[Target]:
    ours, theirs = f"{side}.{number}", f"{side}/layer_{number}"
    targets = _attention(variables, f"{ours}.own", f"{theirs}/self_attention")
    targets += _norm(variables, f"{ours}.own_norm", f"{theirs}/self_attention")
    if side == "decoder":
        targets += _attention(variables, f"{ours}.cross", f"{theirs}/encdec_attention")
        targets += _norm(variables, f"{ours}.cross_norm", f"{theirs}/encdec_attention")
    targets += _norm(variables, f"{ours}.hidden_norm", f"{theirs}/ffn")
    for part, scope in (("up", "conv1"), ("down", "conv2")):
        targets += [
            target(f"{ours}.{part}.weight", variables.of(f"{theirs}/ffn/{scope}", WEIGHTS), DENSE, sparse=True),
            target(f"{ours}.{part}.bias", variables.of(f"{theirs}/ffn/{scope}", BIASES)),
        ]
    return targets


def _attention(variables: Variables, ours: str, theirs: str) -> list[Target]:
    found = []
    for part, letter in _PARTS.items():
        scope = f"{theirs}/multihead_attention/{letter}"
        heads = len(variables.matching(rf"{scope}_shard_\d+/(?:{'|'.join(WEIGHTS)})"))
        # Separate matrices, and so masks, of each head: the release's option split_heads.
        names = {f"head.{head}.": f"{scope}_shard_{head}" for head in range(heads)} or {"": scope}
        found += [
            target(f"{ours}.{part}.{head}weight", variables.of(place, WEIGHTS), DENSE, sparse=True)
            for head, place in names.items()
        ]
    output = variables.of(f"{theirs}/multihead_attention/output_transform", WEIGHTS)
    return [*found, target(f"{ours}.output.weight", output, DENSE, sparse=True)]


def _norm(variables: Variables, ours: str, theirs: str) -> list[Target]:
    found = []
    for part, leaf in (("weight", "layer_norm_scale"), ("bias", "layer_norm_bias")):
        names = variables.matching(f"{theirs}/{_NORM}/{leaf}")
        found.append(target(f"{ours}.{part}", names[0] if len(names) == 1 else None))
    return found


def _used_row(variables: Variables) -> int:
    """The row of the target space that was trained: the only one with a history in Adam's state, where that is kept."""
    for name in variables.matching(r"target_space_embedding/kernel/Adam(?:_1)?"):
        if len(variables.shape(name)) == 2:
            rows = variables.bundle.tensor(name).ne(0).any(1).nonzero().flatten()
            if len(rows) == 1:
                return int(rows[0])
    return _GENERIC
