"""A study that is cut short is read as far as it goes."""

import json
from pathlib import Path

from benchmarks.contrastive.summary import read_records


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    path.write_text(json.dumps({"seed": 0}) + "\n" + json.dumps({"seed": 1}) + "\n" + '{"seed": 2, "los')
    assert [r["seed"] for r in read_records(path)] == [0, 1]
    path.write_text("")
    assert read_records(path) == []
