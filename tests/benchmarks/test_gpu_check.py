"""`python -m benchmarks.gpu`, on a CPU and tiny networks: the same code, but for the device."""

import copy
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch


@pytest.fixture(scope="module")
def scope():
    from benchmarks.gpu.cells import SMALL
    from benchmarks.gpu.networks import Recipe

    return replace(
        SMALL,
        networks=(Recipe(side=8, steps=3, seconds=60, batch=4, tiny=True),),
        plans=(("ddpm", 20), ("ddim", 6)),
        windows={1: [2, 5, "auto"], 2: [4]},
        window=4,
        precisions=("fp32",),
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def finished(scope, work, tmp_path_factory):
    """A whole run by its command: exit status and folder."""
    from benchmarks.gpu.__main__ import main

    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.gpu.run.SMALL", scope)
        return main(["--device", "cpu", "--quick", "-o", str(folder), "--work", str(work)]), folder


@pytest.fixture(scope="module")
def document(finished):
    return json.loads((finished[1] / "results.json").read_text())


@pytest.fixture
def bench(scope, work, finished, tmp_path):
    """A new run whose networks and graphs are there already."""
    from benchmarks.gpu.run import Bench

    def make(output=tmp_path, minutes=5.0):
        said = lambda line: None  # noqa: E731
        return Bench(output, work, device="cpu", quick=True, minutes=minutes, say=said, scope=scope)

    return make


def test_everything_that_can_run_here_runs_and_the_rest_says_why(finished, document):
    from benchmarks.gpu.schema import problems

    assert problems(document) == []
    assert finished[0] == 0
    status = {cell["id"]: (cell["status"], cell["reason"]) for cell in document["cells"]}
    assert {s for s, _ in status.values()} == {"ok", "skipped"}
    for engine in ("torch eager fp32", "onnxruntime fp32"):
        for kind in ("sampling", "copies", "overhead"):
            assert status[f"{kind} | tiny8 | {engine} | ddpm-20 | n=1"] == ("ok", "")
        assert status[f"latency | tiny8 | {engine}"] == ("ok", "")
        assert status[f"sampling | tiny8 | {engine} | ddim-6 | n=2"] == ("ok", "")
    for engine in ("torch graphs fp32", "tensorrt graphs fp32", "tensorrt eager fp32"):
        assert status[f"latency | tiny8 | {engine}"] == ("skipped", "needs a CUDA device")
    assert "quick" in status["latency | tiny8 | torch compile fp32"][1]


def test_the_figures_are_consistent(document):
    results = {cell["id"]: cell["result"] for cell in document["cells"]}
    sampled = results["sampling | tiny8 | torch eager fp32 | ddpm-20 | n=1"]
    assert sampled["depth"] == 20
    assert [way["asked"] for way in sampled["parallel"]] == [2, 5, "auto"]
    for way in sampled["parallel"][:2]:
        assert way["window"] == way["asked"]
        assert 20 / way["asked"] <= way["sweeps"] == way["depth"] <= 20
        assert way["gain"] == pytest.approx(sampled["sequential_s"] / way["seconds"])
        assert way["rms"] < 1e-2
        assert way["nfe"] >= 1
    assert results["latency | tiny8 | torch eager fp32"]["rms_to_torch"] == 0
    assert 0 < results["latency | tiny8 | onnxruntime fp32"]["rms_to_torch"] < 1e-5
    copied = results["copies | tiny8 | onnxruntime fp32 | ddpm-20 | n=1"]
    assert copied["state_stays"]
    assert copied["python"]["largest"] == copied["residual_bytes"] == copied["state_bytes"] / 64


def test_the_table_has_every_figure_and_every_reason(finished, document):
    text = (finished[1] / "table.md").read_text()
    assert "**Not on a GPU.**" in text
    for cell in document["cells"]:
        if cell["kind"] == "sampling" and cell["status"] == "ok":
            for way in cell["result"]["parallel"]:
                assert f"| {way['gain']:.2f} (" in text
    assert "skipped, needs a CUDA device: torch graphs fp32 (7 cells)" in text
    assert "largest copy 16 B of a state of 1024 B" in text


def test_plots_are_xml_and_show_every_series(finished, document):
    from benchmarks.gpu import plots

    for name, panels in (
        ("latency", plots.latencies(document)), ("windows", plots.windows(document)),
        ("samples", plots.samples(document)),
    ):  # fmt: skip
        root = ET.parse(finished[1] / f"{name}.svg").getroot()
        words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        series = {name for panel in panels.values() for name in panel}
        assert series
        assert series <= words
        marks = len(list(root.iter("{http://www.w3.org/2000/svg}use")))
        assert marks == len(series) + sum(len(points) for panel in panels.values() for points in panel.values())


def test_two_networks_have_a_panel_each():
    from benchmarks.gpu.plots import draw
    from ncdeploy.report import charts

    one, two = {"a": [(1, 2.0), (8, 3.0)]}, {"b": [(1, 5.0)], "a": [(2, 1.0)]}
    text = charts.render(draw("t", {"net8": one, "net32": two}, "rows", "gain"), (9, 5))
    words = [e.text for e in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert {"net8: gain", "net32: gain", "a", "b"} <= set(words)
    assert words.count("a") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("machine"),
        lambda d: d.update(format=2),
        lambda d: d["cells"][1]["result"].pop("best"),
        lambda d: d["cells"][1]["result"].update(sequential_s="fast"),
        lambda d: d["cells"][1]["result"]["parallel"][0].update(gain=None),
        lambda d: d["cells"][1].update(status="fine"),
        lambda d: d["cells"][1].update(status="failed", reason="x"),
        lambda d: d["cells"][-1].update(reason=""),
        lambda d: d["machine"].update(cores=True),
    ],
)
def test_the_schema_finds_damage(document, damage):
    from benchmarks.gpu.schema import problems

    damaged = copy.deepcopy(document)
    damage(damaged)
    assert problems(damaged)


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(bench, monkeypatch):
    from benchmarks.gpu import measure
    from benchmarks.gpu.schema import problems
    from ncdeploy.errors import OutOfMemoryError

    def fail(engine, *rest):
        raise OutOfMemoryError("torch failed on a batch of 64: CUDA out of memory\nsecond line")

    monkeypatch.setattr(measure, "overhead", fail)
    run = bench()
    done = run.run()
    assert problems(done) == []
    assert json.loads((run.output / "results.json").read_text()) == done
    reason = "OutOfMemoryError: torch failed on a batch of 64: CUDA out of memory"
    for cell in done["cells"]:
        if cell["kind"] == "overhead" and cell["status"] != "skipped":
            assert (cell["status"], cell["reason"], cell["result"]) == ("failed", reason, None)
        else:
            assert cell["status"] in ("ok", "skipped")


