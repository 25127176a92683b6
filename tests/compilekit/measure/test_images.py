import math

import numpy as np
import pytest
from PIL import Image

from compilekit.errors import StepError
from compilekit.measure.images import comparison, grid, psnr, ssim, to_pil

NOISE = np.random.default_rng(0).random((1, 24, 24, 3))


def flat(value: float, count: int = 1) -> np.ndarray:
    return np.full((count, 24, 24, 3), value)


def test_equal_images_have_infinite_psnr() -> None:
    assert psnr(NOISE, NOISE) == math.inf


def test_psnr_of_a_tenth_of_full_scale_is_20_db() -> None:
    assert psnr(flat(0.5), flat(0.6)) == pytest.approx(20)


def test_psnr_is_that_of_the_worst_image() -> None:
    assert psnr(flat(0.5, 2), np.concatenate([flat(0.5), flat(0.6)])) == pytest.approx(20)


def test_float32_images_are_compared_with_float64_images() -> None:
    assert psnr(flat(0.5).astype(np.float32), flat(0.6)) == pytest.approx(20)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_that_are_not_finite_get_the_worst_figures(bad: float) -> None:
    spoilt = NOISE.copy()
    spoilt[0, 3, 3, 0] = bad
    assert psnr(spoilt, NOISE) == -math.inf
    assert psnr(NOISE, spoilt) == -math.inf
    assert ssim(spoilt, NOISE) == -1.0


def test_equal_images_have_a_ssim_of_one() -> None:
    assert ssim(NOISE, NOISE) == 1.0


def test_ssim_of_flat_images_is_its_luminance_term() -> None:
    a, b, c1 = 0.25, 0.75, 1e-4
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(flat(a), flat(b)) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_a_contrast_change_about_one_mean_is_its_structure_term() -> None:
    # Fine stripes: within every window the mean is nearly one half and the variance nearly
    # amplitude squared.
    stripes = np.where(np.arange(32) % 2, 1.0, -1.0)[None, None, :, None] * np.ones((1, 32, 1, 1))
    a, b, c2 = 0.4, 0.1, 9e-4
    expected = (2 * a * b + c2) / (a * a + b * b + c2)
    assert ssim(0.5 + a * stripes, 0.5 + b * stripes) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_inverted_stripes_is_near_minus_one() -> None:
    stripes = np.where(np.arange(32) % 2, 0.4, -0.4)[None, None, :, None] * np.ones((1, 32, 1, 1))
    assert ssim(0.5 + stripes, 0.5 - stripes) == pytest.approx(-1, abs=0.01)


def test_ssim_is_the_mean_over_channels() -> None:
    other = np.clip(NOISE + 0.1 * np.array([1.0, 0.0, -1.0]), 0, 1)
    by_channel = [ssim(NOISE[..., [c]], other[..., [c]]) for c in range(3)]
    assert ssim(NOISE, other) == pytest.approx(sum(by_channel) / 3)


def test_ssim_is_that_of_the_worst_image() -> None:
    spoilt = np.concatenate([NOISE, NOISE[:, ::-1]])
    assert ssim(np.concatenate([NOISE, NOISE]), spoilt) == ssim(NOISE, NOISE[:, ::-1])


def test_ssim_does_not_mix_up_height_and_width() -> None:
    wide, shifted = NOISE[:, :13], np.roll(NOISE[:, :13], 1, axis=2)
    turned = ssim(wide.transpose(0, 2, 1, 3), shifted.transpose(0, 2, 1, 3))
    assert ssim(wide, shifted) == pytest.approx(turned)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (10, 24)])
def test_ssim_of_images_smaller_than_its_window(size: tuple[int, int]) -> None:
    small = NOISE[:, : size[0], : size[1]]
    assert ssim(small, small) == pytest.approx(1.0)
    assert ssim(small, 1 - small) < 0.9


def test_images_of_other_shapes_are_an_error_that_names_both() -> None:
    with pytest.raises(StepError) as error:
        psnr(NOISE, NOISE[:, :12])
    assert str(error.value) == (
        "images of shape (1, 24, 24, 3) and of shape (1, 12, 24, 3) cannot be compared"
    )


def test_an_image_without_a_batch_dimension_is_an_error() -> None:
    with pytest.raises(StepError, match=r"\(N, H, W, C\); this one's shape is \(24, 24, 3\)"):
        ssim(NOISE[0], NOISE[0])


def test_images_of_bytes_are_an_error() -> None:
    with pytest.raises(StepError, match="this array's dtype is uint8"):
        psnr(NOISE.astype(np.uint8), NOISE.astype(np.uint8))


