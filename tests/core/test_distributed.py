"""Data-parallel training: two processes with gloo end with the same masks, zeros, weights and statistics."""

import pytest
import torch

import openwork as ow
from tests.processes import output_of, run_two, start_afresh
from tests.programs.batch_norms import batches, network


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


def test_two_processes_recalibrate_batch_norms_to_the_statistics_of_all_batches(tmp_path):
    first, second = (output.splitlines() for output in run_two("batch_norms", tmp_path))
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    whole = network()
    ow.recalibrate_batchnorm(whole, batches(3, 0) + batches(2, 1))
    for name, value in whole[1].state_dict().items():
        torch.testing.assert_close(states[0][name], value)
    assert states[0]["reached running_mean"].tolist() == [2.0, 2.0]  # no batch of the second process reached it
    # Of an error in one process both learn, and neither model changes.
    assert first[0] == "there is no batch to take statistics from | True"
    assert second[0] == "recalibrate_batchnorm failed in another process | True"
    # A plain model is one process's own, and needs no other process.
    whole = network()
    ow.recalibrate_batchnorm(whole, batches(3, 0))
    alone = torch.load(tmp_path / "alone.pt")
    assert all(torch.equal(alone[name], value) for name, value in whole[1].state_dict().items())
    assert first[1] == "there is no batch to take statistics from | True"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one process has nobody to synchronize with")
def test_a_synchronized_batch_norm_has_the_statistics_of_whole_batches(tmp_path):
    processes = [start_afresh("batch_norms_gpu", rank, tmp_path, 2) for rank in range(2)]
    assert output_of(*processes) == ["same\n"] * 2
