"""What a model says of itself: the record that travels in model.pt, in ONNX metadata and beside engines.

Stored as JSON under one key (`METADATA_KEY` in ONNX metadata), so that a runtime without PyTorch can
check inputs, choose a plan and label its output.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from ncdeploy.errors import FileError, InputError
from ncdeploy.sampling.errorcurve import ErrorCurve

METADATA_KEY = "ncdeploy"
FORMAT_VERSION = 1
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Everything a runtime needs to know of a denoiser D(x, sigma[, labels]).

    shape:          of one sample, without the batch axis: (C, H, W) for images, (d,) for vectors
    sigma_min/max:  noise levels the network was trained on, in model units
    sigma_data:     standard deviation of the training data, in model units
    num_classes:    0 if the model takes no labels; otherwise 0 .. num_classes - 1 are the classes
    unconditional:  whether the label num_classes means "no class". False for networks trained with a class on
                    every sample (guided-diffusion, diffusers): each row then needs a class
    guidance:       whether D takes, beside labels, a weight w of classifier-free guidance for each row and returns
                    D(x, sigma, no class) + w (D(x, sigma, label) - D(x, sigma, no class)), at two evaluations a row
    offset, scale:  data units = offset + scale * model units
    data:           name of the training data
    default_plan:   keyword arguments of `ncdeploy.make_plan` that suit the model
    mean:           mean of the training data, prod(shape) values in model units, or None
    error_curve:    measured denoising error, in model units, or None
    weights_digest: SHA-256 of the weights ("" when unknown)
    precision:      of convolutions and matrix products in an exported graph: fp32, tf32 (a float32 graph whose runtime
                    may round their inputs to 10 bits), fp16 or bf16
    versions:       package versions that wrote the file
    """

    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    sigma_data: float
    num_classes: int = 0
    unconditional: bool = True
    guidance: bool = False
    offset: float = 0.0
    scale: float = 1.0
    data: str = ""
    default_plan: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    error_curve: ErrorCurve | None = None
    weights_digest: str = ""
    precision: str = "fp32"
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise InputError(f"shape: got {self.shape}, expected positive integers without the batch axis")
        if not 0 < self.sigma_min < self.sigma_max < float("inf"):
            raise InputError(f"sigma range: got {self.sigma_min} .. {self.sigma_max}, expected 0 < min < max")
        if not 0 < self.sigma_data < float("inf"):
            raise InputError(f"sigma_data: got {self.sigma_data}, expected a positive number")
        if self.mean is not None and (len(self.mean) != self.dim or not np.all(np.isfinite(self.mean))):
            raise InputError(f"mean: got {len(self.mean)} values, expected {self.dim} finite ones")
        if self.num_classes < 0:
            raise InputError(f"num_classes: got {self.num_classes}, expected 0 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        for name in ("unconditional", "guidance"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected true or false")
        if self.guidance and self.null_label is None:
            raise InputError("guidance: needs a model with classes and an unconditional one among its labels")

    @property
    def dim(self) -> int:
        """Number of values in one sample."""
        return int(np.prod(self.shape))

    @property
    def null_label(self) -> int | None:
        """The label that means "no class", or None for a model that has none."""
        return self.num_classes if self.num_classes and self.unconditional else None

    @property
    def labels(self) -> range:
        """The labels a row may have; empty for a model that takes none."""
        return range(self.num_classes + (self.null_label is not None))

    @property
    def evaluations(self) -> int:
        """Rows that the network evaluates for one row of x."""
        return 2 if self.guidance else 1

    def describe_labels(self) -> str:
        """The labels in words, for messages: "0 to 10 (10 = unconditional)"."""
        if self.null_label is None:
            return f"0 to {self.num_classes - 1} (it has no unconditional class)"
        return f"0 to {self.num_classes} ({self.num_classes} = unconditional)"

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelInfo":
        """Read what `to_json` wrote. Raises FileError naming what is missing or wrong."""
        try:
            record = json.loads(text)
        except ValueError as e:
            raise FileError(f"model metadata is not JSON: {e}") from e
        if not isinstance(record, dict) or record.get("format") != FORMAT_VERSION:
            found = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise FileError(f"model metadata has format {found}, this version reads {FORMAT_VERSION}; update ncdeploy")
        record.pop("format")
        unknown = sorted(set(record) - {f.name for f in fields(cls)})
        if unknown:
            raise FileError(f"model metadata has unknown fields {unknown}; update ncdeploy")
        try:
            record["shape"] = tuple(record["shape"])
            if record.get("mean") is not None:
                record["mean"] = tuple(record["mean"])
            curve = record.get("error_curve")
            if curve is not None:
                record["error_curve"] = ErrorCurve(sigmas=tuple(curve["sigmas"]), mse=tuple(curve["mse"]))
            return cls(**record)
        except (KeyError, TypeError, ValueError) as e:
            raise FileError(f"model metadata is damaged: {e}") from e
