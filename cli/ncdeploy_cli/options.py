"""Options that several commands share, in the same words; `panel` is the part of the help that they stand in."""

from typing import Annotated, Any

import typer

from ncdeploy.sampling.solvers import FILES

SOLVERS = ", ".join(FILES)
UNDESCRIBED = "A file that does not describe its model"

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
Tolerance = Annotated[
    float | None,
    typer.Option(help="Largest difference of D, in model units.", show_default="1e-4; 0.02 fp16, 0.1 bf16"),
]
TrajectoryTolerance = Annotated[
    float | None,
    typer.Option(help="Largest rms difference of a sample.", show_default="1e-3; 0.01 fp16, 0.03 bf16"),
]


def steps(panel: str) -> Any:
    """Of one plan."""
    return typer.Option(help="Steps of the solver.", show_default="the model's own", rich_help_panel=panel)


def schedule(panel: str) -> Any:
    """Of one plan or several."""
    return typer.Option(
        help="Noise levels: karras, exponential, ddpm or cosine.",
        show_default="the solver's usual",
        rich_help_panel=panel,
    )


def trust(panel: str | None = None, *, what: str = "a model") -> Any:
    """Leave to run code that `what` names."""
    return typer.Option(
        "--trust", help=f"Run the Python code that {what} imported from module:function names.", rich_help_panel=panel
    )
