import multiprocessing
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.study.data import loader
from openwork.study.data.crops import center_box, decoded, resized
from openwork.study.data.imagenet import normalized
from openwork.study.data.loader import Unreadable, evaluation_batches, training_batches
from openwork.study.data.reader import IGNORED
from openwork.study.data.records import open_records
from tests.study.pictures_on_disk import images, write_folders, write_parquet

CPU = torch.device("cpu")
CONTENT = images(30)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("OPENWORK_WORKERS", "0")


@pytest.fixture
def records(tmp_path):
    write_parquet(tmp_path, "train", CONTENT)
    return open_records(tmp_path, "train")


def batches(records, count, batch_size=8, *, start=0, seed=0, rank=0, processes=1):
    """The images, labels and mirrorings of ``count`` batches."""
    options = {"size": 16, "classes": 3, "seed": seed, "device": CPU, "rank": rank, "processes": processes}
    return [flat(b) for b in islice(training_batches(records, batch_size, start=start, **options), count)]


def stream(records, device=CPU):
    """Endless batches of 8."""
    return training_batches(records, 8, size=16, classes=3, seed=0, start=0, device=device)


def evaluated(records):
    """The images, labels and mirrorings of the batches of an evaluation, two images in each."""
    return [flat(b) for b in evaluation_batches(records, range(30), 2, size=16, classes=3, device=CPU)]


def flat(batch):
    return torch.cat([batch.images.flatten(), batch.labels, batch.mirrored])


def shared_memory():
    """How much this process shares with those that it forks, as parts of its memory."""
    return sum("/dev/zero" in line for line in Path("/proc/self/maps").read_text().splitlines())


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", ["1", "2", "3"])  # 8 images are no multiple of 3
def test_the_number_of_workers_changes_nothing(records, monkeypatch, workers):
    expected = batches(records, 10)  # 3 batches an epoch
    monkeypatch.setenv("OPENWORK_WORKERS", workers)
    assert same(batches(records, 10), expected)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_batch_stays_what_it_is_while_others_are_read(records, monkeypatch, workers):
    expected = [batch.images.clone() for batch in islice(stream(records), 6)]
    monkeypatch.setenv("OPENWORK_WORKERS", workers)
    kept = [batch.images for batch in islice(stream(records), 6)]  # 4 have room in the shared memory
    assert same(kept, expected)


def test_shared_memory_is_not_written_to_before_the_batch_in_it_is_copied(records, monkeypatch):
    expected_training, expected_evaluation = batches(records, 6), evaluated(records)
    monkeypatch.setenv("OPENWORK_WORKERS", "2")
    copied = loader._copied
    monkeypatch.setattr(loader, "_copied", lambda *arguments: time.sleep(0.02) or copied(*arguments))
    assert same(batches(records, 6), expected_training)
    assert same(evaluated(records), expected_evaluation)


def test_whoever_stops_early_leaves_no_process_and_no_memory_behind(records, monkeypatch):
    monkeypatch.setenv("OPENWORK_WORKERS", "2")
    before = shared_memory()
    found = stream(records)
    next(found)
    assert len(multiprocessing.active_children()) == 2
    assert shared_memory() > before
    found.close()
    assert not multiprocessing.active_children()
    assert shared_memory() == before


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_cpu(records, monkeypatch):
    expected = batches(records, 10)
    monkeypatch.setenv("OPENWORK_WORKERS", "2")
    kept = list(islice(stream(records, torch.device("cuda")), 10))
    assert {tensor.device.type for batch in kept for tensor in vars(batch).values()} == {"cuda"}
    assert same([flat(batch).cpu() for batch in kept], expected)


@pytest.mark.parametrize("start", [1, 3, 4, 10])
def test_a_resumed_run_sees_what_it_would_have_seen(records, start):
    assert same(batches(records, 2, start=start), batches(records, start + 2)[start:])


def test_the_processes_shares_are_the_batch_of_one(records):
    options = {"size": 16, "classes": 3, "seed": 0, "start": 0, "device": CPU}
    whole = next(training_batches(records, 8, **options))
    shares = [next(training_batches(records, 8, rank=rank, processes=4, **options)) for rank in range(4)]
    assert torch.equal(whole.images, torch.cat([share.images for share in shares]))
    assert torch.equal(whole.labels, torch.cat([share.labels for share in shares]))
    parts = whole.parts(4)
    assert all(torch.equal(part.mirrored, share.mirrored) for part, share in zip(parts, shares, strict=True))


def test_epochs_and_seeds_have_their_own_crops_and_torchs_generator_is_left_alone(records):
    state = torch.get_rng_state()
    found = batches(records, 6) + batches(records, 3, seed=1)
    assert len({tensor.numpy().tobytes() for tensor in found}) == 9
    assert torch.equal(state, torch.get_rng_state())


def test_every_block_is_read_once_an_epoch(records, monkeypatch):
    reads = []
    read = type(records).read
    monkeypatch.setattr(type(records), "read", lambda self, block: reads.append(block) or read(self, block))
    batches(records, 15, batch_size=2)  # one epoch in two streams of 15 images, the border inside block 3 or 4
    assert len(reads) in (8, 9)
    assert set(reads) == set(range(8))


