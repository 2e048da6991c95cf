"""Running sampler.onnx and sweep.onnx on ONNX Runtime: seeds in, samples out, as `ncdeploy.sample` gives them.

The noise comes from the generator of `ncdeploy.sampling.noise`, so the samples are those of the host loop.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.backends.base import Closing
from ncdeploy.backends.graphs.sweeps import Outcome, SweepDriver
from ncdeploy.backends.graphs.tables import draw, draws_of, plan_tables, widest_window
from ncdeploy.backends.onnxruntime import Session
from ncdeploy.errors import FileError, InputError, NumericalError
from ncdeploy.files import user_path
from ncdeploy.formats.describe import describe
from ncdeploy.formats.graphrecord import NO_CLIP, GraphRecord, record_of
from ncdeploy.formats.onnxfile import is_onnx, read_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import take_all
from ncdeploy.result import Result
from ncdeploy.sampling.law import THETA, check_law, check_theta, log_uniform
from ncdeploy.sampling.noise import check_seeds
from ncdeploy.sampling.parallel import TOLERANCE
from ncdeploy.sampling.plan import Plan


def is_graph(path: str | os.PathLike[str]) -> bool:
    """Whether this is an ONNX file with a sampler in it. Raises FileError for an ONNX file that is damaged."""
    file = user_path(path)
    return file.is_file() and is_onnx(file) and record_of(path, read_onnx(path).metadata) is not None


class GraphEngine(Closing):
    """A graph that runs a plan, opened.

    Raises FileError for a file that is not one, or damaged; BackendError and DependencyError as `open_engine` does.

    Attributes:
        path: sampler.onnx or sweep.onnx, as `ncdeploy.export.compose` writes them
        device, threads, providers: as for `ncdeploy.open_engine`
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        if device.startswith("tensorrt"):
            raise InputError(f"device: got {device!r}; a graph with the sampler inside runs on cpu, cuda or cuda:N")
        file = read_onnx(path)
        record = record_of(path, file.metadata)
        if record is None:
            raise FileError(f"{path}: is a denoiser without a sampler in it; run it with ncdeploy.open_engine")
        self.record: GraphRecord = record
        self.info: ModelInfo = describe(path, file)
        self._inputs = {port.name for port in file.inputs}
        self._session = Session(path, self.info, device=device, threads=threads, providers=providers)
        self.name = self._session.name
        self._plan: Plan | None = None  # whose tables are laid out
        self._laid_out: dict[str, NDArray[Any]] = {}

    def window(self, plan: Plan) -> int:
        """Evaluated nodes of this plan in a window of the graph."""
        return self.record.window if plan is self.record.plan else widest_window(plan, self.record.span)

    def sample(
        self,
        seeds: Sequence[int],
        *,
        labels: ArrayLike | None = None,
        guidance: float | None = None,
        conditions: Mapping[str, Any] | None = None,
        plan: Plan | None = None,
        tolerance: float | None = None,
        theta: float = THETA,
        max_sweeps: int | None = None,
        max_rows: int | None = None,
        on_call: Callable[[int], None] | None = None,
    ) -> Result:
        """Draw one sample per seed.

        Args:
            labels: of every sample, as for `ncdeploy.sample`, for a model that takes them
            guidance: of every sample, as for `ncdeploy.sample`, for a model that takes them
            conditions: of every sample, as for `ncdeploy.sample`, for a model that takes them
            plan: for a graph that takes its plan as input; None = the one it was verified with
            tolerance: as for `ncdeploy.sample`, which is the default; of a graph that accepts pathwise
            theta: as in `SampleOptions`; of a graph that accepts in law
            max_sweeps: of a sample; None = as many as it takes. A sample that needs more has the residual infinity
            max_rows: most rows the network sees in one call; more samples than fit are worked on in turn
            on_call: called with the sweeps done after every call of a sweep graph

        Raises:
            InputError: for values that do not fit
            NumericalError: where a sample is not finite
        """
        record = self.record
        names = check_seeds(seeds)
        if plan is not None and not record.plan_input:
            raise InputError(f"plan: this graph carries its own, {record.plan.name}; export one with --plan-input")
        plan = record.plan if plan is None else plan
        if record.plan_input and plan.clip is not None:
            raise InputError(NO_CLIP.format(plan.name))
        if record.in_law:
            if tolerance is not None:
                raise InputError("tolerance: this graph accepts in law and has none, it is exact; leave it out")
            check_law(plan)
            check_theta(theta)
        tolerance = TOLERANCE if tolerance is None else tolerance
        if not 0 <= tolerance < np.inf:
            raise InputError(f"tolerance: got {tolerance}; expected 0 or more")
        if max_sweeps is not None and max_sweeps < 1:
            raise InputError(f"max_sweeps: got {max_sweeps}; expected at least 1")
        given = _given(self.info, len(names), labels, guidance, conditions or {})
        rows = self.window(plan) * self.info.evaluations
        if max_rows is not None and max_rows < rows:
            raise InputError(f"max_rows: got {max_rows}; a window of this graph takes {rows}")
        lanes = len(names) if max_rows is None else min(len(names), max_rows // rows)
        limit = len(plan) if max_sweeps is None else max_sweeps
        start = time.perf_counter()
        parts = []
        for i in range(0, len(names), lanes):
            those = {name: values[i : i + lanes] for name, values in given.items()}
            parts.append(self._batch(names[i : i + lanes], those, plan, tolerance, theta, limit, on_call))
        columns = zip(*(outcome for outcome, _, _ in parts), strict=True)
        samples, sweeps, residual, evaluations, *in_law = (np.concatenate(column) for column in columns)
        finite = np.isfinite(samples).reshape(len(names), -1).all(axis=1)
        if not finite.all():
            seed = names[int(np.argmin(finite))]
            raise NumericalError(f"the graph returned NaN or infinity for seed {seed}; check the model it holds")
        return Result(
            samples=samples, depth=sum(depth for _, depth, _ in parts), sweeps=sweeps, residual=residual,
            nfe=float(evaluations.mean()) * self.info.evaluations, window=self.window(plan),
            wall_s=time.perf_counter() - start, engine_s=sum(seconds for _, _, seconds in parts),
            info=self.info, labels=given.get("labels"), rejections=in_law[0] if in_law else None,
            rejection_odds=in_law[1] if in_law else None,
        )  # fmt: skip

    def _batch(
        self, seeds: list[int], given: dict[str, NDArray[Any]], plan: Plan, tolerance: float, theta: float,
        max_sweeps: int,
        on_call: Callable[[int], None] | None,
    ) -> tuple[Outcome, int, float]:  # fmt: skip
        """What came out, the depth, and the seconds inside the graph."""
        record = self.record
        inputs = {k: v for k, v in self._tables(plan).items() if k in self._inputs} if record.plan_input else {}
        if record.in_law:
            inputs["theta"] = np.array(theta, np.float32)
        if record.kind == "sweep":
            driver = SweepDriver(
                self._session.run, record, self.info, plan, self._tables(plan), noise="noise" in self._inputs
            )
            found = driver.run(
                seeds, given, inputs, tolerance=tolerance, max_sweeps=max_sweeps, on_call=on_call
            )  # fmt: skip
            return found, driver.depth, driver.seconds
        nodes = np.tile(np.arange(draws_of(plan)), (len(seeds), 1))
        feeds: dict[str, NDArray[Any]] = {
            "noise": draw(seeds, nodes, self.info), "max_sweeps": np.array(max_sweeps, np.int64), **given, **inputs
        }  # fmt: skip
        if record.in_law:
            feeds["log_uniform"] = log_uniform(seeds, plan, nodes).astype(np.float32)
        else:
            feeds["tolerance"] = np.array(tolerance, np.float32)
        start = time.perf_counter()
        samples, sweeps, *rest = self._session.run(_OUTPUTS + (_IN_LAW if record.in_law else []), feeds)
        seconds = time.perf_counter() - start
        rest = [part.astype(np.float64) if part.dtype == np.float32 else part for part in rest]
        return (samples, sweeps, *rest), int(sweeps.max()), seconds

    def close(self) -> None:
        """Release the session."""
        self._session.close()

    def _tables(self, plan: Plan) -> dict[str, NDArray[Any]]:
        if self._plan is not plan:
            r, window = self.record, self.window(plan)
            self._plan, self._laid_out = plan, plan_tables(
                plan, self.info, window=window, error_floor=r.error_floor, span=r.span, reach=r.reach
            )  # fmt: skip
        return self._laid_out


_OUTPUTS = ["samples", "sweeps", "residual", "evaluations"]
_IN_LAW = ["rejections", "rejection_odds"]


def _given(
    info: ModelInfo, n: int, labels: ArrayLike | None, guidance: float | None, conditions: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """The inputs labels, guidance and conditions where the model takes them, one value per sample."""
    given = take_all(info.conditions, conditions, n)
    if info.num_classes == 0 and labels is not None:
        raise InputError("labels: this model is unconditional and takes none")
    if not info.guidance and guidance is not None:
        raise InputError("guidance: this graph takes none; export it again with --guidance")
    if info.num_classes:
        if labels is None:
            raise InputError(f"labels: this model needs them, {info.describe_labels()}")
        values = np.asarray(labels, np.int64)
        if values.shape != (n,) or values.min() < 0 or values.max() >= len(info.labels):
            raise InputError(f"labels: expected {n}, one per sample; this model takes {info.describe_labels()}")
        given["labels"] = values
    if info.guidance:
        weight = 1.0 if guidance is None else guidance
        if not np.isfinite(weight):
            raise InputError(f"guidance: got {weight}; expected a finite weight, 1 for none, 1.5 for a little")
        given["guidance"] = np.full(n, weight, np.float32)
    return given
