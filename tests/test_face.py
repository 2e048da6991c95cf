"""Everything that users are told to use is in `ncdeploy`, shows in dir(), and costs nothing until it is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ncdeploy
from ncdeploy import InputError, ModelInfo, NcdeployWarning, SampleOptions, errors, make_plan, open_engine, sample
from oracle import digits
from tiny_models import IMAGES, write_mixture

ROOT = Path(__file__).resolve().parents[1]


def declared() -> set[str]:
    """What `from ncdeploy import` gives a type checker."""
    tree = ast.parse((ROOT / "ncdeploy" / "__init__.py").read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {
        alias.asname or alias.name for node in imports if node.module.startswith("ncdeploy") for alias in node.names
    }


def test_the_list_dir_and_the_type_checkers_imports_agree() -> None:
    assert sorted(ncdeploy.__all__) == dir(ncdeploy)
    assert declared() == set(ncdeploy.__all__)


@pytest.mark.parametrize("name", ncdeploy.__all__)
def test_every_name_is_there_and_is_what_it_says(name: str) -> None:
    found = getattr(ncdeploy, name)
    if name != "__version__":
        assert found.__name__.rpartition(".")[2] == name
        assert inspect.getdoc(found)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ncdeploy.nothing


def test_every_error_is_there() -> None:
    own = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert own <= set(ncdeploy.__all__)


def test_nothing_heavy_is_imported_for_the_names() -> None:
    code = "import sys, ncdeploy; dir(ncdeploy); print([m for m in ('numpy', 'torch', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ncdeploy", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"ncdeploy {ncdeploy.__version__}\n"), done.stderr


def test_the_plan_of_a_model_and_its_range() -> None:
    info = ModelInfo(
        shape=(2,), sigma_min=0.01, sigma_max=50.0, sigma_data=0.5,
        default_plan={"solver": "heun", "steps": 9, "sigma_max": 40.0},
    )  # fmt: skip
    assert info.plan() == make_plan("heun", 9, sigma_max=40.0)
    assert info.plan("unipc", 7, order=3) == make_plan("unipc", 7, order=3, sigma_max=40.0)
    with pytest.warns(
        NcdeployWarning, match=r"heun-9 asks for noise levels 0.02 to 60, .* trained on 0.01 to 50"
    ) as told:
        info.plan(sigma_max=60.0)
    assert told[0].filename == __file__
    with pytest.warns(NcdeployWarning, match="0.001 to 40"):
        info.plan(sigma_min=0.001)
    with pytest.raises(InputError, match="eta: solver 'heun' takes no such option"):
        info.plan(eta=0.5)


@pytest.fixture(scope="module")
def engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("face") / "m.onnx", IMAGES, np.zeros((3, 1, 8, 8)))


def test_an_engine_is_closed_at_the_end_of_its_context(engine_file: Path) -> None:
    with open_engine(str(engine_file)) as engine:
        drawn = sample(engine, engine.info.plan("ddim", 3), seeds=range(2))
    assert drawn.samples.shape == (2, 1, 8, 8)
    with pytest.raises(Exception, match=r"closed|None"):
        sample(engine, engine.info.plan("ddim", 3), seeds=range(2))


def test_a_result_is_saved_in_a_line(engine_file: Path, tmp_path: Path) -> None:
    with open_engine(engine_file) as engine:
        result = sample(engine, engine.info.plan("ddim", 3), seeds=range(4), window=2)
    assert (engine.info.offset, engine.info.scale) != (0, 1)
    data = engine.info.offset + engine.info.scale * result.samples
    np.testing.assert_allclose(result.to_data(), data, rtol=1e-6)
    for name in ("x.png", "x.npz", "x.npy"):
        result.save(tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), result.to_data())
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["samples"], result.to_data())
        assert "labels" not in arrays
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 2 * 8
    result.save(str(tmp_path / "folder") + "/")
    assert len(list((tmp_path / "folder").iterdir())) == 4


def test_labels_travel_with_their_samples(tmp_path: Path) -> None:
    class Labelled:
        info = ModelInfo(shape=(2,), sigma_min=0.01, sigma_max=90.0, sigma_data=0.5, num_classes=3)

        def __call__(self, x: np.ndarray, sigma: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return np.ones_like(x) * labels.astype(x.dtype)[:, None]

    result = sample(Labelled(), make_plan("ddim", 3), seeds=range(3), conditions={"labels": [2, 0, 1]})
    result.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["labels"].tolist() == [2, 0, 1]


def test_without_an_info_there_are_no_units(tmp_path: Path) -> None:
    result = sample(digits(), make_plan("ddim", 3), seeds=[0], options=SampleOptions(shape=(64,), like=np.zeros(())))
    for attempt in (result.to_data, lambda: result.save(tmp_path / "x.npy")):
        with pytest.raises(InputError, match=r"no info that says what its units are; take result\.samples"):
            attempt()
