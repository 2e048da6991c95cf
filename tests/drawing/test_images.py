"""Pictures show what the samples hold, files give it back, and a wrong request fails before anything is written."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ncdeploy.drawing import images
from ncdeploy.errors import FileError, InputError
from ncdeploy.modelinfo import ModelInfo

GREY = ModelInfo(shape=(1, 8, 8), sigma_min=0.02, sigma_max=80.0, sigma_data=0.5, offset=8.0, scale=8.0)
COLOUR = replace(GREY, shape=(3, 8, 8))
POINTS = replace(GREY, shape=(2,), offset=1.0, scale=2.0)


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


def test_a_film_strip_has_a_row_per_sample_and_a_column_per_sweep():
    states = _samples(6, (1, 8, 8)).reshape(3, 2, 1, 8, 8)
    sheet = np.asarray(images.film_strip(states))
    assert sheet.shape == (2 * 48 + 2, 3 * 48 + 4)
    for sweep in range(3):
        for sample in range(2):
            assert np.array_equal(_tile(sheet, sample, sweep), images.pixels(states[sweep])[sample, ..., 0])


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_an_animation_has_a_frame_per_sweep(tmp_path, suffix):
    pictures = images.frames(np.linspace(-1, 1, 4 * 2 * 64).reshape(4, 2, 1, 8, 8))
    images.write_picture(tmp_path / f"a.{suffix}", pictures, ms=100)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        assert (opened.n_frames, opened.size) == (4, pictures[0].size)
        opened.seek(3)
        # A GIF has 256 colours; the others must be exact.
        gap = np.abs(np.asarray(opened.convert("L"), int) - np.asarray(pictures[3], int)).max()
        assert gap <= (2 if suffix == "gif" else 0)


def test_arrays_are_written_in_units_of_the_data(tmp_path):
    samples, labels = _samples(4, (1, 8, 8)), np.array([3, 1, 4, 1])
    images.save_samples(tmp_path / "s.npz", samples, GREY, labels=labels)
    images.save_samples(tmp_path / "s.npy", samples, GREY)
    with np.load(tmp_path / "s.npz") as archive:
        assert np.allclose(archive["samples"], 8 + 8 * samples, atol=1e-5)
        assert archive["labels"].tolist() == labels.tolist()
    assert np.array_equal(np.load(tmp_path / "s.npy"), (8 + 8 * samples.astype(float)).astype(np.float32))


@pytest.mark.parametrize("name", ["new/", "new", "old"])
def test_a_folder_gets_one_png_per_sample_at_its_own_size(tmp_path, name):
    (tmp_path / "old").mkdir()
    samples = _samples(12, COLOUR.shape)
    images.save_samples(f"{tmp_path}/{name}", samples, COLOUR)
    files = sorted((tmp_path / name).iterdir())
    assert [f.name for f in files] == [f"{i:02d}.png" for i in range(12)]
    with Image.open(files[7]) as opened:
        assert np.array_equal(np.asarray(opened), images.pixels(samples)[7])


def test_points_make_a_plot_with_ink_where_they_are(tmp_path):
    left = np.random.default_rng(0).normal(size=(300, 2)) * 0.1 + [-2, 0]
    images.save_samples(tmp_path / "p.png", np.vstack([left, [[2.0, 0.0]]]), POINTS)
    with Image.open(tmp_path / "p.png") as opened:
        plot = np.asarray(opened.convert("RGB"), float)
    saturation = np.maximum(plot.max(axis=-1) - plot.min(axis=-1) - 30, 0)  # ink alone is coloured
    assert plot.shape == (640, 640, 3)
    assert saturation[:, :320].sum() > 20 * saturation[:, 320:].sum() > 0


@pytest.mark.parametrize(
    ("name", "info", "said"),
    [
        ("x.jpg", GREY, r"\.jpg; expected \.png"),
        ("x.png", replace(GREY, shape=(5,)), r"\(5,\).*\.npz"),
        ("x.png", replace(GREY, shape=(4, 8, 8)), r"\(4, 8, 8\)"),
        ("folder/", POINTS, "image samples"),
    ],
)
def test_a_kind_that_cannot_hold_the_samples_is_refused_first(tmp_path, name, info, said):
    with pytest.raises(InputError, match=said):
        images.check_output(f"{tmp_path}/{name}", info)
    with pytest.raises(InputError, match=said):
        images.save_samples(f"{tmp_path}/{name}", np.zeros((2, *info.shape)), info)
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_any_length_go_to_arrays(tmp_path):
    images.check_output(tmp_path / "v.npz", replace(GREY, shape=(5,)))


@pytest.mark.parametrize("name", ["no/such/x.png", "no/such/folder/"])
def test_a_missing_parent_is_found_before_the_work(tmp_path, name):
    with pytest.raises(FileError, match="does not exist"):
        images.check_output(f"{tmp_path}/{name}", GREY)