def test_evaluation_has_each_image_once_in_order_as_its_centre_crop(records):
    found = list(evaluation_batches(records, range(3, 30), 8, size=16, classes=3, device=CPU))
    assert [len(batch) for batch in found] == [8, 8, 8, 3]  # 27 is no multiple of 8
    assert torch.cat([batch.labels for batch in found]).tolist() == [label for _, label in CONTENT[3:]]
    image = decoded(CONTENT[3][0])
    expected = resized(image, center_box(*image.shape[:2]), 16)
    assert np.array_equal(found[0].images[0].permute(1, 2, 0), expected)
    assert not any(batch.mirrored.any() for batch in found)
    assert found[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_that_cannot_be_decoded_are_counted_and_left_out(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("OPENWORK_WORKERS", workers)
    broken = [(b"no image" if n == 5 else None if n == 9 else data, label) for n, (data, label) in enumerate(CONTENT)]
    write_parquet(tmp_path, "train", broken)
    records = open_records(tmp_path, "train")
    with pytest.warns(UserWarning, match="cannot be decoded") as caught:
        found = list(evaluation_batches(records, range(30), 10, size=16, classes=3, device=CPU))
    labels = torch.cat([batch.labels for batch in found])
    first, second = (str(warning.message) for warning in caught)
    assert first.startswith("row 1 in row group 1 of")
    assert second.endswith("; it counts as wrong, as 2 of 10 images so far in this process")
    assert len(labels) == 30
    assert torch.nonzero(labels == IGNORED).flatten().tolist() == [5, 9]
    assert (found[0].images[5] == 128).all()


def test_training_says_that_they_are_left_out_of_the_loss(tmp_path):
    write_parquet(tmp_path, "train", [(b"no image", 0), *CONTENT])
    with pytest.warns(UserWarning, match=r"it is left out of the loss, as 1 of \d+ images so far in this process"):
        batches(open_records(tmp_path, "train"), 4)


def test_the_first_ten_are_warned_of_and_then_each_power_of_ten():
    counter = Unreadable("is left out")
    counter.add(200_000, [])
    with pytest.warns(UserWarning, match="x cannot be decoded") as caught:
        counter.add(0, ["x cannot be decoded"] * 1_500)
    said = [str(warning.message).partition("left out, ")[2] for warning in caught]
    counts = [*map(str, range(1, 11)), "100", "1,000"]
    assert said == [f"as {count} of 200,000 images so far in this process" for count in counts]


def test_too_many_broken_images_end_it():
    counter = Unreadable("is left out")
    counter.add(5_000, [])
    with pytest.warns(UserWarning, match="x cannot be decoded"):
        counter.add(0, ["x cannot be decoded"] * 60)
    with pytest.raises(ValueError, match=r"61 of 5,000 images cannot be decoded, the last one: y"):
        counter.add(0, ["y cannot be decoded"])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_labels_and_shards_that_are_wrong_end_it_in_one_sentence(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("OPENWORK_WORKERS", workers)
    write_parquet(tmp_path / "a", "train", [(data, -1) for data, _ in CONTENT])
    with pytest.raises(
        ValueError, match=r"^the label of row 0 in row group 0 of .* must be in \[0, 3\), got -1; is it"
    ):
        list(evaluation_batches(open_records(tmp_path / "a", "train"), range(30), 8, size=16, classes=3, device=CPU))
    write_folders(tmp_path / "b", "train", CONTENT)
    records = open_records(tmp_path / "b", "train")
    (tmp_path / "b" / "train" / "n01" / "n01_0000.JPEG").unlink()
    with pytest.raises(ValueError, match=r"No such file or directory: .*n01_0000\.JPEG"):
        list(evaluation_batches(records, range(30), 8, size=16, classes=3, device=CPU))


def test_a_worker_that_is_killed_is_said_in_one_sentence_where_its_images_are_missing(records, monkeypatch):
    monkeypatch.setenv("OPENWORK_WORKERS", "2")
    found = stream(records)
    next(found)
    worker, _ = multiprocessing.active_children()
    worker.kill()
    time.sleep(0.3)  # a training step; torch's handler of signals would raise here
    with pytest.raises(OSError, match=r"^a process that reads images died, perhaps for lack of memory; start fewer"):
        list(islice(found, 10))
    assert not multiprocessing.active_children()


def test_impossible_arguments_are_refused(records, monkeypatch):
    with pytest.raises(ValueError, match="batch_size 8 must divide by the number of processes, 3"):
        batches(records, 1, processes=3)
    monkeypatch.setenv("OPENWORK_WORKERS", "two")
    with pytest.raises(ValueError, match="OPENWORK_WORKERS must be a number of processes, 0 for none, got 'two'"):
        batches(records, 1)


def test_normalising_and_mirroring_by_hand():
    images = torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8).view(2, 1, 1, 2).expand(2, 3, 1, 2)
    found = normalized(images, torch.tensor([False, True]))
    low = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    high = [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    assert found[0, :, 0, 0].tolist() == pytest.approx(low)
    assert found[0, :, 0, 1].tolist() == pytest.approx(high)
    assert torch.equal(found[1], found[0].flip(2))
