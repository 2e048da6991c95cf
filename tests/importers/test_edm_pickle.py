"""Network pickles of NVlabs/edm compute here what they compute there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import edm_files
from ncdeploy import make_plan, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import EDM, VESDE, VPSDE, Denoiser, load_model, save_model
from ncdeploy.errors import FileError
from ncdeploy.export import export_onnx
from ncdeploy.importers import detect_format, edm_pickle, import_model

LAYOUTS = edm_files.layouts()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("edm")
    for case, layout in LAYOUTS.items():
        content = {"ema": edm_files.network(layout, "raise SystemExit('the source was run')"), "dataset_kwargs": {}}
        (folder / f"{case}.pkl").write_bytes(edm_files.dumps(content))
    return {case: folder / f"{case}.pkl" for case in LAYOUTS}


def evaluate(denoiser: Denoiser) -> Tensor:
    x, sigma, labels = edm_files.inputs(denoiser.info.num_classes)
    with torch.no_grad():
        return denoiser(
            torch.from_numpy(x), torch.from_numpy(sigma), None if labels is None else torch.from_numpy(labels)
        )


def misfit(denoiser: Denoiser, case: str) -> float:
    """Largest difference from the original, relative to the size of each row's output where that is above 1."""
    wanted = edm_files.golden(case, "denoised")
    rows = np.abs(evaluate(denoiser).numpy() - wanted).reshape(4, -1).max(axis=1)
    return float((rows / np.maximum(1, np.abs(wanted).reshape(4, -1).max(axis=1))).max())


@pytest.mark.parametrize("case", LAYOUTS)
def test_outputs_are_those_of_the_original(files: dict[str, Path], case: str) -> None:
    denoiser = edm_pickle.load(files[case])
    assert misfit(denoiser, case) < 1e-5
    assert not denoiser.training
    kinds = {"EDMPrecond": EDM, "VPPrecond": VPSDE, "VEPrecond": VESDE}
    assert type(denoiser) is kinds[LAYOUTS[case]["outer"]]
    info = denoiser.info
    assert (info.shape, info.num_classes) == ((3, 8, 8), LAYOUTS[case]["process"]["label_dim"])
    assert (info.offset, info.scale) == (127.5, 127.5)


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_slightly_wrong_weight_would_be_seen(files: dict[str, Path], case: str) -> None:
    denoiser = edm_pickle.load(files[case])
    for name, tensor in list(denoiser.state_dict().items())[::5]:  # some of them, to be quick
        kept = tensor.clone()
        tensor.copy_(kept.roll(1, 0))
        assert misfit(denoiser, case) > 3e-5, name
        tensor.copy_(kept)
    assert misfit(denoiser, case) < 1e-5


@pytest.mark.parametrize("case", ["ddpmpp", "ncsnpp"])
def test_heun_samples_are_those_of_the_original_sampler(files: dict[str, Path], case: str) -> None:
    denoiser = edm_pickle.load(files[case])
    labels = [2, 0] if denoiser.info.num_classes else None
    engine = TorchBackend(denoiser)
    plan = make_plan("heun", 18, sigma_min=0.002, sigma_max=80)
    result = sample(engine, plan, seeds=edm_files.SEEDS, conditions={"labels": labels})
    wanted = edm_files.golden(case, "samples")
    assert wanted.std() > 0.1
    np.testing.assert_allclose(result.samples, wanted, rtol=0, atol=1e-4)
    own = sample(engine, make_plan(**denoiser.info.default_plan), seeds=edm_files.SEEDS, conditions={"labels": labels})
    np.testing.assert_array_equal(own.samples, result.samples)
    other = sample(engine, plan, seeds=edm_files.SEEDS, conditions={"labels": None if labels is None else [0, 2]})
    assert labels is None or abs(other.samples - wanted).max() > 1e-2, "labels must matter"


def test_no_label_means_no_class(files: dict[str, Path]) -> None:
    for case in ("ddpmpp", "adm"):
        denoiser = edm_pickle.load(files[case])
        x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 3.0])
        assert torch.equal(denoiser(x, sigma), denoiser(x, sigma, torch.full((2,), 3)))
        assert not torch.allclose(denoiser(x, sigma), denoiser(x, sigma, torch.tensor([0, 1])), atol=1e-3)


@pytest.mark.parametrize("case", LAYOUTS)
def test_saved_and_loaded_like_a_native_model(files: dict[str, Path], tmp_path: Path, case: str) -> None:
    denoiser = import_model(files[case])
    save_model(tmp_path / "model.pt", denoiser)
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.config == denoiser.config
    assert torch.equal(evaluate(loaded), evaluate(denoiser))
    assert replace(loaded.info, weights_digest="", versions={}) == denoiser.info


@pytest.mark.parametrize(
    "case", ["ncsnpp_ve", *(pytest.param(case, marks=pytest.mark.slow) for case in ("ddpmpp", "ddpmpp_vp", "adm"))]
)
def test_exported_with_parity(files: dict[str, Path], tmp_path: Path, case: str) -> None:
    done = export_onnx(edm_pickle.load(files[case]), tmp_path / "model.onnx", threads=1)
    assert done.parity is not None
    assert done.parity.ok


