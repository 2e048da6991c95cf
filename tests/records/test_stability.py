"""docs/stability.md shows the fields that the records have. Run this file to write its tables anew."""

import json
from pathlib import Path
from typing import Any

from ncdeploy.formats.graphrecord import GraphRecord, PlanRecord
from ncdeploy.formats.manifest import FileEntry, Manifest, PlanEntry
from ncdeploy.formats.parts import Part
from ncdeploy.formats.sidecar import BuildOptions, Sidecar
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition, Value
from ncdeploy.records import Field, table
from ncdeploy.sampling.errorcurve import ErrorCurve

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stability.md"
TABLES: dict[str, Any] = {
    "model": ModelInfo, "conditions": Condition, "error_curve": ErrorCurve, "sidecar": Sidecar, "options": BuildOptions,
    "graph": GraphRecord, "plan": PlanRecord, "manifest": Manifest, "plans": PlanEntry, "files": FileEntry,
    "parts": Part, "values": Value,
}  # fmt: skip


def line(field: Field) -> str:
    absent = f"`{json.dumps(field.default)}`" if field.optional else "an error"
    listed = ", listed in `requires`" if field.vital else ""
    return f"| `{field.name}` | {field.kind.words} | {absent} | {field.since} | {field.meaning}{listed} |"


def page() -> str:
    """The page with every table as the classes have it."""
    text = PAGE.read_text()
    for name, cls in TABLES.items():
        before, rest = text.split(f"<!-- fields: {name} -->\n")
        _, after = rest.split("<!-- end -->", 1)
        rows = ["| field | holds | absent means | since | meaning |", "| --- | --- | --- | --- | --- |"]
        rows += map(line, table(cls))
        text = f"{before}<!-- fields: {name} -->\n" + "\n".join(rows) + "\n<!-- end -->" + after
    return text


def test_the_page_shows_the_fields_that_there_are() -> None:
    assert page() == PAGE.read_text(), f"write it anew: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(page())
