"""The folder of a bulk run: `run.json` says what is drawn, so that a second start takes up what is missing, and nothing
of another run comes among it."""

import json
import re
import zipfile
from pathlib import Path

from ncdeploy.bulk.run import BulkRun
from ncdeploy.errors import FileError
from ncdeploy.files import atomic_write, check_folder_of, read_file
from ncdeploy.records import parse

RECORD = "run.json"
_MOST_BYTES = 1 << 20
_SHARD = re.compile(r"shard-\d+-of-\d+\.npz")


def begin(folder: Path, run: BulkRun, *, force: bool) -> list[int]:
    """Make the folder this run's, and return the shards that it lacks, or that are not whole.

    Raises FileError for one that holds another run, or anything else; with `force` another run's shards are removed.
    """
    try:
        if not folder.exists():
            check_folder_of(folder, folder.parent)
            folder.mkdir()
        there = {file.name for file in folder.iterdir()}
        if force and RECORD in there:
            for name in [RECORD, *filter(_SHARD.fullmatch, there)]:
                (folder / name).unlink()
            there = {file.name for file in folder.iterdir()}
        if RECORD in there:
            _check_same(folder, run)
        elif visible := sorted(name for name in there if not name.startswith(".")):
            raise FileError(f"{folder}: holds {visible[0]}, and no {RECORD}; choose a folder for the shards alone")
        else:
            with atomic_write(folder / RECORD) as temporary:
                temporary.write_text(json.dumps(run.record(), indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise FileError(f"{folder}: cannot be used: {e.strerror or e}; choose another output") from e
    return [i for i in range(run.shards) if not _whole(folder / run.name(i))]


def _check_same(folder: Path, run: BulkRun) -> None:
    found = parse(read_file(folder / RECORD, _MOST_BYTES, "expected the record of a bulk run"), str(folder / RECORD))
    # Through JSON, so that 1.0 and 1 are compared as they are written.
    wanted = json.loads(json.dumps(run.record()))
    other = next((name for name in [*wanted, *found] if found.get(name) != wanted.get(name)), None)
    if other is not None:
        raise FileError(
            f"{folder}: holds another run, whose {other} is {_shown(found.get(other))}; this has "
            f"{_shown(wanted.get(other))}. Choose another folder, or --force to draw it anew"
        )


def _whole(file: Path) -> bool:
    """Whether the list at the end of the archive is there; a worker that is killed leaves no part of a file, a disk
    that failed, or a copy that broke off, may."""
    try:
        with zipfile.ZipFile(file) as archive:
            return "samples.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _shown(value: object) -> str:
    return json.dumps(value)[:40]
