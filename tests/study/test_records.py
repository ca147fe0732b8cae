import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openwork.study.data.imagenet import HUB_NAME, check_class_count, check_same_classes, image_records
from openwork.study.data.records import open_records
from tests.study.pictures_on_disk import CLASSES, images, write_folders, write_parquet, write_tars

CONTENT = images(15)
WRITERS = {"parquet": write_parquet, "folders": write_folders, "tars": write_tars}


def content(records):
    return [(r.encoded, r.label) for block in range(len(records.blocks)) for r in records.read(block)]


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_same_images_in_the_same_order(tmp_path, form):
    WRITERS[form](tmp_path, "train", CONTENT)
    WRITERS[form](tmp_path, "val", CONTENT[:2])
    records = open_records(tmp_path, "train")
    assert content(records) == CONTENT
    assert records.blocks.tolist() == {"parquet": [4, 4, 4, 3], "folders": [1] * 15, "tars": [8, 7]}[form]
    assert records.classes == (None if form == "tars" else CLASSES)
    assert content(open_records(tmp_path, "validation")) == CONTENT[:2]  # "val" is its other name


def test_long_tars_are_read_in_pieces(tmp_path):
    write_tars(tmp_path / "train", "x", images(230), shards=1)
    records = open_records(tmp_path, "train")  # known by their folder
    assert records.blocks.tolist() == [100, 100, 30]
    assert content(records) == images(230)


def test_a_missing_split_or_folder_is_said(tmp_path):
    write_folders(tmp_path, "train", CONTENT)
    with pytest.raises(FileNotFoundError, match=r"has no split 'validation': neither validation\*.parquet, nor"):
        open_records(tmp_path, "validation")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        open_records(tmp_path / "nowhere", "train")
    write_parquet(tmp_path, "train", CONTENT)
    with pytest.raises(ValueError, match="holds the split 'train' in 2 forms; keep one"):
        open_records(tmp_path, "train")


def test_missing_shards_are_said(tmp_path):
    write_parquet(tmp_path / "p", "train", CONTENT, shards=3)
    (tmp_path / "p" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="shards missing or stored twice"):
        open_records(tmp_path / "p", "train")
    write_tars(tmp_path / "t", "train", CONTENT, shards=4)
    (tmp_path / "t" / "imagenet1k-train-0002.tar").unlink()
    with pytest.raises(ValueError, match=r"the 3 tar files .* are not numbered from 0 without a gap; missing: 2"):
        open_records(tmp_path / "t", "train")


def test_truncated_shards_are_said(tmp_path):
    write_parquet(tmp_path / "p", "train", CONTENT)
    write_tars(tmp_path / "t", "train", CONTENT)
    for path in (tmp_path / "p" / "train-00001-of-00002.parquet", tmp_path / "t" / "imagenet1k-train-0001.tar"):
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ValueError, match=rf"{path.name} is not a .* file.*fetch it again"):
            open_records(path.parent, "train")


def test_a_tar_cut_between_two_files_in_a_header_or_in_its_end_is_said(tmp_path):
    write_tars(tmp_path, "train", CONTENT, shards=1)
    path = tmp_path / "imagenet1k-train-0000.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third, end = archive.getmembers()[3].offset, archive.offset
    for kept in (third, third + 300, end, end + 512, end + 1000):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"train-0000.tar is cut off at byte {kept}: the empty end"):
            open_records(tmp_path, "train")
    path.write_bytes(whole[: end + 1024])
    assert content(open_records(tmp_path, "train")) == CONTENT


