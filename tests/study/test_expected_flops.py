import json
import math

import pytest
import torch

import openwork as ow
from openwork.inspect.flops import count_flops
from openwork.study.runs.density import density
from openwork.study.runs.execute import execute
from openwork.study.runs.expected_flops import expected_flops
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.helpers import conv_net

OPEN = 1 / (1 + math.exp(-(0 - 2 / 3 * math.log(0.1 / 1.1))))  # P(z != 0) at log alpha = 0


def test_gates_of_one_convolution_by_hand():
    model, example = conv_net(), torch.randn(1, 2, 6, 6)
    dense = count_flops(model, example)  # 2304, 1280 and 100 FLOPs
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(0.0)), select=ow.matching("3.*"))
    with torch.no_grad():
        model[3].reparam.weight.log_alpha.zero_()
    (nonzero,) = sparsifier.expected_nonzero().values()
    assert nonzero == pytest.approx(OPEN * model[3].reparam.weight.log_alpha.numel())
    assert expected_flops(dense, density(sparsifier)) == pytest.approx((2304 + 1280 * OPEN + 100) / 3684)


def test_the_expected_number_is_that_of_many_draws():
    model = torch.nn.Linear(40, 50)
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(0.0), dropout=0.7))
    torch.manual_seed(0)
    draws = [int(model.weight.count_nonzero()) for _ in range(100)]
    mean = sum(draws) / 100
    assert abs(mean - sparsifier.expected_nonzero()["weight"]) < 6 * math.sqrt(2000 / 4 / 100)  # 6 sigma at most


@pytest.mark.parametrize(
    ("technique", "fraction"),
    [(ow.GradualMagnitude(ow.OneShot(0.5)), 0.5), (ow.VariationalDropout(ow.Constant(1e-4)), 1.0)],
    ids=lambda value: type(value).__name__,
)
def test_masks_save_their_zeros_and_gaussian_weights_nothing(technique, fraction):
    model = conv_net()
    dense = count_flops(model, torch.randn(1, 2, 6, 6))
    assert expected_flops(dense, density(ow.sparsify(model, technique))) == pytest.approx(fraction)


def test_each_evaluation_of_a_sparse_run_says_its_expected_flops(tmp_path):
    """The gates start open with probability sigmoid(0.847 + 1.599) = 0.920; a heavy penalty closes them."""
    task = DigitsLeNet300100(peak_learning_rate=0.05)
    runs = [Run(task, technique, steps=60) for technique in (ow.L0(ow.Constant(1.0), dropout=0.3), None)]
    for run in runs:
        execute(run, tmp_path, evaluations=3)
    l0, dense = (
        [json.loads(line) for line in (tmp_path / run.id / "metrics.jsonl").read_text().splitlines()] for run in runs
    )
    fractions = [row["expected_flops"] for row in l0]
    assert fractions == sorted(fractions, reverse=True)
    assert 0.92 > fractions[0] > fractions[2] > 0
    assert all("expected_flops" not in row for row in dense)
