"""results.json in words: what was promised beside what was measured, then every figure, then what is missing."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.schema import STATUSES

GAINS = (5.0, 3.0)  # promised on the first network, one sample, for the long plan and for the short one
OVERHEAD = 0.05


def table(document: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    machine, settings = document["machine"], document["settings"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    yield f"# ncdeploy {document['ncdeploy']} on {where}"
    yield ""
    if settings["device"] != "cuda":
        yield "**Not on a GPU.** What follows shows that everything runs, not how fast it is."
        yield ""
    elif settings["quick"]:
        yield "**A quick run on tiny networks.** What follows shows that everything runs, not how fast it is."
        yield ""
    versions = [f"{name} {machine[name]}" for name in ("python", "torch", "onnxruntime", "tensorrt") if machine[name]]
    absent = [name for name in ("onnxruntime", "tensorrt", "onnx") if not machine[name]]
    yield f"{', '.join(versions)}; CUDA {machine['cuda'] or 'none'}; not installed: {', '.join(absent) or 'nothing'}."
    if machine["smi"]:
        yield f"nvidia-smi at the start: {', '.join(f'{name} {value}' for name, value in machine['smi'].items())}."
    counts = {status: sum(c["status"] == status for c in document["cells"]) for status in STATUSES}
    yield f"{', '.join(f'{n} cells {s}' for s, n in counts.items())}; {document['seconds']:.0f} s."
    for title, lines in (
        ("Promised and measured", _promises(document)),
        ("Networks", _networks(document)),
        ("Sequential against parallel", _sampling(document)),
        ("Latency t(B), ms", _latency(document)),
        ("Beside the network: the driver, and copies to the host", _beside(document)),
        ("Not measured", _missing(document)),
    ):
        found = list(lines)
        if found:
            yield from ("", f"## {title}", "", *found)


def measured(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The cells of a kind that have a result."""
    return [cell for cell in document["cells"] if cell["kind"] == kind and cell["status"] == "ok"]


def engine_name(cell: dict[str, Any]) -> str:
    """Runtime, mode where it has several, and precision."""
    engine = cell["engine"]
    return " ".join(part for part in engine.values() if engine["runtime"] != "onnxruntime" or part != engine["mode"])


def _promises(document: dict[str, Any]) -> Iterator[str]:
    """One line for each promise and engine, on the first network in float32."""
    main = document["cells"][0]["network"]
    plans = list(dict.fromkeys(c["plan"] for c in document["cells"] if c["plan"]))
    lines = []
    for cell in document["cells"]:
        if cell["network"] != main or cell["status"] != "ok" or cell["samples"] != 1:
            continue
        engine, plan, result = engine_name(cell), cell["plan"], cell["result"]
        if cell["kind"] == "sampling":
            ways = {way["asked"]: way for way in result["parallel"]}
            best, auto = ways[result["best"]], ways.get("auto")
            got = f"{best['gain']:.1f} (window {result['best']})"
            got += f", {auto['gain']:.1f} (auto)" if auto else ""
            least = GAINS[plans.index(plan)]
            met = max(best["gain"], auto["gain"] if auto else 0.0) >= least
            lines.append((f"{plan}, 1 sample: sequential over parallel time", engine, f"≥ {least:g}", got, met))
        elif cell["kind"] == "overhead":
            got = f"{result['overhead']:.1%}"
            met = result["overhead"] <= OVERHEAD
            lines.append((f"{plan}, window {result['window']}: driver overhead", engine, f"≤ {OVERHEAD:.0%}", got, met))
        elif cell["kind"] == "copies":
            seen = result["device"] or result["python"]
            got = f"largest copy {seen['largest']} B of a state of {result['state_bytes']} B"
            got += "" if result["device"] else f", in Python alone: {result['device_reason']}"
            lines.append(("no copy of the state to the host", engine, "none", got, result["state_stays"]))
    if lines:
        yield f"On {main}, float32 and other precisions as named."
        yield ""
        yield "| promise | engine | promised | measured | met |"
        yield "| --- | --- | --- | --- | --- |"
    for what, engine, wanted, got, met in sorted(lines, key=lambda line: line[0]):
        yield f"| {what} | {engine} | {wanted} | {got} | {'yes' if met else 'no'} |"


