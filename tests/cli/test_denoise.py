"""`ncdeploy denoise`: pictures and arrays, and what is said of the noise."""

import json

import numpy as np
from PIL import Image

from ncdeploy.drawing.images import pixels, to_picture
from oracle import digits


def _noisy(n, sigma=0.3):
    x0 = digits().means[:n].reshape(n, 1, 8, 8)
    return x0, x0 + sigma * np.random.default_rng(1).standard_normal(x0.shape)


def test_a_picture_keeps_its_size_and_loses_its_noise(run, models, tmp_path):
    x0, y = _noisy(1, 0.2)
    to_picture(pixels(y)[0]).save(tmp_path / "noisy.png")
    done = run("denoise", models["image"], "noisy.png", "-o", "clean.png", "--sigma", "0.2")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "clean.png") as clean:
        assert clean.size == (8, 8)
        found = np.asarray(clean) / 127.5 - 1
    assert np.sqrt(np.mean((found - x0[0, 0]) ** 2)) < 0.1


def test_arrays_come_back_in_their_units_with_the_level_found(run, models, tmp_path):
    x0, y = _noisy(30)
    np.save(tmp_path / "y.npy", 8 + 8 * y)
    done = run("denoise", models["image"], "y.npy", "-o", "x.npy", "--json")
    record = json.loads(done.stdout)
    assert abs(np.median(record["sigma"]) / 0.3 - 1) < 0.1
    found = (np.load(tmp_path / "x.npy") - 8) / 8
    assert np.sqrt(np.mean((found - x0) ** 2)) < 0.2
    said = run("denoise", models["image"], "y.npy", "-o", "x.npz")
    assert "30 samples, noise of sigma 0.3" in said.stdout or "noise of sigma 0.2" in said.stdout
    again = run("denoise", models["image"], "y.npy", "-o", "x.npz")
    assert again.exit_code == 1
    assert "--force" in again.stderr
    wrong = run("denoise", models["image"], "y.npy", "-o", "z.npz", "--sigma", "much")
    assert "expected a number, or auto" in wrong.stderr
