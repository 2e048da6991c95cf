"""What the bundles of the tests hold, and how an attacker who knows the format makes digests fit again."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from ncdeploy import make_plan
from ncdeploy.formats.profiles import profiles_for
from ncdeploy.formats.sidecar import BuildOptions, Sidecar
from oracle import error_curve
from tiny_models import VECTORS

INFO = replace(VECTORS, mean=(0.2,) * 5, error_curve=error_curve())
PLANS = [make_plan("ddim", 20), make_plan("heun", 6), make_plan("ddpm", 30), make_plan("unipc", 8)]


def reseal(folder: Path, *names: str) -> None:
    """Enter the present size and digest of these files, and the manifest's own."""
    path = folder / "manifest.json"
    if names:
        manifest = json.loads(path.read_text())
        for name in names:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        path.write_text(json.dumps(manifest))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def write_engine(path: Path) -> Path:
    """What looks like a TensorRT engine of INFO, for at most 4 samples with a window of 8, and the file beside it."""
    path.write_bytes(b"ftrt" + bytes(100))
    sidecar = Sidecar(
        tensorrt="11.4.0.106", compute_capability=(9, 0), device="GPU", driver="13.0", platform="linux-x86_64",
        plan_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), plan_bytes=104, onnx="m.onnx", onnx_sha256="0" * 64,
        model=INFO, profiles=profiles_for(4, 8, 8), options=BuildOptions(), layers={}, device_memory=0, command="",
    )  # fmt: skip
    path.with_name(path.name + ".json").write_text(sidecar.to_json())
    return path
