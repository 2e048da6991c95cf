"""Small model files: exact mixture denoisers as ONNX graphs, built in a moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from oracle import error_curve

IMAGES = ModelInfo(
    shape=(1, 8, 8),
    sigma_min=0.002,
    sigma_max=160.0,
    sigma_data=0.75,
    offset=8.0,
    scale=8.0,
    default_plan={"solver": "dpmpp_2m", "steps": 12, "sigma_min": 0.02, "sigma_max": 80.0},
    error_curve=error_curve(),
)
POINTS = replace(IMAGES, shape=(2,), offset=0.0, scale=1.0, error_curve=None)
VECTORS = replace(POINTS, shape=(5,))


def write_mixture(path: Path, info: ModelInfo, means: np.ndarray, *, std: float = 0.1, described: bool = True) -> Path:
    """D(x; sigma) of equally likely components at `means` [m, *shape]; labels, where there are any, are looked at
    only to add nothing, so that a conditional model is one, too."""
    mu = means.reshape(len(means), -1).astype(np.float32)
    constants = {
        "mu": mu,
        "mu_t": mu.T.copy(),
        "half_norm": (0.5 * (mu**2).sum(axis=1)).astype(np.float32),
        "var": np.array(std**2, np.float32),
        "flat": np.array([-1, mu.shape[1]], np.int64),
        "column": np.array([-1, 1], np.int64),
        "shape": np.array([-1, *info.shape], np.int64),
        "zero": np.array(0.0, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "flat"], ["rows"]),
        node("Reshape", ["sigma", "column"], ["s"]),
        node("Mul", ["s", "s"], ["s2"]),
        node("Add", ["s2", "var"], ["v"]),
        node("MatMul", ["rows", "mu_t"], ["dot"]),
        node("Sub", ["dot", "half_norm"], ["centred"]),
        node("Div", ["centred", "v"], ["logits"]),
        node("Softmax", ["logits"], ["w"], axis=1),
        node("MatMul", ["w", "mu"], ["mu_hat"]),
        node("Mul", ["rows", "var"], ["a"]),
        node("Mul", ["mu_hat", "s2"], ["b"]),
        node("Add", ["a", "b"], ["sum"]),
        node("Div", ["sum", "v"], ["flat_out"]),
        node("Reshape", ["flat_out", "shape"], ["denoised" if not info.num_classes else "out"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *info.shape]),
        helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["batch"]),
    ]
    if info.num_classes:
        inputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"]))
        constants["ones"] = np.array([-1, *[1] * len(info.shape)], np.int64)
        nodes += [
            node("Cast", ["labels"], ["classes"], to=TensorProto.FLOAT),
            node("Mul", ["classes", "zero"], ["nothing"]),
            node("Reshape", ["nothing", "ones"], ["wide"]),
            node("Add", ["out", "wide"], ["denoised"]),
        ]
    graph = helper.make_graph(
        nodes,
        "mixture",
        inputs,
        [helper.make_tensor_value_info("denoised", TensorProto.FLOAT, ["batch", *info.shape])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if described:
        helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.save(model, path)
    return path


def write_nan_below(path: Path, info: ModelInfo, sigma: float) -> Path:
    """A denoiser that returns NaN wherever the noise level is below `sigma`."""
    node = helper.make_node
    column = [-1, *[1] * len(info.shape)]
    constants = {"level": np.array(sigma, np.float32), "column": np.array(column, np.int64)}
    nodes = [
        node("Reshape", ["sigma", "column"], ["s"]),
        node("Sub", ["s", "level"], ["above"]),
        node("Sqrt", ["above"], ["root"]),
        node("Sub", ["root", "root"], ["nothing"]),
        node("Add", ["x", "nothing"], ["denoised"]),
    ]
    graph = helper.make_graph(
        nodes,
        "nan",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *info.shape]),
            helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["batch"]),
        ],
        [helper.make_tensor_value_info("denoised", TensorProto.FLOAT, ["batch", *info.shape])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.save(model, path)
    return path
