"""The wheel holds the two packages and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        entry_points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
        licence = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    wanted = set()
    for folder, parent in (("ncdeploy", ROOT), ("ncdeploy_cli", ROOT / "cli")):
        tree = (p for p in (parent / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        wanted |= {str(p.relative_to(parent)) for p in tree}
    assert names == wanted
    assert {"ncdeploy/py.typed", "ncdeploy/sampling/parallel.py", "ncdeploy_cli/main.py"} <= names
    assert "ncdeploy = ncdeploy_cli.main:main" in entry_points
    assert licence
