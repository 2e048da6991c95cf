"""Pictures show what the samples hold."""

import numpy as np
import pytest
from PIL import Image

from ncdeploy.drawing import images
from ncdeploy.errors import InputError


def _samples(n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)


def _tile(sheet: np.ndarray, row: int, column: int, zoom: int = 6, side: int = 8) -> np.ndarray:
    """The pixels of one tile, one per square of zoom x zoom."""
    step = side * zoom + images.GUTTER
    y, x = row * step, column * step
    tile = sheet[y : y + side * zoom, x : x + side * zoom]
    small = tile[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, axis=0).repeat(zoom, axis=1), tile), "squares must be sharp"
    return small


@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_of_a_grid_is_its_sample(channels):
    samples = _samples(5, (channels, 8, 8))
    sheet = np.asarray(images.grid(samples, columns=3))
    assert sheet.shape[:2] == (2 * 48 + 2, 3 * 48 + 4)
    for i in range(5):
        found = _tile(sheet, i // 3, i % 3).reshape(8, 8, channels).transpose(2, 0, 1)
        assert np.abs(found / 127.5 - 1 - samples[i]).max() <= 0.5 / 127.5 + 1e-6


def test_pixels_clip_and_refuse_what_is_no_picture():
    assert images.pixels(np.array([-9, -1, 0, 1, 9.0]).reshape(1, 1, 1, 5)).ravel().tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(InputError, match=r"\(4, 8, 8\)"):
        images.pixels(np.zeros((1, 4, 8, 8)))
    with pytest.raises(InputError, match="NaN"):
        images.pixels(np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(InputError, match="expected"):
        images.pixels(np.zeros((0, 1, 8, 8)))


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_an_animation_has_a_frame_per_sweep(tmp_path, suffix):
    pictures = [images.grid(state) for state in np.linspace(-1, 1, 4 * 2 * 64).reshape(4, 2, 1, 8, 8)]
    images.write_picture(tmp_path / f"a.{suffix}", pictures, ms=100)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        assert (opened.n_frames, opened.size) == (4, pictures[0].size)
        opened.seek(3)
        # A GIF has 256 colours; the others must be exact.
        gap = np.abs(np.asarray(opened.convert("L"), int) - np.asarray(pictures[3], int)).max()
        assert gap <= (2 if suffix == "gif" else 0)
