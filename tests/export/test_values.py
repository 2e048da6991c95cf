"""Models beyond one file: their weights in a file beside the graph, here with a low limit in the place of 2 GiB."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ncdeploy import export_graph, make_bundle, open_engine, sample
from ncdeploy.denoisers import Denoiser, build, default_config
from ncdeploy.errors import FileError, ParityError
from ncdeploy.export import denoiser as export_denoiser
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record
from ncdeploy.formats.onnxfile import external_data, read_onnx
from ncdeploy.formats.sidecar import graph_digest
from ncdeploy.inspection import inspect_file

LIMIT = 150_000  # bytes, between those of the model in fp16 and in fp32


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return drawn(0)


def drawn(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    denoiser = build(default_config((3,), network={"kind": "mlp", "width": 64, "blocks": 2}))
    for parameter in denoiser.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return denoiser.eval()


def data_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".data")


def evaluate(path: Path) -> Any:
    with open_engine(path) as engine:
        x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
        return engine(x, np.linspace(0.1, 2, 5, dtype=np.float32))


def test_a_graph_with_its_weights_beside_it_is_the_same_everywhere(model: Denoiser, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "whole.onnx", verify=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = export_onnx(model, tmp_path / "m.onnx", most=LIMIT)  # compared with PyTorch
    assert done.parity is not None
    assert done.parity.ok
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    (name,) = external_data(tmp_path / "m.onnx")
    assert re.fullmatch(r"m\.[0-9a-f]{12}\.data", name)
    assert done.size == (tmp_path / "m.onnx").stat().st_size + (tmp_path / name).stat().st_size
    assert inspect_file(tmp_path / "m.onnx").size == done.size
    assert (tmp_path / "m.onnx").stat().st_size < LIMIT
    assert read_onnx(tmp_path / "m.onnx").parameters == read_onnx(tmp_path / "whole.onnx").parameters
    assert np.array_equal(evaluate(tmp_path / "m.onnx"), evaluate(tmp_path / "whole.onnx"))

    plan = model.info.plan("ddim", 6)
    bundle = make_bundle(tmp_path / "m.onnx", tmp_path / "b", plans=[plan])
    assert (bundle.path / name).stat().st_size == (tmp_path / name).stat().st_size
    with open_engine(bundle.path) as engine:
        assert np.isfinite(sample(engine, plan, seeds=[0]).samples).all()
    (tmp_path / "elsewhere").mkdir()
    export_graph(tmp_path / "m.onnx", tmp_path / "elsewhere" / "s.onnx", choose_record(plan, done.info, kind="sampler"))

    digest = graph_digest(tmp_path / "m.onnx")
    with (tmp_path / name).open("r+b") as f:
        f.seek(100)
        f.write(b"\x01")
    assert graph_digest(tmp_path / "m.onnx") != digest
    (tmp_path / name).unlink()
    with pytest.raises(FileError, match="has weights there"):
        open_engine(tmp_path / "m.onnx")


@pytest.mark.parametrize("limit", [LIMIT, 20_000])
def test_the_limit_counts_in_the_exported_precision(limit: int, model: Denoiser, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "whole.onnx", precision="fp16", verify=False)
    done = export_onnx(model, tmp_path / "m.onnx", precision="fp16", most=limit)
    assert done.parity is not None
    assert done.parity.ok
    assert bool(external_data(tmp_path / "m.onnx")) == (limit < LIMIT)

    def weights(path: Path) -> dict[str, Any]:
        return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}

    whole, apart = weights(tmp_path / "whole.onnx"), weights(tmp_path / "m.onnx")
    assert whole.keys() == apart.keys()
    assert all(whole[name].dtype == apart[name].dtype and np.array_equal(whole[name], apart[name]) for name in whole)


def test_replacing_removes_what_was_beside_and_a_failure_leaves_it(
    model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_: Any) -> None:
        assert len(data_files(tmp_path)) == 2, "the new values must be there to be compared"
        raise ParityError("they differ")

    export_onnx(model, tmp_path / "m.onnx", most=LIMIT, verify=False)
    first = data_files(tmp_path)
    other = drawn(1)
    with monkeypatch.context() as patch:
        patch.setattr(export_denoiser, "_compare", disagree)
        with pytest.raises(ParityError):
            export_onnx(other, tmp_path / "m.onnx", most=LIMIT)
    assert data_files(tmp_path) == first
    assert len(evaluate(tmp_path / "m.onnx")) == 5
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    export_onnx(other, tmp_path / "m.onnx", most=LIMIT, verify=False)
    assert set(data_files(tmp_path)) == {*first, *external_data(tmp_path / "m.onnx")}  # the copy still needs the first
    (tmp_path / "copy.onnx").unlink()
    export_onnx(model, tmp_path / "m.onnx", most=LIMIT, verify=False)
    assert data_files(tmp_path) == first
    export_onnx(model, tmp_path / "m.onnx", verify=False)
    assert data_files(tmp_path) == []
