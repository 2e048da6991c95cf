"""Files give the samples back, and a wrong request fails before anything is written."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ncdeploy.drawing import images
from ncdeploy.errors import DependencyError, FileError, InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.report.samples import check_output, save_samples

GREY = ModelInfo(shape=(1, 8, 8), sigma_min=0.02, sigma_max=80.0, sigma_data=0.5, offset=8.0, scale=8.0)
COLOUR = replace(GREY, shape=(3, 8, 8))
POINTS = replace(GREY, shape=(2,), offset=1.0, scale=2.0)


def _samples(n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)


def test_arrays_are_written_in_units_of_the_data(tmp_path):
    samples, labels = _samples(4, (1, 8, 8)), np.array([3, 1, 4, 1])
    save_samples(tmp_path / "s.npz", samples, GREY, labels=labels)
    save_samples(tmp_path / "s.npy", samples, GREY)
    with np.load(tmp_path / "s.npz") as archive:
        assert np.allclose(archive["samples"], 8 + 8 * samples, atol=1e-5)
        assert archive["labels"].tolist() == labels.tolist()
    assert np.array_equal(np.load(tmp_path / "s.npy"), (8 + 8 * samples.astype(float)).astype(np.float32))


@pytest.mark.parametrize("name", ["new/", "new", "old"])
def test_a_folder_gets_one_png_per_sample_at_its_own_size(tmp_path, name):
    (tmp_path / "old").mkdir()
    samples = _samples(12, COLOUR.shape)
    save_samples(f"{tmp_path}/{name}", samples, COLOUR)
    files = sorted((tmp_path / name).iterdir())
    assert [f.name for f in files] == [f"{i:02d}.png" for i in range(12)]
    with Image.open(files[7]) as opened:
        assert np.array_equal(np.asarray(opened), images.pixels(samples)[7])


def test_points_make_a_plot_with_ink_where_they_are(tmp_path):
    left = np.random.default_rng(0).normal(size=(300, 2)) * 0.1 + [-2, 0]
    save_samples(tmp_path / "p.png", np.vstack([left, [[2.0, 0.0]]]), POINTS)
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
        check_output(f"{tmp_path}/{name}", info)
    with pytest.raises(InputError, match=said):
        save_samples(f"{tmp_path}/{name}", np.zeros((2, *info.shape)), info)
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_any_length_go_to_arrays(tmp_path):
    check_output(tmp_path / "v.npz", replace(GREY, shape=(5,)))


@pytest.mark.parametrize("name", ["no/such/x.png", "no/such/folder/"])
def test_a_missing_parent_is_found_before_the_work(tmp_path, name):
    with pytest.raises(FileError, match="does not exist"):
        check_output(f"{tmp_path}/{name}", GREY)


def test_without_matplotlib_one_line_says_what_to_install_and_arrays_still_go(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"p\.png.*pip install .*'\.\[report\]'") as caught:
        check_output(tmp_path / "p.png", POINTS)
    assert "\n" not in str(caught.value)
    save_samples(tmp_path / "p.npz", _samples(3, (2,)), POINTS)
    save_samples(tmp_path / "g.png", _samples(3, GREY.shape), GREY)