def test_to_pil_rounds_and_clips() -> None:
    image = to_pil(np.array([[[[-1.0, 0.5, 2.0]]]]))[0]
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (0, 128, 255))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_to_pil_follows_the_channels(channels: int, mode: str) -> None:
    found = to_pil(np.zeros((2, 3, 5, channels)))
    assert [(image.mode, image.size) for image in found] == [(mode, (5, 3))] * 2


def test_to_pil_refuses_two_channels() -> None:
    with pytest.raises(StepError, match="1, 3 or 4 channels"):
        to_pil(np.zeros((1, 3, 5, 2)))


def test_a_grid_is_as_square_as_it_can_be() -> None:
    sheet = grid([Image.new("RGB", (10, 20), "red")] * 5)
    assert sheet.size == (3 * 14 - 4, 2 * 24 - 4)


def test_a_grid_is_filled_row_by_row() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([Image.new("RGB", (8, 8), colour) for colour in colours], columns=2)
    assert [sheet.getpixel(at) for at in ((4, 4), (16, 4), (4, 16))] == colours


def test_a_grid_of_nothing_is_an_error() -> None:
    with pytest.raises(StepError, match="no images"):
        grid([])


TITLE = 20
"""Titles of small images are no higher than this."""


def bands(sheet: Image.Image) -> list[np.ndarray]:
    """The rows of a sheet that hold no white: those of images."""
    pixels = np.asarray(sheet)
    inside = (pixels[:, :24] < 255).any(axis=2).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    return [pixels[start:end] for start, end in edges.reshape(-1, 2)]


def test_a_comparison_has_a_row_each_for_before_after_and_difference() -> None:
    sheet = comparison(flat(0.2, 3), flat(0.6, 3))
    rows = bands(sheet)
    assert [row.shape for row in rows] == [(24, sheet.width, 3)] * 3
    assert [tuple(row[20, 20]) for row in rows] == [(51,) * 3, (153,) * 3, (204,) * 3]  # doubled
    assert all((row[:, 24:28] == 255).all() for row in rows)  # a gap


def test_titles_are_drawn_above_the_images_and_not_on_them() -> None:
    sheet = comparison(flat(0.5), flat(0.5))
    assert [len(np.unique(row[:, :24])) for row in bands(sheet)] == [1, 1, 1]
    assert sheet.height <= 3 * (24 + TITLE + 4)
    assert np.asarray(sheet)[:TITLE, :60].min() < 100  # "before", in black


def test_the_titles_of_large_images_are_larger() -> None:
    small, large = comparison(flat(0.5), flat(0.5)), comparison(*[np.full((1, 960, 9, 3), 0.5)] * 2)
    assert (large.height - 3 * 960) > 2 * (small.height - 3 * 24)


def test_a_few_pixels_that_differ_much_do_not_hide_the_rest() -> None:
    other = flat(0.508)
    other[0, 0, 0, 0] = 1.0
    difference = bands(comparison(flat(0.5), other))[2]
    assert tuple(difference[0, 0]) == (255, 204, 204)
    assert difference[20, 20, 0] == 204  # a hundred times 0.008


def test_a_comparison_of_equal_images_is_black_in_its_last_row() -> None:
    assert bands(comparison(flat(0.4), flat(0.4)))[2][:, :24].max() == 0


@pytest.mark.parametrize(("count", "rows"), [(1, 3), (4, 3), (5, 6), (16, 9), (90, 9)])
def test_many_images_are_wrapped_and_of_very_many_some_are_shown(count: int, rows: int) -> None:
    sheet = comparison(flat(0.2, count), flat(0.6, count))
    assert len(bands(sheet)) == rows
    assert sheet.width < 10 * 28


def test_of_very_many_images_the_first_and_the_last_are_shown() -> None:
    shades = np.linspace(0.1, 0.9, 90)[:, None, None, None] * np.ones((1, 24, 24, 3))
    befores = np.concatenate([row[:, :-4] for row in bands(comparison(shades, shades))[::3]], 1)
    found = np.unique(befores[befores < 255])
    assert (found.min(), found.max()) == (26, 230)


def test_a_comparison_shows_nan_as_a_difference() -> None:
    spoilt = np.zeros_like(NOISE)
    spoilt[0, 20, 20] = np.nan
    pixels = np.asarray(comparison(np.zeros_like(NOISE), spoilt))
    assert tuple(pixels[-4, 20]) == (255, 255, 255)
