"""Arrows point one way, and a machine with NumPy and ONNX Runtime alone can sample."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "ncdeploy"
HEAVY = (
    "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "polygraphy",
    "accelerate", "sklearn", "diffusers", "safetensors", "matplotlib", "jinja2", "starlette", "uvicorn",
    "prometheus_client", "h11",
)  # fmt: skip

# Rooms that need PyTorch; every other module must import without any of HEAVY.
TORCH_ROOMS = ("denoisers", "importers", "training", "export")
TORCH_MODULES = ("backends/torch.py", "backends/torch_graphs.py")
HTTP_MODULES = ("serving/web.py", "serving/metrics.py", "serving/patience.py", "serving/listen.py")


def modules(*, light: bool) -> list[str]:
    names = []
    for path in sorted(LIBRARY.rglob("*.py")) + sorted((ROOT / "cli" / "ncdeploy_cli").rglob("*.py")):
        base = LIBRARY if LIBRARY in path.parents else ROOT / "cli" / "ncdeploy_cli"
        inside = path.relative_to(base).as_posix()
        heavy = base is LIBRARY and (inside.split("/")[0] in TORCH_ROOMS or inside in (*TORCH_MODULES, *HTTP_MODULES))
        if heavy != light:
            parts = path.relative_to(base.parent).with_suffix("").parts
            names.append(".".join(p for p in parts if p != "__init__"))
    return names


def run_without(missing: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in which importing any of the packages `missing` fails."""
    block = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Missing())
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "cli")!r}]
"""
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True)


def test_every_light_module_imports_without_the_optional_packages() -> None:
    names = modules(light=True)
    assert {"ncdeploy.sampling.parallel", "ncdeploy.backends.onnxruntime", "ncdeploy_cli.main"} <= set(names)
    done = run_without(HEAVY, "import importlib\n" + "".join(f"importlib.import_module({n!r})\n" for n in names))
    assert done.returncode == 0, done.stderr


def test_torch_tensors_need_nothing_but_torch_and_numpy() -> None:
    """Both drivers, the estimated Jacobian and the choice of a window, on tensors."""
    done = run_without(
        tuple(name for name in HEAVY if name != "torch"),
        """
import torch
from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.auto.latency import Latency
denoise = lambda x, sigma: x / (1 + sigma[:, None] ** 2)
latency = Latency(rows=(1, 64), seconds=(1.0, 1.01), asked=64)
like, plan = torch.zeros(()), make_plan("ddpm", 40)
exact = sample(denoise, plan, seeds=range(3), options=SampleOptions(shape=(3,), like=like))
for window, known in (8, {}), ("auto", {"latency": latency, "max_rows": 64}):
    options = SampleOptions(shape=(3,), like=like, **known)
    fast = sample(denoise, plan, seeds=range(3), window=window, options=options)
    assert fast.depth < exact.depth, fast.depth
    assert float((fast.samples - exact.samples).abs().max()) < 1e-2
""",
    )
    assert done.returncode == 0, done.stderr


def test_passes_over_graphs_need_onnx_alone() -> None:
    done = run_without(
        ("torch", "onnxscript", "onnxruntime"),
        """
import ncdeploy, ncdeploy.export.passes.emulate, ncdeploy.export.passes.lower, ncdeploy.export.passes.whole_windows
try:
    from ncdeploy.export import export_onnx
except ncdeploy.DependencyError as e:
    print(e)
""",
    )
    assert done.returncode == 0, done.stderr
    assert "exporting needs PyTorch: pip install" in done.stdout
    assert "to work on graphs: pip install onnx" in run_without(HEAVY, "import ncdeploy.export.passes").stderr


def test_the_import_block_blocks() -> None:
    assert "No module named 'torch'" in run_without(HEAVY, "import torch").stderr
    assert run_without(HEAVY, "import ncdeploy.denoisers.unet").returncode != 0


@pytest.mark.parametrize(
    "path", sorted(set(LIBRARY.rglob("*.py")) - {LIBRARY / "__main__.py"}), ids=lambda p: str(p.relative_to(LIBRARY))
)
def test_the_library_never_imports_the_command_line(path: Path) -> None:
    assert not {"typer", "click", "ncdeploy_cli"} & imported(path)


@pytest.mark.parametrize(
    "room", ["sampling", "formats", "auto", "errors", "files", "modelinfo", "run", "guidance", "result"]
)
def test_what_samples_stands_on_numpy_alone(room: str) -> None:
    paths = [p for p in LIBRARY.rglob("*.py") if p.relative_to(LIBRARY).with_suffix("").parts[0] == room]
    assert paths
    for path in paths:
        foreign = imported(path) - set(sys.stdlib_module_names) - {"numpy", "ncdeploy"}
        assert not foreign, f"{path} imports {foreign}"


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}
