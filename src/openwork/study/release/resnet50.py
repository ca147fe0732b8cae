"""Which variables of the release's ResNet-50 are which weights of ours.

Its batch norms have no names of their own: they are numbered in the order in which they were made, that of a block's
shortcut before the three others.
"""

import re

import torch
from torch import nn

from openwork.study.models.resnet import BLOCKS, ResNet
from openwork.study.release.target import DENSE, KERNEL, Mapping, Target, target
from openwork.study.release.variables import BIASES, WEIGHTS, Variables

_NORM = re.compile(r"(?:.*/)?batch_normalization(?:_(\d+))?/gamma")
_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
MARK = r"initial_conv(?:/[^/]+)*/(?:weights|kernel)"
"""What only a ResNet's checkpoint has."""


def resnet50(variables: Variables) -> Mapping:
    """The weights of a ResNet-50.

    Raises:
        ValueError: If the checkpoint has more blocks, or another number of batch norms.
    """
    _check_blocks(variables)
    targets, norms = [_convolution(variables, "conv1", "initial_conv")], ["bn1"]
    for group, blocks in enumerate(BLOCKS[50], 1):
        for number in range(blocks):
            ours = f"layer{group}.{number}"
            theirs = f"block_group{group}_{number}_1" if number else f"block_group_projection_block_group{group}"
            if not number:
                targets.append(_convolution(variables, f"{ours}.downsample.0", f"bottleneck_projection_{theirs}"))
                norms.append(f"{ours}.downsample.1")
            for layer in (1, 2, 3):
                targets.append(_convolution(variables, f"{ours}.conv{layer}", f"bottleneck_{layer}_{theirs}"))
                norms.append(f"{ours}.bn{layer}")
    targets += [
        target("fc.weight", variables.of("final_dense", WEIGHTS), DENSE, sparse=True),
        target("fc.bias", variables.of("final_dense", BIASES)),
    ]
    note = "it needs TensorFlow's padding of the first pooling, which openwork.study.experiments.resnet50:released has"
    return Mapping([*targets, *_norms(variables, norms)], (note,))


def model(state: dict[str, torch.Size]) -> nn.Module:
    """A ResNet-50 of the width and classes that a state's shapes tell, on the meta device.

    Args:
        state: The shape of each weight.
    """
    with torch.device("meta"):
        return ResNet(50, state["conv1.weight"][0] / 64, state["fc.weight"][0], same_pool=True)


def _convolution(variables: Variables, ours: str, theirs: str) -> Target:
    return target(f"{ours}.weight", variables.of(theirs, WEIGHTS), KERNEL, sparse=True)


def _norms(variables: Variables, ours: list[str]) -> list[Target]:
    """The batch norms in the order of their numbers."""
    found = {int(match[1] or 0): name for name in variables.names if (match := _NORM.fullmatch(name))}
    if len(found) != len(ours):
        raise ValueError(
            f"{variables.bundle.prefix} has {len(found)} batch norms, and a ResNet-50 has {len(ours)}, so which is "
            "which cannot be told; give a checkpoint of the release's ResNet-50"
        )
    targets = []
    for key, (_, gamma) in zip(ours, sorted(found.items()), strict=True):
        names = {part: gamma.removesuffix("gamma") + leaf for part, leaf in _PARTS.items()}
        targets += [target(f"{key}.{part}", name if name in variables else None) for part, name in names.items()]
    return targets


def _check_blocks(variables: Variables) -> None:
    found = [re.search(r"(?:^|/)bottleneck_1_block_group(\d)_(\d+)_1/", name) for name in variables.names]
    last = {group: max((int(m[2]) for m in found if m and int(m[1]) == group), default=0) for group in range(1, 5)}
    if any(last[group] >= blocks for group, blocks in enumerate(BLOCKS[50], 1)):
        counts = ", ".join(str(number + 1) for number in last.values())
        raise ValueError(
            f"{variables.bundle.prefix} has {counts} blocks in its groups, and a ResNet-50 has 3, 4, 6, 3; give a "
            "checkpoint of the release's ResNet-50"
        )
