"""Factors of X Xᵀ, also where it is singular."""

import pytest
import torch

from openwork.core.factors import backward_root, cholesky, damped, invert_upper

X = torch.randn(30, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_backward_root_is_upper_and_the_inverse_of_the_root_of_the_inverse():
    products = X.T @ X
    root = backward_root(products, "w")
    assert torch.equal(root, root.triu())
    torch.testing.assert_close(root @ root.T, products)
    torch.testing.assert_close(invert_upper(root), torch.linalg.cholesky(torch.linalg.inv(products), upper=True))
    of_two = backward_root(torch.stack([products, 2 * products]), "w")
    torch.testing.assert_close(of_two[1], root * 2**0.5)


def test_damping_is_a_share_of_the_mean_and_one_without_data():
    assert damped(torch.diag(torch.tensor([1.0, 3.0])), 0.5).tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert damped(torch.zeros(2, 2), 0.5).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_matrix_is_damped_until_it_has_a_factor(dtype):
    few = (X[:2].T @ X[:2]).to(dtype)
    factor = cholesky(few - 1e-7 * torch.eye(9, dtype=dtype), "w")
    assert factor.dtype == dtype
    torch.testing.assert_close(factor @ factor.T, few, rtol=0.02, atol=0.02 * float(few.diagonal().mean()))


def test_what_has_no_factor_is_named_in_one_sentence():
    with pytest.raises(ValueError, match=r"inputs of fc.weight has no Cholesky factor .*; check the calibration"):
        cholesky(torch.full((3, 3), torch.nan), "fc.weight")
