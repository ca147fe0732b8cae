import numpy as np
import pytest

from openwork.study.data.order import epoch_order, image_random, share, streams

BLOCKS = np.array([100] * 40 + [37])  # 4,037 images


def test_an_epoch_has_every_image_at_most_once_and_leaves_out_what_fills_no_batch():
    order = epoch_order(BLOCKS, 64, seed=0, epoch=0)
    assert order.shape == (63, 64)
    assert len(np.unique(order)) == 63 * 64
    left_out = [{*range(4037)} - {*epoch_order(BLOCKS, 64, seed=0, epoch=epoch).ravel()} for epoch in range(5)]
    assert len(set.union(*left_out)) > 5  # 5 of 4,037 each time, not always the same


def test_seeds_and_epochs_have_their_own_order():
    orders = [epoch_order(BLOCKS, 64, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all((a != b).mean() > 0.99 for n, a in enumerate(orders) for b in orders[:n])
    assert np.array_equal(orders[3], epoch_order(BLOCKS, 64, seed=1, epoch=1))


def test_a_stream_reads_one_block_after_the_other():
    order = epoch_order(BLOCKS, 8, seed=0, epoch=0)  # 8 streams, one image of each in a batch
    for stream in range(8):
        blocks = order[:, stream] // 100
        changes = int((np.diff(blocks) != 0).sum())
        assert changes <= 504 // 37 + 1
        assert changes + 1 == len(np.unique(blocks))  # never back to an old one


def test_images_of_their_own_blocks_are_shuffled_fully():
    order = epoch_order(np.ones(4000, dtype=np.int64), 10, seed=0, epoch=0).ravel()
    assert abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 6 / 4000**0.5  # 6 sigma


@pytest.mark.parametrize(("batch_size", "count"), [(1024, 256), (100, 100), (300, 150), (257, 1), (1, 1)])
def test_streams_divide_the_batch(batch_size, count):
    assert streams(batch_size) == count


def test_an_images_random_numbers_are_its_own():
    first = image_random(0, 3, 17).random()
    assert first == image_random(0, 3, 17).random()
    assert len({image_random(*key).random() for key in ((0, 3, 17), (1, 3, 17), (0, 4, 17), (0, 3, 18))}) == 4


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_cover_every_image_once(processes):
    parts = [range(*share(50, rank, processes)) for rank in range(processes)]
    assert [number for part in parts for number in part] == list(range(50))


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be in \[1, 4037\], the number of images, got 5000"):
        epoch_order(BLOCKS, 5000, seed=0, epoch=0)
