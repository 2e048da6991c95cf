"""Every kind of data comes in model units, split the same way each time, and every bad input says what to do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncdeploy.errors import FileError, InputError
from ncdeploy.training.data import load_data
from ncdeploy.training.toy import TOY_SETS, generate


def pictures(folder: Path, count: int, *, side: int = 8, mode: str = "L", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        shape = (side, side) if mode == "L" else (side, side, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i:03d}.png")


def test_digits_are_the_originals_in_model_units() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits")
    assert data.shape == (1, 8, 8)
    assert data.num_classes == 10
    assert len(data.x) + len(data.held_out) == 1797
    assert len(data.held_out) == 359
    whole = np.concatenate([data.x, data.held_out]).reshape(1797, 64) * data.scale + data.offset
    original = load_digits().data
    np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(original, axis=0))
    assert data.x.min() == -1
    assert data.x.max() == 1
    pairs = {(row.tobytes(), int(label)) for row, label in zip(original, load_digits().target, strict=True)}
    assert data.labels is not None
    for x, label in zip(data.x, data.labels, strict=True):
        assert ((x.reshape(64).astype(np.float64) * 8 + 8).tobytes(), int(label)) in pairs


def test_split_follows_the_seed_and_keeps_parts_apart() -> None:
    first, again, other = (load_data("digits", seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    rows = {x.tobytes() for x in first.x}
    assert not rows & {x.tobytes() for x in first.held_out}


@pytest.mark.parametrize("name", TOY_SETS)
def test_toy_sets_are_standardised_and_repeatable(name: str) -> None:
    data = load_data(name)
    whole = np.concatenate([data.x, data.held_out])
    assert whole.shape == (10_000, 2)
    np.testing.assert_allclose(whole.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(whole.std(axis=0), 1, atol=0.03)
    assert data.digest == load_data(name).digest
    assert np.abs(generate(name, 500, seed=1) - generate(name, 500, seed=2)).max() > 0.1


def test_eight_gaussians_have_eight_equal_modes() -> None:
    angles = np.arctan2(*generate("eight-gaussians", 8000, seed=0).T[::-1])
    mode = np.round(angles / (np.pi / 4)).astype(int) % 8
    assert np.abs(angles - np.pi / 4 * np.round(angles / (np.pi / 4))).std() < 0.15
    np.testing.assert_allclose(np.bincount(mode, minlength=8) / 8000, 1 / 8, atol=0.02)


def test_checkerboard_leaves_the_light_fields_empty() -> None:
    points = TOY_SETS["checkerboard"](4000, np.random.default_rng(0))
    column, row = np.floor(points).astype(int).T
    assert np.all((column + row) % 2 == 0)
    assert len(set(zip(column.tolist(), row.tolist(), strict=True))) == 8


def test_csv_with_and_without_header(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal([5, -3], [2, 4], (40, 2))
    plain, headed = tmp_path / "plain.csv", tmp_path / "headed.csv"
    np.savetxt(plain, table, delimiter=",")
    headed.write_text("height,weight\n" + plain.read_text() + "\n")
    a, b = load_data(str(plain)), load_data(str(headed))
    np.testing.assert_array_equal(a.x, b.x)
    whole = np.concatenate([a.x, a.held_out]) * a.scale + a.offset
    np.testing.assert_allclose(np.sort(whole, axis=0), np.sort(table, axis=0), rtol=1e-5, atol=1e-5)
    assert np.concatenate([a.x, a.held_out]).std() == pytest.approx(1, abs=1e-5)
    assert a.name == "plain.csv"


def test_arrays_keep_labels_and_turn_channels_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(30) % 3)
    data = load_data(str(tmp_path / "a.npz"))
    assert data.shape == (3, 6, 6)
    assert (data.num_classes, data.offset, data.scale) == (3, 127.5, 127.5)
    originals = {x.tobytes(): i % 3 for i, x in enumerate(np.moveaxis(images, -1, 1))}
    assert data.labels is not None
    for x, label in zip(data.x, data.labels, strict=True):
        assert originals[np.round(x * 127.5 + 127.5).astype(np.uint8).tobytes()] == label

    np.save(tmp_path / "b.npy", rng.normal(size=(20, 4, 5)))
    assert load_data(str(tmp_path / "b.npy")).shape == (1, 4, 5)
    np.savez(tmp_path / "c.npz", whatever=rng.normal(size=(20, 3)))
    assert load_data(str(tmp_path / "c.npz")).shape == (3,)


def test_folders_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "classes" / "cat", 9)
    pictures(tmp_path / "classes" / "dog", 9, seed=1)
    data = load_data(str(tmp_path / "classes"))
    assert data.shape == (1, 8, 8)
    assert data.num_classes == 2
    pictures(tmp_path / "colour", 18, side=12, mode="RGB")
    colour = load_data(str(tmp_path / "colour"), size=6)
    assert colour.shape == (3, 6, 6)
    assert colour.num_classes == 0


def bad(folder: Path, what: str) -> str:
    """Write one kind of bad data and return its name."""
    table = np.random.default_rng(0).normal(size=(40, 2))
    fourth, path = np.arange(40)[:, None] == 3, folder / "data.npy"
    tables = {
        "nan": np.where(fourth & [False, True], np.nan, table),
        "few": table[:5],
        "constant": np.full_like(table, 2.0),
        "flat column": table * [1, 0] + [0, 7],
        "empty": table[:0],
        "text": np.array([["a", "b"]] * 40),
        "one axis": table[:, 0],
    }
    if what in tables:
        np.save(path, tables[what])
        return str(path)
    match what:
        case "damaged":
            path.write_bytes(b"\x93NUMPY\x01\x00garbage")
            return str(path)
        case "pickle":
            np.save(path, np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)
            return str(path)
        case "labels":
            np.savez(folder / "data.npz", x=table, labels=np.arange(39))
            return str(folder / "data.npz")
        case "no key":
            np.savez(folder / "data.npz", a=table, b=table)
            return str(folder / "data.npz")
        case "truncated archive":
            np.savez(folder / "data.npz", x=table)
            (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:300])
            return str(folder / "data.npz")
        case "ragged":
            (folder / "data.csv").write_text("1,2\n3,4,5\n")
            return str(folder / "data.csv")
        case "word":
            (folder / "data.csv").write_text("a,b\n1,2\n3,four\n")
            return str(folder / "data.csv")
        case "header only":
            (folder / "data.csv").write_text("a,b\n")
            return str(folder / "data.csv")
        case "suffix":
            (folder / "data.parquet").write_text("x")
            return str(folder / "data.parquet")
        case "no pictures":
            return str(folder)
        case "mixed sizes":
            pictures(folder / "p", 10)
            Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "p" / "zz.png")
            return str(folder / "p")
        case "not a picture":
            pictures(folder / "p", 10)
            (folder / "p" / "zz.png").write_text("hello")
            return str(folder / "p")
        case "loose and classes":
            pictures(folder / "p", 10)
            pictures(folder / "p" / "more", 10)
            return str(folder / "p")
        case _:
            raise KeyError(what)


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("nan", InputError, "1 of 80 values are NaN"),
        ("few", InputError, "5 rows; training takes at least 16"),
        ("constant", InputError, "every value is the same"),
        ("flat column", InputError, "column 2 varies less"),
        ("empty", InputError, "is empty"),
        ("text", InputError, "expected real numbers"),
        ("one axis", InputError, r"expected \[N, d\]"),
        ("damaged", FileError, "data.npy"),
        ("pickle", FileError, "plain numbers"),
        ("labels", InputError, r"expected integers \(40,\)"),
        ("no key", FileError, "name the samples one of x, samples, images"),
        ("truncated archive", FileError, "data.npz"),
        ("ragged", FileError, "line 2: 3 cells where the first row has 2"),
        ("word", FileError, "line 3: 'four' is not a number"),
        ("header only", FileError, "no rows of numbers"),
        ("suffix", FileError, "expected .csv, .npy, .npz or a folder"),
        ("no pictures", FileError, "holds no pictures"),
        ("mixed sizes", InputError, "zz.png: is 9 x 9 where 000.png is 8 x 8; give --size"),
        ("not a picture", FileError, "zz.png"),
        ("loose and classes", InputError, "both loose and in sub-folders"),
    ],
)
def test_bad_data_says_what_is_wrong(tmp_path: Path, what: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load_data(bad(tmp_path, what))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean digits"):
        load_data("digit")
    with pytest.raises(InputError, match="known names: digits, moons"):
        load_data("/nowhere/at/all")
    with pytest.raises(InputError, match="held_out"):
        load_data("digits", held_out=1.0)
    with pytest.raises(InputError, match="only those are brought to a size"):
        load_data("digits", size=16)
    pictures(tmp_path, 3)
    with pytest.raises(InputError, match="at least 1 pixel"):
        load_data(str(tmp_path), size=0)
