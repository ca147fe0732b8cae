"""Least squares under a fixed mask equals dense solves, output by output."""

import pytest
import torch

from openwork.core.least_squares import refit
from openwork.core.masks.input_products import InputProducts, add_products


def problem(out=5, inputs=12, rows=40, dtype=torch.float64, matrices=()):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*matrices, out, inputs, generator=generator, dtype=dtype)
    x = torch.randn(*matrices, rows, inputs, generator=generator, dtype=dtype)
    x = x @ torch.randn(inputs, inputs, generator=generator, dtype=dtype)  # inputs that depend on each other
    mask = torch.rand(*matrices, out, inputs, generator=generator) < 0.5
    return weight, x, mask


def solved(goal, mask, damped):
    """One output after the other, by a dense solve of (G + ridge)_SS w_S = goal_S."""
    found = torch.zeros_like(goal)
    for row, keep in enumerate(mask):
        found[row, keep] = torch.linalg.solve(damped[keep][:, keep], goal[row, keep])
    return found


def damped(x, ridge=0.01):
    products = x.T @ x
    return products + ridge * products.diagonal().mean() * torch.eye(len(products), dtype=x.dtype)


def test_refit_is_the_dense_solution_of_every_output():
    weight, x, mask = problem()
    expected = solved(weight @ damped(x), mask, damped(x))
    found = refit(weight, mask, x.T @ x, tolerance=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (found[~mask] == 0).all()


def test_refit_solves_every_matrix_of_several_with_its_own_products():
    weight, x, mask = problem(matrices=(3,))
    products = x.transpose(1, 2) @ x
    together = refit(weight, mask, products, tolerance=1e-12)
    for one in range(3):
        alone = solved(weight[one] @ damped(x[one]), mask[one], damped(x[one]))
        torch.testing.assert_close(together[one], alone, rtol=1e-9, atol=1e-9)
    shared = refit(weight, mask, products[0], tolerance=1e-12)
    torch.testing.assert_close(shared[2], solved(weight[2] @ damped(x[0]), mask[2], damped(x[0])))


def test_refit_where_it_begins_does_not_matter_but_what_it_is_to_meet_does():
    weight, x, mask = problem()
    begun = refit(weight * mask, mask, x.T @ x, dense=weight, tolerance=1e-12)
    torch.testing.assert_close(begun, refit(weight, mask, x.T @ x, tolerance=1e-12))
    other = refit(weight, mask, x.T @ x, dense=2 * weight, tolerance=1e-12)
    torch.testing.assert_close(other, 2 * begun)


def test_refit_to_outputs_for_other_inputs():
    weight, x, mask = problem()
    dense_inputs = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    targets = weight @ dense_inputs.T @ x
    expected = solved(targets, mask, x.T @ x)
    found = refit(weight, mask, x.T @ x, targets=targets, ridge=0.0, tolerance=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_refit_with_every_weight_kept_changes_nothing():
    weight, x, mask = problem()
    torch.testing.assert_close(refit(weight, torch.ones_like(mask), x.T @ x), weight)


def test_refit_leaves_weights_of_inputs_that_are_always_zero():
    weight, x, mask = problem()
    x[:, 3] = 0
    found = refit(weight, mask, x.T @ x, tolerance=1e-12)
    torch.testing.assert_close(found[:, 3], (weight * mask)[:, 3])
    assert refit(weight, mask, x.T @ x, ridge=0.0).isfinite().all()


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_refit_of_a_layer_without_data_or_with_too_few_rows_stays_finite(ridge):
    weight, x, mask = problem()
    nothing = refit(weight, mask, torch.zeros(12, 12, dtype=torch.float64), ridge=ridge)
    assert torch.equal(nothing, weight * mask)
    few = refit(weight, mask, x[:2].T @ x[:2], ridge=ridge)
    assert few.isfinite().all()
    assert (few[~mask] == 0).all()


def test_refit_an_output_that_keeps_nothing_is_zero():
    weight, x, mask = problem()
    mask[2] = False
    assert (refit(weight, mask, x.T @ x)[2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_refit_works_in_float32_at_least(dtype):
    weight, x, mask = problem(dtype=torch.float32)
    found = refit(weight.to(dtype), mask, x.T @ x)
    assert found.dtype == torch.float32
    exact = refit(weight.to(dtype).double(), mask, (x.T @ x).double(), tolerance=1e-12)
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-2)


def test_refit_says_what_does_not_fit():
    weight, x, mask = problem()
    with pytest.raises(ValueError, match=r"products of shape \(11, 11\) do not fit .*\(5, 12\); pass X"):
        refit(weight, mask, torch.eye(11))
    with pytest.raises(ValueError, match=r"must have one shape, got \(5, 12\) and \(5, 11\)"):
        refit(weight, mask[:, :11], x.T @ x)
    products = x.T @ x
    products[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinities; check the calibration batches"):
        refit(weight, mask, products)


@pytest.mark.parametrize("size", [1, 7, 256, 300])
def test_products_panel_by_panel_are_those_of_all_columns(size):
    x = torch.randn(20, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.zeros(size, size, dtype=torch.float64)
    add_products(found, x[:8])
    add_products(found, x[8:])
    torch.testing.assert_close(found, x.T @ x)


def test_input_products_sum_all_rows_and_count_them():
    evidence, kept = InputProducts(inputs=True), {}
    x = torch.arange(6.0).view(3, 2)
    evidence.input(kept, x[:1])
    evidence.input(kept, x[1:])
    assert kept["products"].tolist() == [[20.0, 26.0], [26.0, 35.0]]
    assert int(kept["rows"]) == 3
