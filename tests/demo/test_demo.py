"""The whole demo, small: every file is there, the page is whole, and its figures are those of the run."""

import json
import re

import pytest
from PIL import Image

from ncdeploy.demo import run as demo
from ncdeploy.demo.page import FILES
from ncdeploy.errors import FileError, InputError
from ncdeploy.report.pages import seconds

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "LONG_STEPS", 60)
        patch.setattr(demo, "LONG_WINDOW", 20)
        patch.setattr(demo, "SHORT_POINTS", 200)
        patch.setattr(demo, "REPETITIONS", 1)
        steps = demo.run_demo(folder, data="moons", steps=12, seed=1, threads=1)
        shown = []
        while True:
            try:
                shown.append(next(steps))
            except StopIteration as end:
                return folder, shown, end.value


def test_every_file_is_there(finished):
    folder, _, _ = finished
    assert sorted(f.name for f in folder.iterdir()) == sorted([*FILES, "index.html"])
    for name in FILES:
        if name.endswith(("png", "webp")):
            with Image.open(folder / name) as opened:
                opened.load()


def test_progress_names_the_stages_in_order_and_each_ends(finished):
    _, shown, _ = finished
    names = list(dict.fromkeys(step.name for step in shown))
    assert names[:2] == ["train", "export and verify"]
    assert names[-1] == "measure and draw"
    assert all(0 <= step.done <= 1 for step in shown)
    assert {step.name for step in shown if step.done == 1} == set(names)


def test_the_page_tells_the_figures_of_the_run_and_needs_nothing_from_elsewhere(finished):
    folder, _, outcome = finished
    html = (folder / "index.html").read_text(encoding="utf-8")
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures == json.loads(json.dumps(outcome.figures()))
    sequential, auto = figures["gains"][0]["rows"]
    assert (figures["gains"][0]["n"], sequential["steps"], sequential["window"], auto["window"]) == (
        1,
        60,
        None,
        "auto",
    )
    words = html.partition('<dl class="tiles">')[0]
    assert "of 60 steps" in html
    assert f"{seconds(sequential['wall_s'])} step by step" in words
    assert auto["ran"] is None or seconds(auto["wall_s"]) in words
    assert figures["training"]["objective"] == "denoising"
    assert figures["energy_distance"]["floor"] > 0
    links = set(re.findall(r'(?:href|src)="((?!data:image/)[^"]*)"', html))
    assert links == set(FILES)
    assert "http" not in html


def test_what_cannot_be_shown_is_refused_before_training(tmp_path):
    (tmp_path / "table.csv").write_text("\n".join("1,2,3" if i % 2 else "3,1,2" for i in range(40)))
    with pytest.raises(InputError, match="no picture"):
        list(demo.run_demo(tmp_path / "out", data=str(tmp_path / "table.csv"), steps=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        list(demo.run_demo(tmp_path / "file" / "out"))
    assert list((tmp_path / "out").iterdir()) == []
