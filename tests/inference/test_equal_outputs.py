"""When outputs count as equal: `accelerate` compares those of layers, and of the whole model."""

import math

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.inference.models import relative_difference
from tests.inference.test_accelerate import Free, X, sparse


@pytest.mark.parametrize(
    ("dense", "other", "difference"),
    [
        ([2.0, math.nan], [2.0, math.nan], 0.0),
        ([2.0, math.inf], [1.0, math.inf], 0.5),
        ([2.0, 1.0], [2.0, math.nan], math.inf),
        ([2.0, math.nan], [2.0, 1.0], math.inf),
        ([2.0, math.inf], [2.0, -math.inf], math.inf),
    ],
)
def test_nan_and_infinity_equal_themselves_alone(dense, other, difference):
    assert relative_difference(torch.tensor(dense), torch.tensor(other)) == difference


class Otherwise(Free):
    """A kernel that goes wrong with inputs that have infinity, which the inputs for timing layers do not have."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def convert(self, layer):
        form = super().convert(layer)
        free = form.forward
        form.forward = lambda x: free(x) if x.isfinite().all() else self.wrong(free, x)
        return form


def infinite():
    sample = X.clone()
    sample[0, 0] = math.inf
    return sample


def test_a_kernel_that_makes_numbers_of_the_samples_nan_is_not_taken():
    kernel = Otherwise(lambda free, x: free(x.nan_to_num(posinf=0.0)))  # in the dense layer it meets zeros
    accelerated = ow.accelerate(sparse(nn.Linear(256, 4096)), infinite(), alternatives=[kernel], rounds=4)
    assert [choice.reason for choice in accelerated.layers] == ["outputs of the model differ by inf"]


def test_each_output_has_the_tolerance_of_its_own_dtype():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(256, 4096)

        def forward(self, x):
            y = self.layer(x)[1:]
            return y, y.sign().bfloat16()  # equal in both: how bfloat16 rounds is not the question

    kernel = Otherwise(lambda free, x: free(x) * 1.01)  # within the tolerance of bfloat16, not of float32
    accelerated = ow.accelerate(sparse(Two()), infinite(), alternatives=[kernel], rounds=4)
    assert [choice.reason for choice in accelerated.layers] == ["outputs of the model differ by 0.01"]
