"""What a model says of itself: the record that travels in model.pt, in ONNX metadata and beside engines.

Stored as JSON under one key (`METADATA_KEY` in ONNX metadata), so that a runtime without PyTorch can
check inputs, choose a plan and label its output.
"""

import json
import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ncdeploy.errors import FileError, InputError, NcdeployWarning
from ncdeploy.ports import MAX_CONDITIONS, Condition, Port
from ncdeploy.records import Kind, about, check, parse, read, read_format, required
from ncdeploy.records.kinds import (
    FLAG,
    MAX_VALUES,
    NOT_ZERO,
    NUMBER,
    NUMBERS,
    PLAN_OPTIONS,
    POSITIVE,
    SHAPE,
    TEXT,
    TEXTS,
    integer,
    list_of,
    nullable,
    object_of,
    one_of,
)
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import adapted_plan

METADATA_KEY = "ncdeploy"
FORMAT_VERSION = 1
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Everything a runtime needs to know of a denoiser D(x, sigma[, labels]). Model units are what the network sees.

    Raises:
        InputError: for a field that does not hold what is said beside it
    """

    shape: tuple[int, ...] = field(
        metadata=about(SHAPE, "of one sample, without the batch axis: (C, H, W) for images, (d,) for vectors")
    )
    sigma_min: float = field(metadata=about(POSITIVE, "lowest noise level of the training, in model units"))
    sigma_max: float = field(metadata=about(POSITIVE, "highest noise level, above sigma_min"))
    sigma_data: float = field(metadata=about(POSITIVE, "standard deviation of the training data, in model units"))
    num_classes: int = field(
        default=0,
        metadata=about(integer(0, MAX_VALUES), "0 if it takes no labels, else the classes are 0 .. num_classes - 1"),
    )
    # False for networks trained with a class on every sample (guided-diffusion, diffusers)
    unconditional: bool = field(
        default=True,
        metadata=about(FLAG, 'whether the label num_classes means "no class"; else each row needs a class'),
    )
    guidance: bool = field(
        default=False,
        metadata=about(
            FLAG,
            "whether D takes, beside labels, a weight w of classifier-free guidance for each row and returns "
            "D(x, sigma, no class) + w (D(x, sigma, label) - D(x, sigma, no class)), at two evaluations a row",
        ),
    )
    offset: float = field(default=0.0, metadata=about(NUMBER, "data units = offset + scale * model units"))
    scale: float = field(default=1.0, metadata=about(NOT_ZERO, "see offset"))
    data: str = field(default="", metadata=about(TEXT, "name of the training data"))
    default_plan: dict[str, Any] = field(
        default_factory=dict,
        metadata=about(PLAN_OPTIONS, "keyword arguments of `ncdeploy.make_plan` that suit the model"),
    )
    mean: tuple[float, ...] | None = field(
        default=None,
        metadata=about(nullable(NUMBERS), "mean of the training data, one value for each of a sample, in model units"),
    )
    error_curve: ErrorCurve | None = field(
        default=None,
        metadata=about(nullable(object_of(ErrorCurve, "an error curve")), "measured denoising error, in model units"),
    )
    weights_digest: str = field(default="", metadata=about(TEXT, "SHA-256 of the weights, empty when unknown"))
    precision: str = field(
        default="fp32",
        metadata=about(
            one_of(*PRECISIONS),
            "of convolutions and matrix products in an exported graph; tf32 is a float32 graph whose runtime may round "
            "their inputs to 10 bits",
        ),
    )
    versions: dict[str, str] = field(
        default_factory=dict, metadata=about(TEXTS, "package versions that wrote the file")
    )
    clip: float | None = field(
        default=None,
        metadata=about(
            nullable(POSITIVE),
            "the model cuts D to -clip .. clip, so that no plan can follow the D before that; null: not, or not known",
        ),
    )
    conditions: tuple[Condition, ...] = field(
        default=(),
        metadata=about(
            list_of(object_of(Condition, "a condition"), "a list of conditions", 0, MAX_CONDITIONS),
            "inputs given once a sample, [samples, *shape], with an input `sample` that says whose each row is",
            vital=True,
        ),
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.sigma_min < self.sigma_max:
            raise InputError(f"sigma range: got {self.sigma_min} .. {self.sigma_max}, expected 0 < min < max")
        if self.mean is not None and len(self.mean) != self.dim:
            raise InputError(f"mean: got {len(self.mean)} values, expected {self.dim} finite ones")
        if self.guidance and not self.guidable:
            raise InputError("guidance: needs an unconditional class, or a condition with a null value")
        if len({condition.name for condition in self.conditions}) < len(self.conditions):
            raise InputError("conditions: two have the same name")

    @property
    def dim(self) -> int:
        """Number of values in one sample."""
        return int(np.prod(self.shape))

    def decoded(self, shape: tuple[int, ...]) -> "ModelInfo":
        """The same for what a decoder makes of the samples: of this shape, and in the units of the data."""
        return replace(self, shape=shape, offset=0.0, scale=1.0, mean=None)

    @property
    def null_label(self) -> int | None:
        """The label that means "no class", or None for a model that has none."""
        return self.num_classes if self.num_classes and self.unconditional else None

    @property
    def labels(self) -> range:
        """The labels a row may have; empty for a model that takes none."""
        return range(self.num_classes + (self.null_label is not None))

    @property
    def guidable(self) -> bool:
        """Whether there is something to guide away from: an unconditional class, or a condition with a null value."""
        return self.null_label is not None or any(condition.null is not None for condition in self.conditions)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a graph of the model takes. Rows lie along "batch", conditions along "samples"."""
        ports = [
            Port(name="x", dtype="float32", shape=("batch", *self.shape)),
            Port(name="sigma", dtype="float32", shape=("batch",)),
        ]
        if self.num_classes:
            ports.append(Port(name="labels", dtype="int64", shape=("batch",)))
        ports += [Port(name=c.name, dtype=c.dtype, shape=("samples", *c.shape)) for c in self.conditions]
        if self.conditions:
            ports.append(Port(name="sample", dtype="int64", shape=("batch",)))
        if self.guidance:
            ports.append(Port(name="guidance", dtype="float32", shape=("batch",)))
        return tuple(ports)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What a graph of the model returns."""
        return (Port(name="denoised", dtype="float32", shape=("batch", *self.shape)),)

    @property
    def evaluations(self) -> int:
        """Rows that the network evaluates for one row of x."""
        return 2 if self.guidance else 1

    def plan(
        self,
        solver: str | None = None,
        steps: int | None = None,
        *,
        schedule: str | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        spacing: str | None = None,
        shift: float | None = None,
        eta: float | None = None,
        variance: str | None = None,
        order: int | None = None,
        churn: float | None = None,
        churn_noise: float | None = None,
        churn_min: float | None = None,
        churn_max: float | None = None,
        clip: float | None = None,
        raw_noise: bool | None = None,
    ) -> Plan:
        """The model's own plan, `default_plan`, with what is given here instead: see `ncdeploy.make_plan`.

        Warns and raises InputError as `check_plan` does; raises it as `make_plan` does, too.
        """
        plan = adapted_plan(
            self.default_plan, (self.sigma_min, self.sigma_max), solver=solver, steps=steps, schedule=schedule,
            sigma_min=sigma_min, sigma_max=sigma_max, spacing=spacing, shift=shift, eta=eta, variance=variance,
            order=order, churn=churn, churn_noise=churn_noise, churn_min=churn_min, churn_max=churn_max, clip=clip,
            raw_noise=raw_noise,
        )  # fmt: skip
        self.check_plan(plan, stacklevel=3)
        return plan

    def check_plan(self, plan: Plan, *, stacklevel: int = 2) -> None:
        """Warn, with NcdeployWarning, if the plan asks for noise levels that the model was not trained on.

        Raises InputError as `check_clip` does.
        """
        self.check_clip(plan)
        asked = plan.sigmas[plan.evaluated]
        low, high = float(asked.min()), float(asked.max())
        if low < self.sigma_min * (1 - 1e-3) or high > self.sigma_max * (1 + 1e-3):
            warnings.warn(
                f"{plan.name} asks for noise levels {low:.3g} to {high:.3g}, the model was trained on "
                f"{self.sigma_min:.3g} to {self.sigma_max:.3g}; samples may suffer (schedule, sigma_min and sigma_max "
                "choose others)",
                NcdeployWarning,
                stacklevel=stacklevel,
            )

    def check_clip(self, plan: Plan) -> None:
        """Raise InputError if both the plan and the model cut D: the plan would never see the D that is not cut."""
        if plan.clip is not None and self.clip is not None:
            raise InputError(
                f"clip: this model cuts D to -{self.clip:g} .. {self.clip:g} itself; leave it out, or import the model "
                "without that (ncdeploy import --no-clip, of guided-diffusion --no-clip-denoised)"
            )

    def to_data_units(self, x: Any) -> Any:
        """An array in model units, in the units of the training data: offset + scale * x."""
        return self.offset + self.scale * x

    def describe_labels(self) -> str:
        """The labels in words, for messages: "0 to 10 (10 = unconditional)"."""
        if self.null_label is None:
            return f"0 to {self.num_classes - 1} (it has no unconditional class)"
        return f"0 to {self.num_classes} ({self.num_classes} = unconditional)"

    def to_record(self) -> dict[str, Any]:
        """The fields as a JSON object, with the version of their format."""
        fields = asdict(self)
        for name in ("clip", "conditions"):  # as before there were any, for readers of that time
            if not fields[name]:
                del fields[name]
        return {"format": FORMAT_VERSION, **fields, **required(self)}

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(self.to_record(), sort_keys=True)

    @classmethod
    def from_record(cls, record: Any) -> "ModelInfo":
        """Read what `to_record` wrote. Raises FileError naming what is missing or wrong."""
        if isinstance(record, dict):
            read_format("model metadata", "format", FORMAT_VERSION, record)
        try:
            return read(cls, record)
        except InputError as e:
            raise FileError(f"model metadata is damaged: {e}") from e

    @classmethod
    def from_json(cls, text: str) -> "ModelInfo":
        """Read what `to_json` wrote. Raises as `from_record` does."""
        return cls.from_record(parse(text, "model metadata"))


MODEL = Kind(words="the record of a model", fits=lambda v: isinstance(v, dict | ModelInfo), read=ModelInfo.from_record)
