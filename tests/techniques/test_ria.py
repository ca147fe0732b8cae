"""RIA: weights relative to the sums of their row and column."""

import torch

import openwork as ow
from tests.techniques.one_shot import HALF, example, solved, unit


def test_ria_by_hand():
    weight = torch.tensor([[4.0, 1.0], [2.0, 1.0]])
    x = torch.diag(torch.tensor([1.0, 16.0]))  # norms 1 and 16, whose roots are 1 and 4
    # 4/6 + 4/5 = 1.47, (1/2 + 1/5) 4 = 2.8, 2/6 + 2/3 = 1, (1/2 + 1/3) 4 = 3.3
    assert solved(weight, x, ow.RIA(HALF)).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert solved(weight, x, ow.RIA(HALF, power=0.0)).tolist() == [[4.0, 0.0], [2.0, 0.0]]


def test_ria_with_power_zero_ignores_the_inputs():
    weight, x = example()
    technique = ow.RIA(HALF, power=0.0)
    assert torch.equal(solved(weight, x, technique), solved(weight, unit(48), technique))


def test_ria_is_the_same_for_larger_weights_and_larger_inputs():
    weight, x = example()
    plain = solved(weight, x, ow.RIA(HALF))
    assert torch.equal(solved(4 * weight, x, ow.RIA(HALF)), 4 * plain)
    assert torch.equal(solved(weight, 4 * x, ow.RIA(HALF)) != 0, plain != 0)


def test_ria_compares_the_whole_matrix_or_each_output():
    weight, x = example()
    whole, rows = (solved(weight, x, ow.RIA(HALF, pattern=p)) for p in (ow.Unstructured(), ow.PerOutput()))
    assert len(set((whole != 0).sum(1).tolist())) > 1
    assert set((rows != 0).sum(1).tolist()) == {24}
    for found in (whole, rows):
        assert torch.equal(found[found != 0], weight[found != 0])


def test_ria_rows_and_columns_of_zeros_are_no_division_by_zero():
    weight, x = example()
    weight[3], weight[:, 7] = 0, 0
    found = solved(weight, x, ow.RIA(HALF))
    assert found.isfinite().all()
    assert (found[3] == 0).all()
