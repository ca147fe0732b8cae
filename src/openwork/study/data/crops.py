"""The crops of ImageNet training and evaluation: Szegedy et al. 2015 (arXiv:1409.4842), as Gale et al. 2019 have them.

The rule for a random crop is that of TensorFlow's `sample_distorted_bounding_box`, which the paper's code calls.
"""

import io
import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

AREA, ASPECT, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
_COVERED = 0.1  # of an object; the paper's code gives the whole image as the only one
_BORDER = 224 / 256  # of the shorter side, for evaluation

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels, the last two exclusive."""


class UnreadableImageError(ValueError):
    """Bytes that are no image."""


def random_box(height: int, width: int, random: np.random.Generator) -> Box:
    """A crop of 10 % to 100 % of the area with an aspect ratio (width / height) of 3/4 to 4/3, anywhere in the image.

    First the ratio is drawn uniformly, then the height uniformly among those that fit and give at least 8 %, then the
    place; a crop that covers less than 10 % is drawn again. Where ten attempts give no such crop, as for a panorama, it
    is `center_box`.
    """
    for _ in range(ATTEMPTS):
        ratio = random.uniform(*ASPECT)
        low, high = (round(math.sqrt(area * height * width / ratio)) for area in AREA)
        high = min(high, height, math.floor((width + 0.5 - 1e-7) / ratio))
        rows = int(random.integers(low, high + 1)) if low < high else high
        columns = round(rows * ratio)
        if rows < 1 or not 1 <= columns <= width or not _COVERED <= rows * columns / (height * width) <= AREA[1]:
            continue
        top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
        return left, top, left + columns, top + rows
    return center_box(height, width)


def center_box(height: int, width: int) -> Box:
    """The square in the middle whose side is 224/256 of the shorter side of the image."""
    side = max(int(_BORDER * min(height, width)), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return left, top, left + side, top + side


def decoded(encoded: bytes) -> Pixels:
    """The RGB pixels (height, width, 3) of a JPEG, PNG or other image file.

    simplejpeg decodes JPEGs; Pillow decodes what simplejpeg refuses (CMYK, files with small faults) and other formats.

    Raises:
        UnreadableImageError: Where Pillow cannot decode it either.
        ImportError: Without the two libraries.
    """
    try:
        import simplejpeg
        from PIL import Image
    except ImportError as error:
        raise ImportError(f'decoding images needs {error.name}: pip install "openwork[study]"') from error
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        if height * width <= (Image.MAX_IMAGE_PIXELS or math.inf):  # beyond it, Pillow decides
            pixels: Pixels = simplejpeg.decode_jpeg(encoded, "RGB")
            return pixels
    except ValueError:
        pass  # no JPEG, or one that only Pillow takes
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow: OSError, SyntaxError, ValueError, struct.error and others
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def resized(pixels: Pixels, box: Box, size: int) -> Pixels:
    """A box of an image as (size, size, 3) pixels: bicubic with a = -0.5, filtered where it shrinks.

    Args:
        pixels: (height, width, 3).
        box: The part to take.
        size: Height and width of the result.
    """
    left, top, right, bottom = box
    crop = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    crop = crop.contiguous(memory_format=torch.channels_last)  # for this layout torch has a fast kernel
    small = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)
    result: Pixels = small[0].permute(1, 2, 0).contiguous().numpy()
    return result


def unfiltered(pixels: Pixels, box: Box, size: int) -> Pixels:
    """A box of an image as (size, size, 3) pixels: TensorFlow 1's bicubic, a = -0.75, of 4 x 4 pixels at any scale.

    Args:
        pixels: (height, width, 3).
        box: The part to take.
        size: Height and width of the result.
    """
    left, top, right, bottom = box
    crop = pixels[top:bottom, left:right].astype(np.float32)
    rows = np.einsum("hkwc,hk->hwc", crop[_neighbours(bottom - top, size)], _weights(bottom - top, size))
    both = np.einsum("hwkc,wk->hwc", rows[:, _neighbours(right - left, size)], _weights(right - left, size))
    result: Pixels = np.clip(np.rint(both), 0, 255).astype(np.uint8)
    return result


def _places(length: int, size: int) -> npt.NDArray[np.float32]:
    """Where the pixels of the result lie: corners at corners, not centres at centres."""
    return np.arange(size, dtype=np.float32) * np.float32(length / size)


def _neighbours(length: int, size: int) -> npt.NDArray[np.int64]:
    """The four pixels, (size, 4)."""
    first = np.floor(_places(length, size)).astype(np.int64) - 1
    found: npt.NDArray[np.int64] = np.clip(first[:, None] + np.arange(4), 0, length - 1)
    return found


def _weights(length: int, size: int) -> npt.NDArray[np.float32]:
    """Their weights, (size, 4), which TensorFlow takes from a table in steps of 1/1024."""
    places = _places(length, size)
    part = np.rint((places - np.floor(places)) * 1024) / 1024
    a, near, far = -0.75, np.stack([part, 1 - part]), np.stack([1 + part, 2 - part])
    inner = ((a + 2) * near - (a + 3)) * near**2 + 1
    outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    return np.stack([outer[0], inner[0], inner[1], outer[1]], 1).astype(np.float32)
