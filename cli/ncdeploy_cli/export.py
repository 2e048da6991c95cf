"""`ncdeploy export`: model.pt to a self-describing, verified model.onnx."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ncdeploy_cli import console


def export(
    model: Annotated[Path, typer.Argument(help="The model.pt to export.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.", show_default="the model's name with .onnx"),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators: 18, 19 or 20.")] = 20,
    guidance: Annotated[
        bool, typer.Option("--guidance", help="Add an input of weights of classifier-free guidance, one per row.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with PyTorch before the file is put in place.")
    ] = True,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference of D, in model units.", show_default="1e-4")
    ] = None,
    trajectory_tolerance: Annotated[
        float | None, typer.Option(help="Largest rms difference of a sample.", show_default="1e-3")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the comparison.", show_default="all")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python code that a model imported from module:function names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a model as ONNX: one file, any batch size, a noise level per row, and a description of itself.

    The file is compared with PyTorch over all noise levels, several batch sizes and whole sampled trajectories,
    and written only if they agree.
    """
    from ncdeploy.errors import InputError
    from ncdeploy.files import check_writable
    from ncdeploy.parity import TOLERANCE, TRAJECTORY_TOLERANCE

    if not verify:
        for option, value in (
            ("--tolerance", tolerance), ("--trajectory-tolerance", trajectory_tolerance), ("--threads", threads),
        ):  # fmt: skip
            if value is not None:
                raise InputError(f"{option}: nothing is compared with --no-verify; leave one of them out")
    target = model.with_suffix(".onnx") if output is None else output
    if target.expanduser().resolve() == model.expanduser().resolve():
        raise InputError(f"--output {target}: is the model itself; choose another name")
    check_writable(target)
    start = time.perf_counter()
    with console.stderr().status("opening the model") as status:
        from ncdeploy.export import export_onnx  # first: without PyTorch it says what to install
        from ncdeploy.denoisers.checkpoint import load_model  # isort: skip

        done = export_onnx(
            load_model(model, allow_module=trust),
            target,
            opset=opset,
            guidance=guidance,
            verify=verify,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            trajectory_tolerance=TRAJECTORY_TOLERANCE if trajectory_tolerance is None else trajectory_tolerance,
            threads=threads,
            on_stage=status.update,
        )
    if as_json:
        parity = None if done.parity is None else done.parity.to_dict()
        record = {"output": str(done.path), "bytes": done.size, "opset": done.opset, "ir_version": done.ir_version}
        console.print_json({**record, "weights_digest": done.info.weights_digest, "parity": parity})
        return
    out = console.stdout()
    took = console.duration(time.perf_counter() - start)
    out.print(f"{done.path}: {done.size / 1e6:.2f} MB, opset {done.opset}, IR {done.ir_version}, in {took}")
    out.print("not compared with PyTorch" if done.parity is None else f"agrees with PyTorch: {done.parity.summary}")
