"""From a policy's checkpoint to its actions: raw observations through a bundle, as PyTorch has it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import policy_files as files
from ncdeploy import export_onnx, import_model, load_model, make_bundle, open_engine, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy_cli.main import app
from policy_files import ENV, LOWDIM, STATE

CAMERA = "observation.images.front"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    files.write_lerobot(tmp_path / "policy", LOWDIM, files.unet_weights(LOWDIM, 10))
    return tmp_path / "policy"


def test_import_to_bundle_to_actions(policy: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["import", str(policy), "-o", str(tmp_path / "p.pt")])
    assert made.exit_code == 0, made.output
    denoiser = load_model(tmp_path / "p.pt")
    export_onnx(denoiser, tmp_path / "p.onnx", threads=1)
    plan = denoiser.info.plan(steps=10)
    make_bundle(
        tmp_path / "p.onnx", tmp_path / "b", plans=[plan], encoder=tmp_path / "p.encoder.onnx",
        decoder=tmp_path / "p.decoder.onnx", verify=False,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    raw = {STATE: rng.standard_normal((3, 2, 3)), ENV: rng.standard_normal((3, 2, 2))}
    with open_engine(tmp_path / "b", threads=1) as engine:
        found = sample(engine, plan, seeds=range(3), conditions=raw, window=10, tolerance=0)
    encoder, decoder = import_model(policy).parts
    with torch.no_grad():
        obs = encoder.module(*(torch.from_numpy(v).float() for v in raw.values())).numpy()
        expected = sample(TorchBackend(denoiser), plan, seeds=range(3), conditions={"obs": obs})
        actions = decoder.module(torch.from_numpy(expected.samples))
    assert actions.shape == (3, 4, 2)
    np.testing.assert_allclose(found.decoded, actions, atol=1e-4)


def test_files_that_are_there_stay(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "p.encoder.onnx").write_text("mine")
    args = ["import", str(policy), "-o", str(tmp_path / "p.pt"), "--json"]
    assert CliRunner().invoke(app, args).exit_code != 0
    assert (tmp_path / "p.encoder.onnx").read_text() == "mine"
    assert not (tmp_path / "p.pt").exists()
    made = CliRunner().invoke(app, [*args, "--force"])
    assert json.loads(made.stdout)["encoder"] == str(tmp_path / "p.encoder.onnx")


def test_a_camera_goes_through_the_encoder_graph(tmp_path: Path) -> None:
    features = {CAMERA: {"type": "VISUAL", "shape": [3, 40, 40]}, STATE: LOWDIM["input_features"][STATE]}
    config = {**LOWDIM, "input_features": features, "resize_shape": [36, 36], "crop_shape": [33, 33]}
    eyes = files.eye_weights(4, (33, 33))
    files.write_lerobot(tmp_path / "cam", config, files.unet_weights(config, 2 * (3 + 8)), eyes=eyes)
    made = CliRunner().invoke(app, ["import", str(tmp_path / "cam"), "-o", str(tmp_path / "c.pt")])  # compares the two
    assert made.exit_code == 0, made.output
    assert f"{STATE} float32 (2, 3), {CAMERA} float32 (2, 3, 40, 40) to obs" in " ".join(made.output.split())
