"""`ncdeploy doctor`: what this machine can run, and what to do about the rest."""

from typing import TYPE_CHECKING

import typer

from ncdeploy_cli import console, options

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.doctor.diagnosis import Diagnosis


def doctor(
    as_json: options.Json = False,
) -> None:
    """Show what is installed, which providers and GPUs really work, and one remedy per problem.

    Exits with 1 if nothing here can run a model.
    """
    from ncdeploy.doctor.diagnosis import diagnose

    diagnosis = diagnose()
    if as_json:
        console.print_json(diagnosis.to_dict())
    else:
        out = console.stdout()
        out.print(_table(diagnosis))
        if diagnosis.usable:
            out.print("Models can run here.")
    if not diagnosis.usable:
        console.error("no runtime works here, so no model can run; the table has the remedies")
        raise typer.Exit(1)


_STYLES = {"ok": "green", "absent": "dim", "problem": "bold red"}


def _table(diagnosis: "Diagnosis") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "status", "detail", "remedy"):
        table.add_column(heading, overflow="fold")
    for finding in diagnosis.findings:
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(finding.name, status, Text(finding.detail), Text(finding.remedy))
    return table
