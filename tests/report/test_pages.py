"""Pages are well-formed HTML, self-contained, escape what they are given, and say what they were told."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ncdeploy.errors import DependencyError
from ncdeploy.evaluation.classification import Classification, Level
from ncdeploy.evaluation.evaluate import Evaluation, Likelihood
from ncdeploy.evaluation.page import page
from ncdeploy.evaluation.quality import Quality, Run
from ncdeploy.evaluation.visited import Group, Visited
from ncdeploy.report import pages
from tiny_models import IMAGES, POINTS

VOID = {"meta", "img", "br", "source"}
HOSTILE = '<script>alert("x")</script>&$x^{'


class Strict(HTMLParser):
    """Fails on tags that do not close in order; collects pictures and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())


def _evaluation(name: str, samples: np.ndarray) -> Evaluation:
    level = Level(s=0.1, log_loss=0.123, area=0.9, energy_area=0.8, calibration=0.011)
    return Evaluation(
        name=name, engine="NumPy",
        likelihood=Likelihood(nats=-1.5, error=0.1, estimate_error=0.05, bits_per_dim=2.25, points=8),
        classification=Classification(levels=(level, replace(level, s=1.0, log_loss=0.456)), log_loss=0.2895),
        visited=Visited(groups=(Group(sweeps=(1, 1), sigma=(0.1, 1.0), states=5, visited=0.7, training=0.6),),
                        visited=0.7, training=0.6),
        quality=Quality(
            runs=(Run(plan="ddim-8", window=4, tolerance=1e-3, depth=5, nfe=9.0, energy=0.0421, mmd=1e-3, rms=1e-4),),
            energy_floor=0.0123, mmd_floor=1e-4, bandwidth=1.0, n=4, samples=samples,
        ),
    )  # fmt: skip


def _page(name: str = "a.onnx") -> str:
    images = np.zeros((4, *IMAGES.shape), np.float32)
    return page([_evaluation(name, images), _evaluation("b.onnx", images)], IMAGES, data="digits")


def test_the_page_is_well_formed_and_holds_what_it_was_given():
    parsed = Strict(_page())
    for words in ("a.onnx", "Which model is better?", "-1.50 ± 0.10", "0.456", "0.700", "sweep 1", "0.0421", "0.0123"):
        assert words in parsed.texts, words
    assert [p["alt"] for p in parsed.pictures][2:] == ["Samples of a.onnx", "Samples of b.onnx"]
    assert all(p["alt"] for p in parsed.pictures)


def test_a_broken_page_would_be_noticed():
    with pytest.raises(AssertionError):
        Strict(_page().replace("</table>", "", 1))


def test_the_page_needs_nothing_from_elsewhere_and_fits_both_themes():
    html = _page()
    assert re.findall(r'(?:src|href|srcset)="(?!data:image/)[^"]*"', html) == []
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html


def test_hostile_names_stay_text():
    html = _page(HOSTILE)
    parsed = Strict(html)
    assert HOSTILE in parsed.texts
    assert "script" not in parsed.tags
    assert f"Samples of {HOSTILE}" in [p["alt"] for p in parsed.pictures]


def test_points_are_plotted_and_other_shapes_have_no_pictures():
    points = Strict(page([_evaluation("a", np.zeros((4, 2), np.float32))], POINTS, data="moons"))
    assert len(points.pictures) == 3
    assert "How good is the model?" in points.texts
    vectors = page([_evaluation("a", np.zeros((4, 5), np.float32))], replace(POINTS, shape=(5,)), data="t")
    assert len(Strict(vectors).pictures) == 2


def test_without_jinja_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(DependencyError, match=r"p\.html: pages need Jinja2: pip install .*'\.\[report\]'"):
        pages.check_page(tmp_path / "p.html")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (pages.seconds(0.0123), "12.3 ms"), (pages.seconds(0.5), "0.50 s"), (pages.seconds(2.44), "2.4 s"),
        (pages.minutes(41.2), "41 s"), (pages.minutes(303), "5 min 03 s"), (pages.small(1.24e-5), "1.2 × 10⁻⁵"),
        (pages.small(0.0123), "0.0123"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_do(written, wanted):
    assert written == wanted