def test_a_tar_with_another_behind_it_or_a_damaged_header_is_said(tmp_path):
    write_tars(tmp_path, "train", CONTENT, shards=1)
    path = tmp_path / "imagenet1k-train-0000.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[3].offset
    for damaged in (whole + whole, whole[:third] + b"x" * 512 + whole[third + 512 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-0000.tar goes on after byte \d+, where its last file ends"):
            open_records(tmp_path, "train")


def test_a_shard_that_is_damaged_inside_is_said_when_it_is_read(tmp_path):
    write_parquet(tmp_path, "train", CONTENT, shards=1)
    path = tmp_path / "train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"row group 0 of .* cannot be read; fetch the file again"):
        open_records(tmp_path, "train").read(0)


def test_a_tar_that_shrinks_while_training_is_said(tmp_path):
    write_tars(tmp_path, "train", CONTENT, shards=1)
    records = open_records(tmp_path, "train")
    path = tmp_path / "imagenet1k-train-0000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is shorter than when training began"):
        records.read(0)


def test_tars_without_labels_are_said(tmp_path):
    write_tars(tmp_path, "train", [(data, -1) for data, _ in CONTENT])
    with pytest.raises(ValueError, match=r"the label of the image at byte \d+ of .* must be a number, got b'-1'"):
        open_records(tmp_path, "train").read(0)


IMAGE = {"bytes": CONTENT[0][0], "path": None}


@pytest.mark.parametrize(
    ("image", "label", "said"),
    [
        (CONTENT[0][0], 1, r"image of .*train.parquet must be struct<bytes, path>, got binary; save it with datasets'"),
        ({"path": "a.jpg"}, 1, "must be struct<bytes, path>, got struct<path: string>"),
        ({"bytes": "text"}, 1, "must be struct<bytes, path>, got struct<bytes: string>"),
        (IMAGE, "n01", r"label of .*train.parquet must be an integer, got string; number the classes"),
        (IMAGE, 1.0, "must be an integer, got double"),
        (IMAGE, True, "must be an integer, got bool"),
    ],
)
def test_columns_of_another_type_are_said_when_they_are_opened(tmp_path, image, label, said):
    pq.write_table(pa.table({"image": [image], "label": [label]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=said):
        open_records(tmp_path, "train")


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_split_without_images_is_said(tmp_path, write):
    write(tmp_path, "validation", CONTENT, shards=1)
    (file,) = tmp_path.iterdir()
    if write is write_tars:
        tarfile.open(file, "w").close()
    else:
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(ValueError, match=r"the split 'validation' of .* has no image; fetch it again"):
        open_records(tmp_path, "validation")


def test_class_lists_must_agree(tmp_path):
    write_folders(tmp_path, "train", CONTENT)
    write_folders(tmp_path, "val", CONTENT)
    train, validation = open_records(tmp_path, "train"), open_records(tmp_path, "validation")
    check_same_classes(train, validation)
    check_class_count(train, "training", 3)
    with pytest.raises(ValueError, match="the training images have 3 classes, and the model 1000"):
        check_class_count(train, "training", 1000)
    (tmp_path / "val" / "n02").rename(tmp_path / "val" / "n04")
    with pytest.raises(ValueError, match="class 1 is 'n02' in training and 'n03' in validation"):
        check_same_classes(train, open_records(tmp_path, "validation"))
    (tmp_path / "train" / "n05").mkdir()
    with pytest.raises(ValueError, match=r"the class .*n05 has no image"):
        open_records(tmp_path, "train")


def test_a_source_is_a_folder_or_a_name_on_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    write_folders(tmp_path / "mine", "train", CONTENT)
    assert len(image_records("mine", "train").blocks) == 15
    assert image_records("mine", "train") is image_records("mine", "train")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*other; put the images there, or name another"):
        image_records("other", "train")

    def download(name, repo_type, allow_patterns):
        if allow_patterns != ["*train-*.parquet"]:
            raise OSError("offline")
        write_parquet(tmp_path / "cache" / "data", "train", CONTENT)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert content(image_records("someone/images", "train")) == CONTENT
    with pytest.raises(FileNotFoundError, match=r"the hub gave no someone/images \(offline\); accept its terms"):
        image_records("someone/images", "validation")


def test_imagenet_itself_must_be_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    for split in ("train", "validation"):
        write_folders(tmp_path / HUB_NAME, split, CONTENT)
    with pytest.raises(ValueError, match=r"has 15 images in the split 'train', and ILSVRC/imagenet-1k has 1,281,167;"):
        image_records(HUB_NAME, "train")
    with pytest.raises(ValueError, match=r"has 15 images in the split 'validation', and .* has 50,000; fetch what is"):
        image_records(HUB_NAME, "validation")
    assert len(image_records(str(tmp_path / HUB_NAME), "train").blocks) == 15  # a folder by its path is not checked
