"""Where results go: one rule for every command that writes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from ncdeploy.errors import FileError, InputError

Force = Annotated[bool, typer.Option("--force", help="Replace what --output names, if it is there.")]

_OF_FILES = (
    ".bin", ".csv", ".gif", ".html", ".json", ".npy", ".npz", ".onnx", ".pkl", ".plan", ".png", ".pt", ".pth",
    ".safetensors", ".svg", ".tar", ".webp", ".zip",
)  # fmt: skip

_HELD: ContextVar[ExitStack | None] = ContextVar("_HELD", default=None)


@contextmanager
def holding() -> Iterator[None]:
    """Outputs claimed inside are this command's until its end: another process that claims them is told."""
    with ExitStack() as stack:
        before = _HELD.set(stack)
        try:
            yield
        finally:
            _HELD.reset(before)


def claim(output: str | Path, *suffixes: str, force: bool, source: str | Path | None = None, hold: bool = True) -> Path:
    """The output, found fit before any work: it has one of these suffixes, can be written, and is new or may go.

    Without suffixes it is a folder, and one with nothing in it is as good as new.

    source: what the command reads
    hold:   whether it is this command's until its end, see `holding`

    Raises InputError for another suffix and for the source itself, FileError for what is there without `force`, for
    what another command writes now, and for places that cannot be written.
    """
    from ncdeploy.files import check_writable, held, real_path, user_path

    path = Path(output)
    target, suffix = user_path(path), path.suffix.lower()
    if suffixes and suffix not in suffixes:
        raise InputError(
            f"--output {output}: expected a name that ends in {' or '.join(suffixes)}, such as "
            f"{path.with_suffix(suffixes[0]) if path.name else 'name' + suffixes[0]}"
        )
    if not suffixes and suffix in _OF_FILES and not target.is_dir():
        raise InputError(f"--output {output}: expected the name of a folder, such as {path.with_suffix('')}")
    if source is not None and real_path(output) == real_path(source):
        raise InputError(f"--output {output}: is what is read here; choose another name")
    if suffixes:
        check_writable(target)
    elif target.exists() and not target.is_dir():
        raise FileError(f"{output}: is a file, expected a folder; choose another output")
    if not force and target.exists() and (suffixes or any(target.iterdir())):
        raise FileError(f"{output}: exists; choose another output, or replace it with --force")
    stack = _HELD.get()
    if hold and stack is not None:
        stack.enter_context(held(target, folder=not suffixes))
    return path


def claim_samples(output: str, *, force: bool) -> str:
    """`claim` for samples, which may go to a file or to a folder of pictures. Returns the output as it was given."""
    from ncdeploy.report.samples import kind_of

    kind = kind_of(output)
    claim(output, *([] if kind == "folder" else [kind]), force=force)
    return output