def _networks(document: dict[str, Any]) -> Iterator[str]:
    found = measured(document, "network")
    if found:
        yield "| network | samples | parameters | trained on | steps | seconds | loss |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
    for cell in found:
        r = cell["result"]
        shape = "×".join(map(str, r["shape"]))
        yield (
            f"| {cell['network']} | {shape} | {r['parameters'] / 1e6:.2f} M | {r['data']} | {r['steps']} | "
            f"{r['seconds']:.0f} | {r['loss']:.3f} |"
        )


def _sampling(document: dict[str, Any]) -> Iterator[str]:
    found = measured(document, "sampling")
    if found:
        yield "Times are medians; gain is sequential over parallel, with the least and the largest of the repetitions."
        yield ""
        yield "| network | engine | plan | samples | sequential | window | parallel | gain | sweeps | NFE / K | rms |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for cell in found:
        for way in cell["result"]["parallel"]:
            window = str(way["asked"])
            if window == "auto":
                window = f"auto: {way['window'] or 'sequential'}"
            low, high = way["gain_range"]
            yield (
                f"| {cell['network']} | {engine_name(cell)} | {cell['plan']} | {cell['samples']} | "
                f"{_seconds(cell['result']['sequential_s'])} | {window} | {_seconds(way['seconds'])} | "
                f"{way['gain']:.2f} ({low:.2f} … {high:.2f}) | {way['sweeps']:.0f} | {way['nfe']:.2f} | "
                f"{way['rms']:.0e} |"
            )


def _latency(document: dict[str, Any]) -> Iterator[str]:
    found = measured(document, "latency")
    rows = sorted({b for cell in found for b in cell["result"]["rows"] if b & (b - 1) == 0})
    if found:
        yield f"| network | engine | {' | '.join(f'B = {b}' for b in rows)} | rms to PyTorch fp32 |"
        yield f"|{' --- |' * (len(rows) + 3)}"
    for cell in found:
        r = cell["result"]
        times = dict(zip(r["rows"], r["seconds"], strict=True))
        cells = " | ".join(f"{1e3 * times[b]:.2f}" if b in times else "–" for b in rows)
        yield f"| {cell['network']} | {engine_name(cell)} | {cells} | {r['rms_to_torch']:.0e} |"


def _beside(document: dict[str, Any]) -> Iterator[str]:
    found = [*measured(document, "overhead"), *measured(document, "copies")]
    if found:
        yield "| network | engine | plan | measured |"
        yield "| --- | --- | --- | --- |"
    for cell in found:
        r = cell["result"]
        if cell["kind"] == "overhead":
            low, high = r["overhead_range"]
            text = (
                f"driver {r['overhead']:.1%} ({low:.1%} … {high:.1%}) over the same {r['calls']} calls of "
                f"{r['rows'] / r['calls']:.0f} rows on average"
            )
        else:
            text = f"to the host per sweep, in Python {_tally(r['python'])}"
            text += (
                f"; on the device {_tally(r['device'])}" if r["device"] else f"; on the device: {r['device_reason']}"
            )
            text += f"; residuals {r['residual_bytes']} B, state {r['state_bytes']} B"
        yield f"| {cell['network']} | {engine_name(cell)} | {cell['plan']} | {text} |"


def _tally(tally: dict[str, Any]) -> str:
    return f"{tally['copies']:.1f} copies, {tally['bytes']:.0f} B, largest {tally['largest']} B"


def _missing(document: dict[str, Any]) -> Iterator[str]:
    """What was skipped, engine by engine; what failed or was not reached, cell by cell."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in document["cells"]:
        if cell["status"] != "ok":
            what = engine_name(cell) if cell["status"] == "skipped" else cell["id"].replace(" | ", ", ")
            reasons.setdefault((cell["status"], cell["reason"]), []).append(what)
    for (status, reason), names in reasons.items():
        if status == "skipped":
            counts = ", ".join(f"{name} ({n} {'cell' if n == 1 else 'cells'})" for name, n in Counter(names).items())
            yield f"- skipped, {reason}: {counts}"
        else:
            yield f"- {status}, {reason}:"
            yield from (f"  - {name}" for name in names)


def _seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.2f} s"
