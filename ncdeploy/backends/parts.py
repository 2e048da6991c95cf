"""The encoder and the decoder of a bundle, on ONNX Runtime beside any engine. NumPy arrays in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ncdeploy.backends.base import Closing
from ncdeploy.backends.onnxruntime import Session
from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.parts import Part
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import take_all


class PartEngine(Closing):
    """A graph that runs once a sample: `encoder({"obs": obs})` gives conditions, `decoder({"x": samples})` what a host
    wants.

    path, part: the graph and its description; it is opened in the first call
    info, device, threads: of the model, and as for `ncdeploy.open_engine`
    """

    def __init__(
        self, path: Path, part: Part, info: ModelInfo, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        self.path, self.part = path, part
        self._info, self._device, self._threads = info, device, threads
        self._session: Session | None = None

    def __call__(self, values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """values [samples, *shape] by the names of the inputs -> the outputs by theirs.

        Raises InputError for values that do not fit, BackendError when the runtime fails, DependencyError without
        ONNX Runtime.
        """
        counts = {len(value) for value in values.values() if getattr(value, "ndim", 0)}
        given = take_all(self.part.inputs, values, counts.pop() if counts else 1)
        if not len(next(iter(given.values()))):
            raise InputError(f"{self.path.name}: got no samples, expected at least one")
        if self._session is None:
            self._session = Session(self.path, self._info, device=self._device, threads=self._threads)
        names = [value.name for value in self.part.outputs]
        outputs = dict(zip(names, self._session.run(names, given), strict=True))
        for value in self.part.outputs:
            found = outputs[value.name]
            if found.shape[1:] != value.shape or len(found) != len(next(iter(given.values()))):
                raise FileError(f"{self.path}: gave {value.name} {found.shape}, expected (samples, *{value.shape})")
        return outputs

    def close(self) -> None:
        """Release the session; another call opens it again."""
        if self._session is not None:
            self._session.close()
        self._session = None


def encoded(encoder: PartEngine | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a run: what the encoder takes goes through it, the rest stays.

    Raises InputError where a condition is given that the encoder makes as well, and as the encoder does.
    """
    if encoder is None:
        return dict(given)
    names = [value.name for value in encoder.part.inputs]
    raw = {name: value for name, value in given.items() if name in names}
    rest = {name: value for name, value in given.items() if name not in names}
    if not raw:
        return rest
    twice = next((value.name for value in encoder.part.outputs if value.name in rest), None)
    if twice is not None:
        raise InputError(f"conditions: {twice} is what the encoder makes of {', '.join(raw)}; give one or the other")
    return {**rest, **encoder(raw)}
