"""Images as float arrays of (N, H, W, C) in [0, 1]: how alike they are, and how they look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compilekit.errors import StepError

Array = NDArray[np.floating[Any]]

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST, _IN_A_ROW = 16, 4
_TYPICAL = 0.995
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def psnr(a: Array, b: Array) -> float:
    """Peak signal-to-noise ratio in dB, of the worst image; infinite for equal images.

    Images that hold NaN or infinity get minus infinity.
    """
    ours, theirs = _pair(a, b)
    if not np.isfinite(ours).all() or not np.isfinite(theirs).all():
        return -math.inf
    worst = float(((ours - theirs) ** 2).mean(axis=(1, 2, 3)).max())
    return 10 * math.log10(1 / worst) if worst else math.inf


def ssim(a: Array, b: Array) -> float:
    """Structural similarity (Wang et al., 2004) of the worst image; 1.0 for equal images.

    The window is a Gaussian of 11 pixels, or of the largest odd number that fits. Images that
    hold NaN or infinity get -1.0.
    """
    ours, theirs = _pair(a, b)
    if not np.isfinite(ours).all() or not np.isfinite(theirs).all():
        return -1.0
    window = _window(min(_WINDOW, *ours.shape[1:3]))
    mean_a, mean_b = _blur(ours, window), _blur(theirs, window)
    var_a = _blur(ours * ours, window) - mean_a * mean_a
    var_b = _blur(theirs * theirs, window) - mean_b * mean_b
    covariance = _blur(ours * theirs, window) - mean_a * mean_b
    likeness = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    )
    return float(likeness.mean(axis=(1, 2, 3)).min())


def to_pil(array: Array) -> list[Image.Image]:
    """The images of an array of 1, 3 or 4 channels; values outside [0, 1] are clipped."""
    checked = _checked(array)
    if checked.shape[3] not in _MODES:
        raise StepError(f"images have 1, 3 or 4 channels; this array's shape is {checked.shape}")
    pixels = np.rint(np.clip(np.nan_to_num(checked), 0, 1) * 255).astype(np.uint8)
    return [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in pixels]


def grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """One picture of all images, row by row; as square as it can be if `columns` is left out."""
    if not images:
        raise StepError("there are no images to put into a grid")
    columns = columns or math.ceil(math.sqrt(len(images)))
    gap = _gap(images)
    width = max(image.width for image in images) + gap
    height = max(image.height for image in images) + gap
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image.convert("RGB"), (column * width, row * height))
    return sheet


def comparison(before: Array, after: Array) -> Image.Image:
    """Three rows, each under its title: before, after, and their difference, amplified.

    Of more than 16 images, 16 are shown, evenly spread. Where they do not fit beside each other
    there are further rows, and the titles say which images they show. The factor is chosen for
    the difference as a whole: a few pixels may differ by more than can be shown.
    """
    old, new = _pair(before, after)
    shown = np.unique(np.linspace(0, len(old) - 1, min(len(old), _MOST)).round().astype(int))
    gap = np.abs(np.clip(np.nan_to_num(new, nan=1.0), 0, 1) - np.clip(np.nan_to_num(old), 0, 1))
    gap = gap[shown]
    typical = float(np.quantile(gap, _TYPICAL))
    factor = max(times for times in _FACTORS if times == 1 or times * typical <= 1)
    title = f"difference x{factor}" if gap.any() else "no difference"
    pictures = {
        "before": to_pil(old[shown]),
        "after": to_pil(new[shown]),
        title: to_pil(gap * factor),
    }
    bands = [
        _titled(_numbered(title, shown[part], len(old)), grid(images[part], part.stop - part.start))
        for part in _parts(len(shown))
        for title, images in pictures.items()
    ]
    return grid(bands, columns=1)


def _parts(count: int) -> list[slice]:
    """What stands beside each other: as many as make the sheet about square, in equal rows."""
    blocks = math.ceil(count / max(_IN_A_ROW, math.ceil(math.sqrt(3 * count))))
    length = math.ceil(count / blocks)
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def _numbered(title: str, shown: NDArray[np.int_], count: int) -> str:
    """The title, with the numbers of the images unless all of them stand there."""
    if len(shown) == count:
        return title
    return f"{title}: {', '.join(str(index + 1) for index in shown)} of {count}"


def _titled(title: str, band: Image.Image) -> Image.Image:
    """A row of images under its title, which is not drawn on any of them."""
    font = ImageFont.load_default(max(12, band.height // 20))
    _, _, right, bottom = ImageDraw.Draw(band).textbbox((0, 0), title, font=font)
    margin = _gap([band])
    head = math.ceil(bottom) + margin
    sheet = Image.new("RGB", (max(band.width, math.ceil(right)), head + band.height), "white")
    ImageDraw.Draw(sheet).text((0, 0), title, fill="black", font=font)
    sheet.paste(band, (0, head))
    return sheet


def _gap(images: Sequence[Image.Image]) -> int:
    return max(4, min(image.height for image in images) // 100)


def _pair(a: Array, b: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ours, theirs = _checked(a), _checked(b)
    if ours.shape != theirs.shape:
        message = f"images of shape {ours.shape} and of shape {theirs.shape} cannot be compared"
        raise StepError(message)
    return ours, theirs


def _checked(array: Array) -> NDArray[np.float64]:
    if array.ndim != 4 or not array.size:  # noqa: PLR2004
        message = f"images come as an array of (N, H, W, C); this one's shape is {array.shape}"
        raise StepError(message)
    if not np.issubdtype(array.dtype, np.floating):
        raise StepError(f"images come as floats in [0, 1]; this array's dtype is {array.dtype}")
    return array.astype(np.float64)


def _window(largest: int) -> NDArray[np.float64]:
    size = largest if largest % 2 else largest - 1
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _blur(images: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over every window that lies inside the images."""
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(images, len(window), axis=axis)
        images = windows @ window
    return images
