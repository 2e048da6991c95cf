"""Graphs in half precision: the types are those asked for, the numbers are near, and advice that is followed helps."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import ncdeploy.export.denoiser as exporting
from ncdeploy.backends import open_engine
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import EDM, Mixture, UNet, UNetConfig, save_model
from ncdeploy.errors import BackendError, InputError, ParityError
from ncdeploy.export import export_onnx
from ncdeploy.export.graph import trace
from ncdeploy.export.passes.emulate import Emulate
from ncdeploy.export.passes.lower import Lower
from ncdeploy.export.passes.types import LOW, check_types, layers
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import compare

INFO = ModelInfo(shape=(1, 8, 8), sigma_min=0.01, sigma_max=80.0, sigma_data=0.7, num_classes=2)
CONFIG = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_width=16, width=16)
TYPE = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}


def lower(graph: onnx.ModelProto, precision: str, *keep: str) -> onnx.ModelProto:
    return Lower(precision=precision, keep=keep)(graph)[0]


def emulate(graph: onnx.ModelProto) -> onnx.ModelProto:
    return Emulate()(graph)[0]


def run(graph: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.fixture(scope="module")
def unet() -> tuple[EDM, onnx.ModelProto]:
    denoiser = EDM(UNet(INFO.shape, CONFIG, 2), INFO)
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    return denoiser, trace(denoiser)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch):
    """Export without tracing again: the test's graph in place of the exporter's."""

    def use(graph: onnx.ModelProto) -> None:
        monkeypatch.setattr(exporting, "trace", lambda model, **_: onnx.ModelProto.FromString(bytes_of[0]))
        bytes_of[:] = [graph.SerializeToString()]

    bytes_of: list[bytes] = []
    return use


def inputs(rows: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    sigma = np.geomspace(0.02, 60, rows).astype(np.float32)
    x = 0.7 * rng.standard_normal((rows, 1, 8, 8)) + sigma[:, None, None, None] * rng.standard_normal((rows, 1, 8, 8))
    return {"x": x.astype(np.float32), "sigma": sigma, "labels": np.arange(rows) % 3}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_types_are_where_they_belong(unet, precision):
    graph = lower(unet[1], precision)
    onnx.checker.check_model(graph, full_check=True)
    assert {p.type.tensor_type.elem_type for p in [*graph.graph.input, *graph.graph.output]} <= {
        TensorProto.FLOAT, TensorProto.INT64
    }  # fmt: skip
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {t.name: t.data_type for t in inferred.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.input, *inferred.output]}

    def type_of(operator: str, inside: str = "") -> set[int]:
        found = [n for n in graph.graph.node if n.op_type == operator and inside in n.name]
        assert found, operator
        return {types[v] for n in found for v in [n.input[0], n.output[0]]}

    low = {LOW[precision]}
    assert type_of("Conv") == type_of("MatMul") == low
    assert type_of("InstanceNormalization") == type_of("Softmax") == type_of("Cos") == {TensorProto.FLOAT}
    assert type_of("Gemm", "conditioning") == {TensorProto.FLOAT}  # the noise embedding
    assert check_types(graph, precision)[TYPE[precision]] > check_types(graph, precision)["FLOAT"]
    weights = {t.name: t.data_type for t in graph.graph.initializer}
    assert "network.inner.weight" not in weights  # no second copy in float32 is shipped


def test_a_graph_that_stayed_float32_is_found_out(unet):
    with pytest.raises(BackendError, match="not fp16"):
        check_types(unet[1], "fp16")
    with pytest.raises(BackendError, match="not bf16"):
        check_types(lower(unet[1], "fp16"), "bf16")
    graph = lower(unet[1], "fp16")
    norm = next(n for n in graph.graph.node if n.op_type == "Softmax")
    before = next(n for n in graph.graph.node if n.output[0] == norm.input[0])
    norm.input[0] = before.input[0]  # past its cast to float32
    with pytest.raises(BackendError, match=norm.name):
        check_types(graph, "fp16")


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_the_numbers_are_near_and_not_equal(unet, precision, bound):
    feeds = inputs()
    exact = run(unet[1], feeds)
    error = np.abs(run(emulate(lower(unet[1], precision)), feeds) - exact).max()
    assert bound / 100 < error < bound
    # PyTorch's own mixed precision, which follows the same rule.
    with torch.autocast("cpu", torch.float16 if precision == "fp16" else torch.bfloat16), torch.inference_mode():
        mixed = unet[0].eval()(*map(torch.from_numpy, feeds.values())).float().numpy()
    assert bound / 100 < np.abs(mixed - exact).max() < bound


def test_emulation_rounds_after_every_operator():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 6)).astype("f"), rng.standard_normal((6, 6)).astype("f")
    node = helper.make_node
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["a"], name="one/a"), node("Mul", ["a", "a"], ["b"], name="b"),
         node("MatMul", ["b", "w"], ["c"], name="two/c"), node("Softmax", ["c"], ["d"], name="d")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def half(a):
        return a.astype(np.float16).astype(np.float32)

    def wanted(first):
        a = first(x) @ first(w)
        b = half(first(a) * first(a))
        c = half(half(b) @ half(w))
        e = np.exp(c - c.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    lowered = lower(model, "fp16")
    assert layers(lowered) == (("one", "two"), ())
    got = run(emulate(lowered), {"x": x})
    np.testing.assert_allclose(got, wanted(half), rtol=1e-6)
    assert np.abs(got - wanted(lambda a: a)).max() > 1e-4  # float32 would not have passed
    assert layers(lower(model, "fp16", "one")) == (("two",), ("one",))


def test_patterns(unet):
    every = layers(lower(unet[1], "fp16"))[0]
    spared = lower(unet[1], "fp16", "network.down.0", "*.attention")
    low, kept = layers(spared)
    assert set(low) | set(kept) == set(every)
    assert {"network.down.0.conv1", "network.down.1.attention.outer"} <= set(kept)
    assert "network.down.1.conv1" in low
    assert check_types(spared, "fp16")["FLOAT"] > check_types(lower(unet[1], "fp16"), "fp16")["FLOAT"]
    with pytest.raises(InputError, match=r"no layer is called 'network.outr'; there are network"):
        lower(unet[1], "fp16", "network.outr")


def test_export_and_run(unet, traced, tmp_path):
    traced(unet[1])
    done = export_onnx(unet[0], tmp_path / "h.onnx", precision="fp16", keep_fp32=["network.outer"], threads=1)
    assert done.parity.ok
    assert done.parity.trajectory_rms <= 1e-2
    assert done.kept == ("network.outer",)
    assert "fp16 emulated" in done.parity.candidate
    full = export_onnx(unet[0], tmp_path / "f.onnx", threads=1)
    assert done.size < 0.75 * full.size
    engine = open_engine(tmp_path / "h.onnx", threads=1)  # on this runtime's own terms, too
    assert engine.info.precision == "fp16"
    report = compare(TorchBackend(unet[0], threads=1), engine)
    assert report.ok
    assert report.tolerance == 0.02
    assert not compare(TorchBackend(unet[0], threads=1), engine, tolerance=1e-6).ok


def test_bfloat16_and_tf32(unet, traced, tmp_path):
    traced(unet[1])
    done = export_onnx(unet[0], tmp_path / "b.onnx", precision="bf16", threads=1)
    assert done.opset == 22
    assert 1e-5 < done.parity.trajectory_rms <= 3e-2
    with pytest.raises(BackendError, match=r"no bfloat16 kernels.*--device cuda.*fp16"):
        open_engine(tmp_path / "b.onnx")
    done = export_onnx(unet[0], tmp_path / "t.onnx", precision="tf32", threads=1)
    assert done.parity.tolerance == 1e-4  # float32 on this CPU
    assert open_engine(tmp_path / "t.onnx").info.precision == "tf32"


def test_advice_names_the_layers_and_following_it_helps(traced, tmp_path):
    """The logits of a mixture are squared distances over small variances: bfloat16 does not hold them."""
    mixture = Mixture.digits()
    traced(trace(mixture))
    done = export_onnx(mixture, tmp_path / "h.onnx", precision="fp16", threads=1)
    assert done.parity.trajectory_rms <= 1e-2
    with pytest.raises(ParityError, match=r"it agrees with --keep-fp32 (\w+)$") as e:
        export_onnx(mixture, tmp_path / "b.onnx", precision="bf16", threads=1)
    assert not (tmp_path / "b.onnx").exists()
    advice = str(e.value).split()[-1]
    done = export_onnx(mixture, tmp_path / "b.onnx", precision="bf16", keep_fp32=[advice], threads=1)
    assert done.parity.trajectory_rms <= 3e-2
    assert len(done.low) == 1


def test_bad_input(unet, tmp_path):
    with pytest.raises(InputError, match="fp32, tf32, fp16, bf16"):
        export_onnx(unet[0], tmp_path / "m.onnx", precision="int8")
    with pytest.raises(InputError, match="nothing but float32"):
        export_onnx(unet[0], tmp_path / "m.onnx", keep_fp32=["network.outer"])
    graph = onnx.ModelProto.FromString(unet[1].SerializeToString())
    node = graph.graph.node.add(op_type="If", name="branch")
    node.attribute.append(helper.make_attribute("then_branch", onnx.GraphProto(name="empty")))
    with pytest.raises(BackendError, match="loops and branches"):
        lower(graph, "fp16")


def test_on_the_command_line(unet, traced, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)
    traced(unet[1])
    save_model("m.pt", unet[0])
    options = ["--precision", "fp16", "--keep-fp32", "network.outer", "--keep-fp32", "*.attention", "--threads", "1"]
    done = CliRunner().invoke(app, ["export", "m.pt", *options, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["precision"] == "fp16"
    assert {"network.outer", "network.down.1.attention"} <= set(record["kept"])
    assert "fp16 in convolutions" in CliRunner().invoke(app, ["inspect", "m.onnx"]).stdout
    verified = CliRunner().invoke(app, ["verify", "m.pt", "m.onnx", "--threads", "1"])
    assert "tolerances 0.02, at high sigma more, and 0.01" in verified.stdout
    for wrong, said in ((["--precision", "int4"], "fp32, tf32, fp16, bf16"), (options[2:4], "nothing but float32")):
        done = CliRunner().invoke(app, ["export", "m.pt", "--force", *wrong])
        assert (done.exit_code, said in done.stderr) == (1, True)
