"""The release's two models in NumPy, from a checkpoint's variables by their names: what TensorFlow would compute.

Written from tensor2tensor's and the paper's definitions, in TensorFlow's layouts; it shares no code with openwork.
"""

import re

import numpy as np

GAMMA, ZETA, EPSILON = -0.1, 1.1, 1e-8


class Weights:
    """The variables of one technique, and what evaluation computes with."""

    def __init__(self, variables, technique, threshold=None):
        self.variables, self.technique, self.threshold = variables, technique, threshold

    def matrix(self, scope, auxiliary="log_{}", mask="mask"):
        """The weights below a scope, after its mask, threshold or gates."""
        name = next(n for n in self.variables if re.fullmatch(rf"{scope}(/[^/]+)?/(weights|kernel)", n))
        return self._used(name, name.rpartition("/")[0])

    def shared(self, scope):
        names = sorted(n for n in self.variables if re.fullmatch(rf"{scope}/weights_\d+", n))
        parts = [self._used(name, None) for name in names]
        whole = np.concatenate(parts)
        return whole * self.variables[f"{scope}/mask"] if f"{scope}/mask" in self.variables else whole

    def _used(self, name, folder):
        weight = self.variables[name].astype(np.float64)
        if folder and f"{folder}/mask" in self.variables:
            return weight * self.variables[f"{folder}/mask"]
        if self.technique == "variational-dropout":
            log_sigma2 = self.variables[f"{folder}/log_sigma2" if folder else f"{name}_aux"]
            log_alpha = log_sigma2 - np.log(self.variables[name] ** 2 + EPSILON)
            return np.where(log_alpha < self.threshold, weight, 0)
        if self.technique == "l0":
            log_alpha = self.variables[f"{folder}/log_alpha" if folder else f"{name}_aux"].astype(np.float64)
            return weight * np.clip(1 / (1 + np.exp(-log_alpha)) * (ZETA - GAMMA) + GAMMA, 0, 1)
        return weight

    def vector(self, pattern):
        (name,) = (n for n in self.variables if re.fullmatch(pattern, n))
        return self.variables[name].astype(np.float64)


def transformer(weights, source, target, *, heads, layers, row):
    """Logits (T, vocabulary) of one sentence.

    Args:
        weights: `Weights`.
        source: Ids (S,), the last one the end.
        target: Ids (T,).
        heads, layers: Of the model.
        row: Of the target space.
    """
    (scope,) = {
        n.rpartition("/")[0]
        for n in weights.variables
        if re.fullmatch(r"[^/]+/symbol_modality_\w+/shared/weights_0", n)
    }
    embedding, body = weights.shared(scope), f"{scope.partition('/')[0]}/body"
    width = embedding.shape[1]

    def embed(ids):
        return embedding[ids] * width**0.5 * (ids != 0)[:, None]

    def timing(length):
        half = width // 2
        rates = np.exp(-np.arange(half) * np.log(1e4) / max(half - 1, 1))
        angles = np.arange(length)[:, None] * rates
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)

    def norm(x, place):
        scale, shift = (
            weights.vector(rf"{place}/layer_\w+/layer_norm/layer_norm_{leaf}") for leaf in ("scale", "bias")
        )
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + shift

    def attention(x, memory, seen, place):
        def part(letter, inputs):
            scope = f"{place}/multihead_attention/{letter}"
            if any(n.startswith(f"{scope}_shard_0/") for n in weights.variables):
                return inputs @ np.concatenate([weights.matrix(f"{scope}_shard_{h}") for h in range(heads)], 1)
            return inputs @ weights.matrix(scope)

        def split(y):
            return y.reshape(len(y), heads, -1).transpose(1, 0, 2)

        q, k, v = split(part("q", x)), split(part("k", memory)), split(part("v", memory))
        scores = (q * (width // heads) ** -0.5) @ k.transpose(0, 2, 1) + np.where(seen, 0, -1e9)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        return mixed.transpose(1, 0, 2).reshape(len(x), -1) @ weights.matrix(
            f"{place}/multihead_attention/output_transform"
        )

    def feed_forward(x, place):
        up, down = (weights.vector(rf"{place}/conv{n}(/fully_connected)?/bias(es)?") for n in (1, 2))
        hidden = np.maximum(x @ weights.matrix(f"{place}/conv1") + up, 0)
        return hidden @ weights.matrix(f"{place}/conv2") + down

    def layer(x, place, memory, earlier):
        y = norm(x, f"{place}/self_attention")
        x = x + attention(y, y, earlier, f"{place}/self_attention")
        if memory is not None:
            x = x + attention(norm(x, f"{place}/encdec_attention"), memory, True, f"{place}/encdec_attention")
        return x + feed_forward(norm(x, f"{place}/ffn"), f"{place}/ffn")

    space = weights.variables[f"{body}/target_space_embedding/kernel"].astype(np.float64)
    x = embed(source) + space[row] + timing(len(source))
    for number in range(layers):
        x = layer(x, f"{body}/encoder/layer_{number}", None, True)
    memory = norm(x, f"{body}/encoder")
    x = np.concatenate([np.zeros((1, width)), embed(target)[:-1]]) + timing(len(target))
    earlier = np.tril(np.ones((len(target), len(target)), bool))
    for number in range(layers):
        x = layer(x, f"{body}/decoder/layer_{number}", memory, earlier)
    return norm(x, f"{body}/decoder") @ embedding.T


def resnet50(weights, images):
    """Logits (N, classes) of images (N, H, W, 3)."""
    norms = iter(range(1_000))

    def convolution(x, name, stride=1):
        kernel = weights.matrix(f"resnet_model/{name}")
        size = kernel.shape[0]
        # For strides explicit padding and VALID, else SAME; for odd windows both are size // 2 on either side.
        x = np.pad(x, ((0, 0), ((size - 1) // 2,) * 2, ((size - 1) // 2,) * 2, (0, 0)))
        x = np.einsum("nhwcij,ijco->nhwo", windows(x, size, stride), kernel)
        number = next(norms)
        place = f"resnet_model/batch_normalization{f'_{number}' if number else ''}"
        gamma, beta, mean, variance = (
            weights.vector(f"{place}/{leaf}") for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def windows(x, size, stride):
        found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        return found[:, ::stride, ::stride]

    def same(length):
        total = max((-(-length // 2) - 1) * 2 + 3 - length, 0)
        return total // 2, total - total // 2

    x = np.maximum(convolution(images, "initial_conv", 2), 0)
    x = np.pad(x, ((0, 0), same(x.shape[1]), same(x.shape[2]), (0, 0)), constant_values=-np.inf)
    x = windows(x, 3, 2).max((-1, -2))
    for group, blocks in enumerate((3, 4, 6, 3), 1):
        for number in range(blocks):
            name = f"block_group{group}_{number}_1" if number else f"block_group_projection_block_group{group}"
            stride = 2 if group > 1 and not number else 1
            shortcut = x if number else convolution(x, f"bottleneck_projection_{name}", stride)
            y = np.maximum(convolution(x, f"bottleneck_1_{name}"), 0)
            y = np.maximum(convolution(y, f"bottleneck_2_{name}", stride), 0)
            x = np.maximum(convolution(y, f"bottleneck_3_{name}") + shortcut, 0)
    bias = weights.vector("resnet_model/final_dense(/final_dense)?/biases")
    return x.mean((1, 2)) @ weights.matrix("resnet_model/final_dense") + bias
