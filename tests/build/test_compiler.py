"""The real compiler of TensorRT for RTX, which needs no GPU, on every kind of graph; nothing is skipped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from mutations import mutate
from ncdeploy.backends import open_engine
from ncdeploy.backends.tensorrt.layers import check_parsed
from ncdeploy.build.compiler import compile_graph
from ncdeploy.build.engine import build_engine, low_products
from ncdeploy.denoisers.factory import build
from ncdeploy.errors import BackendError, FileError, InputError, NcdeployError
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.export.passes.lower import Lower
from ncdeploy.formats.describe import describe
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import BuildOptions, read_sidecar, sidecar_path
from ncdeploy.modelinfo import METADATA_KEY
from ncdeploy.sampling.recipe import make_plan
from tiny_models import IMAGES, write_mixture

ROWS = [Profile(least=1, best=2, most=4)]
MEANS = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
UNET = {
    "kind": "unet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "width": 16,
    "head_width": 8,
}
FOREIGN = {"multipliers": [1, 2], "blocks": 1, "attention": [4], "width": 16}
ONE_LEVEL = {"attention": [8], "multipliers": [1]}
NCSNPP = {"embedding": "fourier", "pyramid": True, "taps": [1, 3, 3, 1]}
GUIDED = {"kind": "guided", "channels": 32, "widths": [32, 32], "blocks": 1, "attention": [1]}
DIFFUSERS = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": [8, 8],
    "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
VP = {"kind": "vp", "predicts": "eps", "table": {"alphas_cumprod": np.geomspace(0.999, 0.01, 50).tolist()}}
NETWORKS = {
    "ours, vectors": {"shape": [5], "network": {"kind": "mlp", "width": 16, "blocks": 1}},
    "ours, U-Net": {"shape": [1, 8, 8], "num_classes": 3, "network": UNET},
    "EDM DDPM++": {"network": {"kind": "song", "channels": 8, "features": 8, **FOREIGN}},
    "EDM NCSN++": {"network": {"kind": "song", "channels": 8, "features": 8, **FOREIGN, **NCSNPP}},
    "EDM ADM": {
        "num_classes": 3,
        "network": {"kind": "adm", "channels": 64, **FOREIGN, "attention": [8], "multipliers": [1]},
    },
    "improved-diffusion": {**VP, "network": {**GUIDED, "heads": 2, "scale_shift": False}},
    "guided-diffusion": {**VP, "num_classes": 3, "network": {**GUIDED, "head_width": 16, "resampling": "residual"}},
    "diffusers UNet2DModel": {**VP, "network": {"kind": "diffusers", "unet": DIFFUSERS}},
}
BASE = {"kind": "edm", "shape": [3, 8, 8], "num_classes": 0, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


@pytest.fixture(scope="session")
def graph_of(tmp_path_factory):
    """(network, precision) -> its graph, with random weights, none of them zero; traced once for all precisions."""
    folder = tmp_path_factory.mktemp("networks")

    def make(network: str, precision: str) -> Path:
        traced, target = folder / f"{network}.onnx", folder / f"{network} {precision}.onnx"
        if not traced.exists():
            torch.manual_seed(0)
            denoiser = build({**BASE, **NETWORKS[network]}).eval()
            for weights in denoiser.parameters():
                torch.nn.init.normal_(weights, std=0.1)
            export_onnx(denoiser, traced, verify=False)
        model = onnx.load(traced)
        info = replace(describe(traced, read_onnx(traced)), precision=precision)
        if precision in ("fp16", "bf16"):
            model, _ = Lower(precision=precision)(model)
        helper.set_model_props(model, {METADATA_KEY: info.to_json()})
        onnx.save(model, target)
        return target

    return make


def compiled(graph: Path, precision: str, **given: object) -> tuple[bytes, dict[str, int]]:
    options = BuildOptions(tf32=precision == "tf32")
    products = low_products(graph, precision)
    return compile_graph(graph, ROWS, options, precision=precision, products=products, runtime="rtx", **given)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_builds(network, precision, graph_of):
    plan, found = compiled(graph_of(network, precision), precision)
    assert plan.startswith((b"ftrt", b"vtrt"))  # which of the two differs with what the process has loaded
    assert found.get(precision, 0) >= 2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["denoiser", "sweep", "sampler"])
def test_every_graph_builds_in_every_precision(kind, precision, graph_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    denoiser = graph = graph_of("ours, U-Net", precision)
    if kind != "denoiser":
        steps = make_plan("ddim", 4, schedule="karras", sigma_min=0.02, sigma_max=80.0)
        info = replace(IMAGES, num_classes=3, precision=precision)
        record = choose_record(steps, info, kind=kind, window=2, **({"sweeps": 2} if kind == "sweep" else {}))
        graph = tmp_path / f"{kind}.onnx"
        export_graph(denoiser, graph, record, verify=False)
    built = build_engine(graph, tmp_path / "m.plan", ROWS, BuildOptions(), command="", runtime="rtx")
    record = read_sidecar(built.path)
    assert (record.graph, record.runtime, record.targets, record.parity) == (kind, "rtx", (), None)
    low = precision if precision in ("fp16", "bf16") else "fp32"
    assert record.layers[low] > 10
    assert record.options.tf32 == (precision == "tf32")
    again = build_engine(graph, tmp_path / "n.plan", ROWS, BuildOptions(), command="", runtime="rtx")
    assert again.reused
    assert again.path.read_bytes() == built.path.read_bytes()


@pytest.fixture
def mixture(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_mixture(tmp_path / "model.onnx", IMAGES, MEANS)


def test_targets_are_recorded_and_cost_nothing(mixture, tmp_path):
    sizes = {}
    for targets in ((), ((8, 6),), ((8, 6), (12, 0))):
        record = build_engine(
            mixture, tmp_path / "m.plan", ROWS, BuildOptions(), command="", runtime="rtx", targets=targets
        ).sidecar  # fmt: skip
        assert record.targets == targets
        sizes[targets] = record.plan_bytes
    assert max(sizes.values()) <= 1.01 * min(sizes.values())


def test_options_of_the_other_runtime_are_refused(mixture, tmp_path):
    for options in (BuildOptions(version_compatible=True), BuildOptions(hardware_compatible="ampere_plus")):
        with pytest.raises(InputError, match="are options of TensorRT"):
            build_engine(mixture, tmp_path / "m.plan", ROWS, options, command="", runtime="rtx")
    with pytest.raises(InputError, match="only on a machine with a GPU"):
        build_engine(mixture, tmp_path / "m.plan", ROWS, BuildOptions(stripped=True), command="", runtime="rtx")


def test_an_operator_that_the_compiler_lacks_is_one_line(mixture, tmp_path):
    model = onnx.load(mixture)
    model.graph.node[-1].output[0] = "before"
    odd = helper.make_node("NonZero", ["before"], ["where"], name="network.middle/nonzero_7")
    model.graph.node.extend([odd, helper.make_node("Identity", ["before"], ["denoised"], name="last")])
    onnx.save(model, mixture)
    with pytest.raises(BackendError) as e:
        build_engine(mixture, tmp_path / "m.plan", ROWS, BuildOptions(), command="", runtime="rtx")
    said = str(e.value)
    assert "TensorRT for RTX has no operator NonZero, node network.middle/nonzero_7 in layer network.middle" in said
    assert said.endswith(f"or run the graph as it is: ncdeploy sample --engine {mixture}")
    assert "\n" not in said
    assert not (tmp_path / "m.plan").exists()


def test_a_layer_of_another_type_than_in_the_graph_is_refused(graph_of, tmp_path):
    """Planted in what the real compiler reads: one convolution of the fp16 graph is float32 there."""
    graph = graph_of("ours, vectors", "fp16")
    wanted = low_products(graph, "fp16")
    keep = Lower(precision="fp16", keep=(wanted[0].rpartition("/")[0],))
    kept, _ = keep(onnx.load(graph_of("ours, vectors", "fp32")))
    onnx.save(kept, tmp_path / "planted.onnx")
    with pytest.raises(BackendError, match=f"the compiler took {wanted[0]} as fp32, in the graph it is fp16"):
        compile_graph(
            tmp_path / "planted.onnx", ROWS, BuildOptions(), precision="fp16", products=wanted, runtime="rtx"
        )  # fmt: skip


def test_types_are_compared_before_anything_is_built():
    assert check_parsed([("a/conv", "fp16"), ("b/linear", "fp32")], "fp16", ["a/conv"]) == {"fp16": 1, "fp32": 1}
    for layers, products, said in [
        ([("a/conv", "fp32")], ["a/conv"], "took a/conv as fp32, in the graph it is fp16"),
        ([("a/conv", "fp16"), ("b/linear", "fp16")], ["a/conv"], "took b/linear as fp16, in the graph it is fp32"),
        ([("a/conv", "another type")], ["a/conv"], "another type"),
        ([], ["a/conv"], "shows no layer for a/conv"),
        ([("a/conv", "fp32")], [], "not fp16"),
    ]:
        with pytest.raises(BackendError, match=said):
            check_parsed(layers, "fp16", products)


def test_what_was_changed_does_not_load(mixture, tmp_path):
    """Foreign flavour, version and target, and a thousand changes of both files: one line each, no crash."""
    plan = build_engine(
        mixture, tmp_path / "m.plan", ROWS, BuildOptions(), command="ncdeploy build", runtime="rtx"
    ).path
    with pytest.raises(BackendError, match="no CUDA device can be used"):
        open_engine(plan)
    whole, record = plan.read_bytes(), sidecar_path(plan).read_text()
    rng = np.random.default_rng(0)
    for i in range(500):
        plan.write_bytes(mutate(whole, rng) if i else whole[: len(whole) // 2])
        with pytest.raises(FileError, match=r"not the file that .* describes"):
            open_engine(plan)
    plan.write_bytes(whole)
    for _ in range(500):
        sidecar_path(plan).write_bytes(mutate(record.encode(), rng))
        with pytest.raises(NcdeployError) as e:
            open_engine(plan)
        assert "\n" not in str(e.value)
