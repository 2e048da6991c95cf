"""Cell after cell: measured, or the reason why not, and written down before the next begins."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ncdeploy
from benchmarks.gpu import measure
from benchmarks.gpu.cells import EAGER, SMALL, WHOLE, Cell, Scope, cells
from benchmarks.gpu.engines import Setting, missing, open_setting
from benchmarks.gpu.machine import machine
from benchmarks.gpu.networks import Recipe, prepare
from benchmarks.gpu.schema import FORMAT, problems
from ncdeploy.auto.latency import Latency
from ncdeploy.backends.base import Backend
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import DependencyError, FileError, InputError
from ncdeploy.files import atomic_write


class EarlierFailureError(Exception):
    """What a cell stands on failed before."""


class Bench:
    """A run. output: folder of the results; work: folder of networks, graphs and engines, kept for the next run.

    say:   is told of every cell, in one line
    scope: what to measure, if neither the whole nor, if quick, the small one
    """

    def __init__(
        self,
        output: Path,
        work: Path,
        *,
        device: str,
        quick: bool,
        minutes: float,
        say: Callable[[str], None],
        scope: Scope | None = None,
    ) -> None:
        self.output, self.work, self.device, self.quick, self.say = output, work, device, quick, say
        self.scope = scope or (SMALL if quick else WHOLE)
        self.end = time.monotonic() + 60 * minutes
        self.networks: dict[Recipe, tuple[Denoiser, dict[str, Any]]] = {}
        self.engines: dict[tuple[Recipe, Setting], Backend] = {}
        self.curves: dict[tuple[Recipe, Setting], Latency] = {}
        self.failures: dict[Any, str] = {}
        self.cells = cells(self.scope)
        self.document: dict[str, Any] = {
            "format": FORMAT,
            "ncdeploy": ncdeploy.__version__,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "settings": {"device": device, "quick": quick, "minutes": minutes},
            "machine": machine(device),
            "cells": [cell.record("not reached", "the time was over") for cell in self.cells],
        }

    def resume(self) -> int:
        """Take over the cells of an earlier run into the same folder; returns how many.

        Raises FileError where there is none or it is damaged, InputError if it ran on another machine or with other
        versions.
        """
        file = self.output / "results.json"
        try:
            earlier = json.loads(file.read_text())
        except (OSError, ValueError) as e:
            raise FileError(f"{file}: cannot be read ({e}); run without --resume") from e
        wrong = problems(earlier)
        if wrong:
            raise FileError(f"{file}: is not such a file ({wrong[0]}); run without --resume")
        mine, theirs = (_stable(document) for document in (self.document, earlier))
        if mine != theirs:
            other = next(name for name in mine if mine[name] != theirs[name])
            raise InputError(f"{file}: {other} was {theirs[other]}, now {mine[other]}; run without --resume")
        done = {cell["id"]: cell for cell in earlier["cells"] if cell["status"] == "ok"}
        for network in self.scope.networks:  # the rest was measured on weights that may be gone
            known = done.get(Cell(kind="network", network=network).id)
            if known and not self._same_network(network, known["result"]["digest"]):
                done = {name: cell for name, cell in done.items() if cell["network"] != network.name}
        self.document["cells"] = [done.get(cell["id"], cell) for cell in self.document["cells"]]
        self.document |= {name: earlier[name] for name in ("started", "seconds")}
        return sum(cell["status"] == "ok" for cell in self.document["cells"])

    def run(self) -> dict[str, Any]:
        """Measure what is not there yet until the time is over; returns the document."""
        self.write()
        for index, cell in enumerate(self.cells):
            if self.document["cells"][index]["status"] == "ok":
                continue
            if time.monotonic() > self.end:
                break
            start = time.monotonic()
            record = self.attempt(cell)
            self.document["cells"][index] = record
            self.document["seconds"] += time.monotonic() - start
            self.write()
            note = f": {record['reason']}" if record["reason"] else f", {record['seconds']:.1f} s"
            self.say(f"{cell.id}: {record['status']}{note}")
        for engine in self.engines.values():
            engine.close()
        return self.document

    def attempt(self, cell: Cell) -> dict[str, Any]:
        """The cell's record, whatever happens short of an interrupt."""
        why = missing(cell.engine, self.device, quick=self.quick) if cell.engine else None
        if why is not None:
            return cell.record("skipped", why)
        start = time.monotonic()
        try:
            result = self._measure(cell)
            json.dumps(result, allow_nan=False)  # raises: a figure that is not finite is a failure
        except DependencyError as e:
            return cell.record("skipped", str(e))
        except Exception as e:  # whatever a runtime raises: the other cells go on
            if self.device == "cuda":
                torch.cuda.empty_cache()
            return cell.record("failed", _reason(e)) | {"seconds": time.monotonic() - start}
        return cell.record("ok") | {"seconds": time.monotonic() - start, "result": result}

    def write(self) -> None:
        """results.json, as it stands."""
        with atomic_write(self.output / "results.json") as temporary:
            temporary.write_text(json.dumps(self.document, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _measure(self, cell: Cell) -> dict[str, Any]:
        if cell.engine is None:
            return self._network(cell.network)[1]
        engine, effort = self._engine(cell.network, cell.engine), self.scope.effort
        if cell.kind == "latency":
            reference = self._engine(cell.network, EAGER)
            result, self.curves[cell.network, cell.engine] = measure.latency(engine, reference, self.device, effort)
            return result
        plan, n = cell.make_plan(), cell.samples or 1
        if cell.kind == "sampling":
            key = (cell.network, cell.engine)
            if key not in self.curves:
                self.curves[key] = measure.curve(engine, self.device, effort)
            return measure.sampling(engine, plan, n, self.scope.windows[n], self.curves[key], self.device, effort)
        if cell.kind == "overhead":
            return measure.overhead(engine, plan, n, self.scope.window, self.device, effort)
        return measure.copies(engine, plan, n, self.scope.window, self.device)

    def _network(self, recipe: Recipe) -> tuple[Denoiser, dict[str, Any]]:
        if recipe not in self.networks:
            self.networks[recipe] = self._once(recipe, lambda: prepare(recipe, self.work, self.device))
        return self.networks[recipe]

    def _engine(self, recipe: Recipe, setting: Setting) -> Backend:
        model, _ = self._network(recipe)
        key = (recipe, setting)
        if key not in self.engines:
            self.engines[key] = self._once(key, lambda: open_setting(setting, model, self.work, self.device))
        return self.engines[key]

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """make(); what failed once is not tried again, for it may have taken minutes."""
        if key in self.failures:
            raise EarlierFailureError(self.failures[key])
        try:
            return make()
        except Exception as e:
            self.failures[key] = _reason(e)
            raise

    def _same_network(self, recipe: Recipe, digest: str) -> bool:
        file = self.work / f"{recipe.name}.pt"
        return file.is_file() and self._network(recipe)[1]["digest"] == digest


def _reason(error: Exception) -> str:
    if isinstance(error, EarlierFailureError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _stable(document: dict[str, Any]) -> dict[str, Any]:
    """What must not differ between runs that are put together."""
    fixed = {name: value for name, value in document["machine"].items() if name != "smi"}
    settings = {name: document["settings"][name] for name in ("device", "quick")}
    return {"ncdeploy": document["ncdeploy"], **settings, **fixed}
