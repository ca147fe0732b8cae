"""Data-parallel training: two processes with gloo end with the same masks, zeros and weights."""

from tests.processes import run_two


def test_two_processes_end_with_the_same_sparse_weights(tmp_path):
    output, _ = run_two("data_parallel", tmp_path)
    lines = [line.split() for line in output.splitlines()]
    techniques = ["GradualMagnitude", "GradualMagnitude", "RandomPruning", "VariationalDropout", "L0"]
    assert [name for name, _ in lines] == techniques
    # 128 and 64 weights at 0.8: 103 + 52 zeros
    assert [int(count) for _, count in lines[:3]] == [155, 155, 155]


def test_both_processes_raise_where_the_calibration_of_one_fails(tmp_path):
    first, second = (output.splitlines() for output in run_two("calibrations", tmp_path))
    assert first == ["[3] torch.int64", "the file is gone"]
    assert second == ["[3] torch.int64", "the calibration failed in another process; see the error there"]


def test_processes_that_began_with_other_weights_do_not_train_on_other_masks(tmp_path):
    first, second = (output.splitlines() for output in run_two("unequal_seeds", tmp_path))
    assert first == ["1", "1"]  # its weights are those that DistributedDataParallel has copied
    assert [line.partition("start all processes from one seed")[1] for line in second] == [
        "start all processes from one seed",
        "start all processes from one seed",
    ]
