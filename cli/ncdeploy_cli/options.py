"""Options that several commands share, in the same words; `panel` is the part of the help that they stand in."""

from typing import Annotated, Any

import typer

from ncdeploy.errors import InputError
from ncdeploy.sampling.solvers import FILES

SOLVERS = ", ".join(FILES)
UNDESCRIBED = "A file that does not describe its model"

Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object on one line.")]

Shape = Annotated[
    str | None,
    typer.Option(help='Shape of a sample, "3,64,64".', show_default="the graph's", rich_help_panel=UNDESCRIBED),
]
SigmaData = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of the training data; give --sigma-min and --sigma-max too.",
        rich_help_panel=UNDESCRIBED,
    ),
]
NumClasses = Annotated[int | None, typer.Option(help="Number of classes.", rich_help_panel=UNDESCRIBED)]
COMPARED = "What counts as agreement"
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="Largest difference of D, in model units.",
        show_default="1e-4; 0.02 fp16, 0.1 bf16",
        rich_help_panel=COMPARED,
    ),
]
TrajectoryTolerance = Annotated[
    float | None,
    typer.Option(
        help="Largest rms difference of a sample.",
        show_default="1e-3; 0.01 fp16, 0.03 bf16",
        rich_help_panel=COMPARED,
    ),
]


def device(panel: str | None = None) -> Any:
    """Where an engine runs."""
    return typer.Option(help="cpu, cuda or cuda:N; for a .onnx also tensorrt, ONNX Runtime's.", rich_help_panel=panel)


def threads(panel: str | None = None) -> Any:
    """Of an engine on the CPU."""
    return typer.Option(min=1, help="CPU threads.", show_default="the runtime's choice", rich_help_panel=panel)


def solver(panel: str) -> Any:
    """Of one plan."""
    return typer.Option(help=f"One of {SOLVERS}.", show_default="the model's own", rich_help_panel=panel)


def steps(panel: str) -> Any:
    """Of one plan."""
    return typer.Option(help="Steps of the solver.", show_default="the model's own", rich_help_panel=panel)


def schedule(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Noise levels: karras, exponential, ddpm, cosine or flow.",
        show_default="the solver's usual",
        rich_help_panel=panel,
    )


def condition(panel: str | None = None) -> Any:
    """Of a model that takes some."""
    return typer.Option(
        "--condition",
        help="NAME=FILE.npy or NAME=FILE.npz:KEY, repeated to fill the samples; once for each condition.",
        show_default=False,
        rich_help_panel=panel,
    )


def eta(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(help="Noise that ddim adds, 0 (none) to 1.", show_default="0", rich_help_panel=panel)


def variance(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Variance of the noise that ddpm adds: posterior or beta.", show_default="posterior", rich_help_panel=panel
    )


def order(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(help="Order of unipc (1 to 3), ipndm (1 to 4).", show_default="2 and 4", rich_help_panel=panel)


def churn(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Noise that heun adds on its way, S_churn of EDM's stochastic sampler: 0 (none) to 80.",
        show_default="0",
        rich_help_panel=panel,
    )


def clip(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Cut D to -CLIP .. CLIP, of a model that does not cut it itself.", show_default="none",
        rich_help_panel=panel,
    )  # fmt: skip


def raw_noise(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        "--raw-noise/--cut-noise",
        help="With --clip ddim follows the noise of D before it is cut, as DDIMPipeline of diffusers does, or after.",
        show_default="cut-noise",
        rich_help_panel=panel,
    )


def spacing(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Which training levels a ddpm or cosine schedule takes: leading, trailing or linspace.",
        show_default="leading",
        rich_help_panel=panel,
    )


def shift(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Of a flow schedule: above 1 it takes more of the steps at noise, 3 is usual for large pictures.",
        show_default="the model's own",
        rich_help_panel=panel,
    )


def split(texts: list[str] | None) -> list[str]:
    """The parts of an option that takes a list, "a,b" or given several times."""
    return [part.strip() for text in texts or () for part in text.split(",")]


def counts(option: str, texts: list[str] | None) -> list[int]:
    """Numbers of a list of at least 1. Raises InputError, naming the option, for anything else."""
    parts = split(texts)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f'{option} {",".join(parts)}: expected numbers of at least 1, like "8,32"')
    return [int(part) for part in parts]


def trust(panel: str | None = None, *, what: str = "a model") -> Any:
    """Leave to run code that `what` names."""
    return typer.Option(
        "--trust", help=f"Run the Python code that {what} imported from module:function names.", rich_help_panel=panel
    )


_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}


def seconds(option: str, text: str) -> float:
    """A time such as "200ms". Raises InputError for one without its unit."""
    number = text.strip().rstrip("msin")
    unit = text.strip()[len(number) :]
    try:
        return float(number) * _UNITS[unit]
    except (KeyError, ValueError) as e:
        raise InputError(f'{option} {text}: expected a time with its unit, "200ms", "1.5s" or "2min"') from e
