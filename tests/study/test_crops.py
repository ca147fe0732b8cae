import io

import numpy as np
import pytest
from PIL import Image

from openwork.study.data.crops import UnreadableImageError, center_box, decoded, random_box, resized, unfiltered


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    """Smooth noise: JPEG keeps it nearly as it is."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_the_evaluation_crop_by_hand():
    # 375 · 224 / 256 = 328.125 -> 328; (375 - 328 + 1) // 2 = 24; (500 - 328 + 1) // 2 = 86
    assert center_box(375, 500) == (86, 24, 86 + 328, 24 + 328)
    assert center_box(256, 256) == (16, 16, 240, 240)
    assert center_box(1, 9) == (4, 0, 5, 1)


def test_training_crops_have_the_area_the_ratio_and_every_place():
    random = np.random.default_rng(0)
    boxes = np.array([random_box(300, 400, random) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    assert left.min() == 0 == top.min()
    assert (right.max(), bottom.max()) == (400, 300)
    shares = width * height / 120_000
    assert shares.min() >= 0.1
    assert (shares < 0.12).any()
    assert (shares > 0.95).any()
    ratios = width / height
    assert 0.74 < ratios.min() < 0.76  # whole pixels
    assert 1.32 < ratios.max() < 1.35
    assert abs(ratios.mean() - 25 / 24) < 6 * 0.17 / 2000**0.5  # uniform on [3/4, 4/3]: deviation 7/12 / sqrt(12)


def test_a_panorama_that_holds_no_such_crop_gets_the_centre_crop():
    # The largest crop is 100 x 133, 2.7 % of 100 x 5000.
    assert random_box(100, 5_000, np.random.default_rng(0)) == center_box(100, 5_000)
    assert random_box(1, 1, np.random.default_rng(0)) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "L", "RGBA", "P", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_format_and_mode_becomes_rgb(kind, mode):
    image = Image.new("I;16", (30, 40)) if mode == "I;16" else Image.fromarray(noise(40, 30)).convert(mode)
    pixels = decoded(encoded(image, kind))
    assert (pixels.shape, pixels.dtype) == ((40, 30, 3), np.uint8)


def test_jpegs_are_decoded_as_by_pillow():
    data = encoded(Image.fromarray(noise(120, 97)), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decoded(data), np.asarray(image))


@pytest.mark.parametrize(("box", "size"), [((3, 5, 90, 111), 64), ((0, 0, 20, 30), 64), ((10, 0, 97, 120), 33)])
def test_crops_are_resized_as_by_pillow(box, size):
    pixels = noise(120, 97)
    expected = Image.fromarray(pixels).crop(box).resize((size, size), Image.Resampling.BICUBIC)
    difference = resized(pixels, box, size).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1  # torch rounds its weights differently


def test_what_is_no_image_is_said(monkeypatch):
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    for data in (b"", b"no image", whole[: len(whole) // 2], b"\xff\xd8\xff"):
        with pytest.raises(UnreadableImageError):
            decoded(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        decoded(whole)


def test_unfiltered_resizing_is_tensorflow_ones():
    # tf.raw_ops.ResizeBicubic(align_corners=False, half_pixel_centers=False) of TensorFlow 2.21.0.
    smaller = [[0.0, 209.3634, 95.7942], [70.0857, 64.1935, 140.7149], [147.2996, 122.9403, 191.0360]]
    larger = [63.275, 131.366, 191.584, 165.128, 78.674, 16.291, 16.269]
    for size, shape, expected in ((3, (5, 5, 3), np.array(smaller)), (7, (3, 3, 3), np.array(larger))):
        pixels = (np.arange(np.prod(shape)).reshape(shape) * 37 % 256).astype(np.uint8)
        padded = np.pad(pixels, ((1, 2), (3, 1), (0, 0)), constant_values=255)
        found = unfiltered(padded, (3, 1, 3 + shape[1], 1 + shape[0]), size)
        assert found.shape == (size, size, 3)
        assert np.array_equal(found[..., 0] if size == 3 else found[1, :, 1], np.rint(expected).astype(np.uint8))


def test_unfiltered_resizing_to_the_same_size_changes_nothing_and_never_leaves_the_range_of_pixels():
    pixels = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (9, 9, 3))
    assert np.array_equal(unfiltered(pixels, (0, 0, 9, 9), 9), pixels)
    assert {0, 255} <= set(np.unique(unfiltered(pixels, (0, 0, 9, 9), 20)))