def test_what_cannot_be_opened_is_tried_once(bench, monkeypatch):
    tried = []

    def refuse(setting, *rest):
        tried.append(setting.name)
        raise RuntimeError("compiler missing")

    monkeypatch.setattr("benchmarks.gpu.run.open_setting", refuse)
    cells = bench().run()["cells"]
    assert sorted(tried) == ["onnxruntime fp32", "torch eager fp32"]
    failed = [cell for cell in cells if cell["status"] == "failed"]
    assert len(failed) > 10
    assert all("compiler missing" in cell["reason"] for cell in failed)


def test_a_figure_that_is_not_finite_is_a_failure(bench, monkeypatch):
    from benchmarks.gpu import measure

    monkeypatch.setattr(measure, "copies", lambda *rest: {"kernels": float("nan")})
    (cell,) = [c for c in bench().cells if c.id == "copies | tiny8 | torch eager fp32 | ddpm-20 | n=1"]
    assert bench().attempt(cell)["status"] == "failed"


def test_when_the_time_is_over_the_rest_is_listed_and_resume_goes_on(bench, monkeypatch, tmp_path):
    from benchmarks.gpu import measure

    begun = bench(minutes=0.0)
    for index, cell in enumerate(begun.cells[:4]):
        begun.document["cells"][index] = begun.attempt(cell)
    begun.run()  # the time is over: writes and measures nothing
    kept = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [cell["status"] for cell in kept[:4]] == ["ok"] * 4
    assert {(cell["status"], cell["reason"]) for cell in kept[4:]} == {("not reached", "the time was over")}

    measured = []
    monkeypatch.setattr(measure, "sampling", lambda *rest: measured.append(rest) or pytest.fail("measured again"))
    later = bench()
    assert later.resume() == 4
    assert later.document["cells"][:4] == kept[:4]
    for cell in later.cells[:3]:
        assert later.document["cells"][later.cells.index(cell)]["status"] == "ok"
    assert not measured


def test_resume_refuses_what_does_not_belong_together(bench, tmp_path, document):
    from ncdeploy.errors import FileError, InputError

    with pytest.raises(FileError, match="run without --resume"):
        bench().resume()
    file = tmp_path / "results.json"
    file.write_text("{}")
    with pytest.raises(FileError, match="not such a file"):
        bench().resume()
    other = copy.deepcopy(document)
    other["machine"]["torch"] = "1.0"
    file.write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"torch was 1\.0"):
        bench().resume()


def test_resume_measures_anew_what_was_measured_on_other_weights(bench, tmp_path, document):
    other = copy.deepcopy(document)
    other["cells"][0]["result"]["digest"] = "0" * 64
    (tmp_path / "results.json").write_text(json.dumps(other))
    assert bench().resume() == 0


def test_the_whole_run_holds_what_it_promises():
    from benchmarks.gpu.cells import WHOLE, cells

    found = cells(WHOLE)
    assert len({cell.id for cell in found}) == len(found)
    assert {cell.network.side for cell in found} == {8, 32, 64}
    sampled = {
        (c.network.side, c.engine.runtime, c.engine.mode, c.plan_name, c.samples) for c in found if c.kind == "sampling"
    }
    for side in (8, 32, 64):
        for n in (1, 4, 16):
            for engine in (("torch", "eager"), ("torch", "graphs"), ("onnxruntime", "eager"), ("tensorrt", "graphs")):
                assert {(side, *engine, plan, n) for plan in ("ddpm-1000", "ddim-100")} <= sampled
        assert (side, "torch", "compile", "ddpm-1000", 1) in sampled
    timed = {(c.network.side, c.engine.runtime, c.engine.precision) for c in found if c.kind == "latency"}
    for runtime in ("torch", "onnxruntime", "tensorrt"):
        assert {(s, runtime, p) for s in (8, 32, 64) for p in ("fp32", "tf32", "fp16", "bf16")} <= timed
    assert {c.network.side for c in found[:15]} == {32}, "what matters most comes first"


def test_without_a_gpu_one_line(capsys, monkeypatch, tmp_path):
    from benchmarks.gpu.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--device cpu --quick" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(monkeypatch):
    from benchmarks.gpu.engines import Setting, missing

    seen = {"onnxscript", "onnxruntime", "tensorrt"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in seen else object())
    for runtime in ("onnxruntime", "tensorrt"):
        assert missing(Setting(runtime=runtime), "cuda", quick=False) == "onnxscript is not installed"
    seen.remove("onnxscript")
    assert missing(Setting(runtime="tensorrt"), "cuda", quick=False) == "tensorrt is not installed"
    assert missing(Setting(runtime="torch", mode="graphs", precision="tf32"), "cuda", quick=False) is None
