"""The Triton kernel of Adam's steps beside its twin: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os

import pytest
import torch

from openwork.kernels import adam
from tests.kernels.stacked_cases import BETAS, EPS
from tests.kernels.test_adam import given

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(params=[16, 1024], ids=["several programs a model", "one program a model"])
def kernel(request, monkeypatch):
    from openwork.kernels.triton import adam as kernels

    monkeypatch.setattr(kernels, "BLOCK", request.param)
    return kernels.adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1,), (16,), (5, 7), (4, 3, 2, 2)], ids=str)
def test_a_step_is_that_of_the_plain_twin(kernel, shape, weight_decay):
    tensors, scales, _ = given(shape, DEVICE)
    other = [each.clone() for each in tensors]
    kernel(*tensors, scales, *BETAS, EPS, weight_decay)
    adam.adam_plain(*other, scales, *BETAS, EPS, weight_decay)
    for one, twin in zip(tensors, other, strict=True):
        assert torch.allclose(one, twin, rtol=1e-5, atol=1e-7)


def test_what_is_masked_becomes_0_and_nan_stays_with_its_member(kernel):
    tensors, scales, mask = given((5, 7), DEVICE)
    spoilt = [each.clone() for each in tensors]
    spoilt[3][1] = float("nan")
    for each in (tensors, spoilt):
        kernel(*each, scales, *BETAS, EPS, 0.0)
    assert not any(each[~mask].any() for each in spoilt[:3])
    assert spoilt[2][~mask].signbit().all()
    assert spoilt[0][1][mask[1]].isnan().all()
    assert all(torch.equal(one[::2], other[::2]) for one, other in zip(tensors[:3], spoilt[:3], strict=True))


def test_models_without_numbers_are_taken(kernel):
    tensors, scales, _ = given((0,), DEVICE)
    kernel(*tensors, scales, *BETAS, EPS, 0.0)