def test_every_weight_gets_a_gradient(files: dict[str, Path]) -> None:
    for case in LAYOUTS:
        denoiser = edm_pickle.load(files[case]).train()
        evaluate_with_gradient = denoiser(torch.randn(2, 3, 8, 8), torch.tensor([0.5, 3.0]))
        evaluate_with_gradient.square().sum().backward()
        silent = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_protocols_of_python_pickles(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "net.pkl").write_bytes(edm_files.dumps({"ema": edm_files.network(edm_files.tiny_layout())}, protocol))
    assert detect_format(tmp_path / "net.pkl") == "edm"
    assert edm_pickle.load(tmp_path / "net.pkl")(torch.zeros(1, 1, 4, 4), torch.ones(1)).shape == (1, 1, 4, 4)


def changed(**changes: Any) -> dict[str, Any]:
    layout = edm_files.tiny_layout()
    for name, value in changes.items():
        target = next((layout[part] for part in ("process", "arguments") if name in layout[part]), layout["arguments"])
        (layout if name in layout else target)[name] = value
    return layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer": "iDDPMPrecond2"}, "iDDPMPrecond2.*expected one of EDMPrecond"),
        ({"outer": "VPPrecond"}, "beta_d|noise levels|sigma range|sigma_min"),
        ({"inner": "StyleUNet"}, "StyleUNet.*expected SongUNet"),
        ({"encoder_type": "skip"}, "encoder_type: is 'skip'"),
        ({"decoder_type": "skip"}, "decoder_type: is 'skip'"),
        ({"model_channels": "4"}, "model_channels: is '4'"),
        ({"model_channels": 10**6}, "constructor arguments call for"),
        ({"model_channels": 10**30}, "model_channels"),
        ({"num_blocks": 10**6}, "more blocks than it has weights"),
        ({"num_blocks": 2}, "lacks the weight"),
        ({"channel_mult": [1] * 33}, "channel_mult: is list"),
        ({"channel_mult": [1, 2, 2, 2]}, "divisible by 8"),
        ({"channel_mult": [-1]}, "channel_mult"),
        ({"attn_resolutions": [4]}, "lacks the weight 'enc.4x4_block0"),
        ({"resample_filter": [1, 2, 1]}, "taps"),
        ({"label_dim": 3}, "lacks the weight 'map_label"),
        ({"label_dim": 10**6}, "lacks the weight 'map_label"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"sigma_data": float("nan")}, "sigma_data"),
        ({"sigma_data": None}, "sigma_data: is None"),
        ({"dropout": 2.0}, "dropout"),
        ({"img_channels": 2}, "shape"),
        ({"weights": edm_files.tiny_layout()["weights"] + [["dec.extra.weight", [2]]]}, "does not know.*dec.extra"),
    ],
)
def test_files_that_do_not_hold_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "net.pkl").write_bytes(edm_files.dumps({"ema": edm_files.network(changed(**changes))}))
    with pytest.raises(FileError, match=message) as error:
        edm_pickle.load(tmp_path / "net.pkl")
    assert str(error.value).startswith(str(tmp_path / "net.pkl"))
    assert "\n" not in str(error.value)


def test_shared_weights_cannot_inflate_a_small_file(tmp_path: Path) -> None:
    network = edm_files.network(edm_files.tiny_layout())
    first, second = network.model.map_layer0, network.model.map_layer1
    second._parameters["bias"] = first._parameters["bias"]
    (tmp_path / "net.pkl").write_bytes(edm_files.dumps({"ema": network}))
    with pytest.raises(FileError, match="share their values"):
        edm_pickle.load(tmp_path / "net.pkl")


@pytest.mark.parametrize("broken", [False, True])
def test_a_network_of_discrete_steps_predicts_eps_at_the_nearest(broken: bool, tmp_path: Path) -> None:
    case = next(case for case, layout in LAYOUTS.items() if layout["inner"] == "DhariwalUNet")
    layout = {**LAYOUTS[case], "outer": "iDDPMPrecond"}
    layout["process"] = {**layout["process"], "M": 50}
    values = edm_files.weights(layout)
    for name in ("out_conv.weight", "out_conv.bias"):
        values[name] = np.concatenate([values[name], 1 - values[name]])
    outer = edm_files.network(layout, values=values)
    u = torch.cat([torch.logspace(1.8, -2, 50), torch.zeros(1)])
    outer.register_buffer("u", u[broken:])
    (tmp_path / "m.pkl").write_bytes(edm_files.dumps({"ema": outer}))
    if broken:
        with pytest.raises(FileError, match="lacks its noise levels"):
            edm_pickle.load(tmp_path / "m.pkl")
        return
    model = edm_pickle.load(tmp_path / "m.pkl")
    assert model.notes
    labels = torch.tensor([0, 1, model.info.num_classes]) if model.info.num_classes else None
    index = torch.tensor([0, 21, 49])
    x = torch.randn(3, *model.info.shape) * (1 + u[index, None, None, None])
    with torch.no_grad():
        network = model.network
        F = network(x / (1 + u[index] ** 2).sqrt()[:, None, None, None], 49.0 - index, labels)
        for near in (1.0, 1.01):
            found = model(x, near * u[index], labels)
            sigma = (near * u[index])[:, None, None, None]
            if near == 1:
                assert torch.allclose(found, x - sigma * F, atol=1e-4)
        steps = model.told(1.01 * u[index])  # type: ignore[operator]
    assert torch.equal(steps, 49.0 - index)
