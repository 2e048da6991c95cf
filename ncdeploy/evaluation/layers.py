"""Where two graphs of one model part: the first layer whose output leaves tolerance.

Both run on ONNX Runtime's CPU, without its fusions, with the outputs of their layers marked; Polygraphy marks, runs and
compares them. Layers are those that have the same name in both, as graphs of one exporter have.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ncdeploy.errors import DependencyError, InputError
from ncdeploy.files import user_path
from ncdeploy.formats.describe import check_graph, describe
from ncdeploy.formats.filetype import Kind, detect
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import LIMITS, Pool

LEVELS, ROWS = 12, 2  # levels of noise; rows of a run, since all layers' outputs are held at once
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How a layer's output differs.

    layer:    of the model; operator: of the graph
    rms:      of the difference, over the rms of the reference; infinity where one of both is not finite
    cosine:   similarity; psnr: peak signal to noise in dB; the worst of all runs
    """

    layer: str
    operator: str
    rms: float
    cosine: float
    psnr: float
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: what is not finite is null."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}


def compare_layers(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    seed: int = 0,
) -> tuple[LayerDifference, ...]:
    """The layers of two denoiser graphs, model.onnx, in the order in which they are computed.

    tolerance: of the relative rms; the default suits the less precise of both

    Raises InputError for files that are no graphs or have no layer in common, DependencyError without onnx,
    ONNX Runtime or Polygraphy.
    """
    infos = [_info(path) for path in (reference, candidate)]
    if tolerance is None:
        tolerance = max(LIMITS[info.precision][0] for info in infos)
    info = infos[0]
    pool = Pool(info, np.geomspace(info.sigma_min, info.sigma_max, LEVELS), np.random.default_rng(seed))
    with contextlib.closing(_Pair([user_path(reference), user_path(candidate)])) as pair:
        worst = {name: [0.0, 1.0, np.inf] for name in pair.operators}
        for start in range(0, len(pool), ROWS):
            rows = np.arange(start, start + ROWS)
            feed = {"x": pool.x[rows], "sigma": pool.sigma[rows], **pool.condition(rows)}
            for name, (rms, cosine, psnr) in pair(feed).items():
                seen = worst[name]
                worst[name] = [max(seen[0], rms), min(seen[1], cosine), min(seen[2], psnr)]
    return tuple(
        LayerDifference(
            layer=name.rpartition("/")[0] or name,
            operator=name,
            rms=rms,
            cosine=cosine,
            psnr=psnr,
            ok=rms <= tolerance,
        )
        for name, (rms, cosine, psnr) in worst.items()
    )


def first_apart(layers: Sequence[LayerDifference]) -> LayerDifference | None:
    """The first layer that left tolerance, None if none did."""
    return next((layer for layer in layers if not layer.ok), None)


def _info(path: str | os.PathLike[str]) -> ModelInfo:
    if detect(path) is not Kind.ONNX:
        raise InputError(f"{path}: layers are compared of two graphs, model.onnx; ncdeploy export writes one")
    file = read_onnx(path)
    info = describe(path, file)
    check_graph(path, file, info)
    if info.conditions:
        raise InputError(f"{path}: takes conditions; layers are compared of graphs with labels and guidance at most")
    if info.precision == "bf16":
        raise InputError(
            f"{path}: is bf16, for which ONNX Runtime has no kernels on the CPU; layers of fp16 can be shown"
        )
    return info


class _Pair:
    """Both graphs, ready to run. operators: those compared, in the order of the reference.

    feed -> (relative rms, cosine, PSNR) of each
    """

    def __init__(self, files: Sequence[Path]) -> None:
        try:
            import onnx
            import onnxruntime as ort
            from polygraphy.backend.onnx import ModifyOutputs
            from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
            from polygraphy.logger import G_LOGGER
        except ImportError as e:
            raise DependencyError(
                "comparing layers needs onnx, onnxruntime and polygraphy: pip install polygraphy"
            ) from e
        self._silence = lambda: G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1)
        models = [onnx.load(file) for file in files]
        outputs = [_outputs(model) for model in models]
        self.operators = tuple(name for name in outputs[0] if name in outputs[1])
        if not self.operators:
            raise InputError(
                f"{files[1]}: has no layer of the same name as {files[0]}; export both with ncdeploy export"
            )
        self._names = [{side[name]: name for name in self.operators} for side in outputs]
        self._runners = []
        with self._silence():
            for model, names in zip(models, self._names, strict=True):
                marked = ModifyOutputs(model, outputs=list(names))().SerializeToString()
                level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # fusions remove the very roundings
                runner = OnnxrtRunner(SessionFromOnnx(marked, graph_optimization_level=level))
                runner.activate()
                self._runners.append(runner)

    def __call__(self, feed: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
        from polygraphy.comparator import CosineSimilarityCompareFunc, IterationResult, L2CompareFunc, PsnrCompareFunc

        with self._silence(), np.errstate(all="ignore"):
            sides = []
            for runner, names in zip(self._runners, self._names, strict=True):
                found = runner.infer(feed)
                sides.append({operator: np.asarray(found[name], np.float32) for name, operator in names.items()})
            results = [IterationResult(side, runner_name=str(i)) for i, side in enumerate(sides)]
            distance, cosine, psnr = (
                compare(*results) for compare in (L2CompareFunc(), CosineSimilarityCompareFunc(), PsnrCompareFunc())
            )
            scale = {name: max(float(np.linalg.norm(values.ravel())), 1e-12) for name, values in sides[0].items()}
            return {
                name: (
                    _number(distance[name].l2_norm / scale[name], np.inf),
                    _number(cosine[name].cosine_similarity, -1.0),
                    _number(psnr[name].psnr, -np.inf),
                )
                for name in self.operators
            }

    def close(self) -> None:
        """Polygraphy complains of runners that are not ended."""
        with self._silence():
            while self._runners:
                self._runners.pop().deactivate()


def _number(value: float, otherwise: float) -> float:
    return otherwise if np.isnan(value) else float(value)


def _outputs(model: Any) -> dict[str, str]:
    """Operator -> its output, of each product and of the last operator of each layer, as far as they are floats."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    nodes = [n for n in graph.node if n.name and n.op_type != "Cast" and types.get(n.output[0]) in floats]
    last = {node.name.rpartition("/")[0] or node.name: node.name for node in nodes}
    wanted = {*last.values(), *(node.name for node in nodes if node.op_type in PRODUCTS)}
    return {node.name: str(node.output[0]) for node in nodes if node.name in wanted}
