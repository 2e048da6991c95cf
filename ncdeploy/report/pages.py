"""Pages of HTML by Jinja2: self-contained, in light and dark, for wide and narrow screens; all input is escaped.

Templates draw with `img`, `samples` and `chart`, and write numbers with `seconds`, `minutes` and `small`.
"""

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from ncdeploy.drawing.images import grid
from ncdeploy.errors import DependencyError, install
from ncdeploy.files import check_writable
from ncdeploy.report import charts

WIDE, NARROW = (9.4, 3.0), (3.7, 2.7)  # inches of a chart
COLUMNS = 8  # of a grid of images
_SCREENS = (
    ("(max-width: 34rem) and (prefers-color-scheme: dark)", True, True), ("(max-width: 34rem)", True, False),
    ("(prefers-color-scheme: dark)", False, True), ("", False, False),
)  # fmt: skip


def check_page(path: Path) -> None:
    """Raise FileError where no page can be written, DependencyError without Jinja2 or matplotlib."""
    check_writable(path)
    charts.check_matplotlib(str(path))
    try:
        import jinja2  # noqa: F401
    except ImportError as e:
        raise DependencyError(f"{path}: pages need Jinja2: {install('report')}") from e


def render(template: str, **values: Any) -> str:
    """The document of a template in this folder. See `check_page` for what must be installed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ncdeploy.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style = files("ncdeploy.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    environment.globals |= {"img": img, "chart": chart, "samples": samples, "style": _safe(style)}
    environment.filters |= {"seconds": seconds, "minutes": minutes, "small": small}
    return environment.get_template(template).render(values)


def img(picture: Image.Image | bytes, alt: str) -> Any:
    """An <img> that carries its picture: bytes are an animated WebP, anything else becomes a PNG."""
    if isinstance(picture, bytes):
        kind, data = "webp", picture
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
    else:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        kind, data, (width, height) = "png", buffer.getvalue(), picture.size
    return _safe('<img src="{}" width="{}" height="{}" alt="{}">').format(_uri(kind, data), width, height, alt)


def chart(
    paint: charts.Paint, alt: str, wide: tuple[float, float] = WIDE, narrow: tuple[float, float] = NARROW,
    kind: str = "svg",
) -> Any:  # fmt: skip
    """A chart drawn for each kind of screen; wide, narrow: its size in inches there."""
    source, markup = _safe('<source media="{}" srcset="{}">'), _safe("")
    for media, small, dark in _SCREENS:
        uri = _uri(
            "svg+xml" if kind == "svg" else kind, charts.render(paint, narrow if small else wide, kind=kind, dark=dark)
        )
        markup += source.format(media, uri) if media else _safe('<img src="{}" alt="{}">').format(uri, alt)
    return _safe('<picture class="chart">{}</picture>').format(markup)


def samples(values: NDArray[Any], alt: str) -> Any:
    """A grid of images [n, C, H, W], or a plot of points [n, 2]."""
    if values.ndim == 2:
        return chart(charts.scatter(values), alt, wide=(4.0, 4.0), narrow=(3.7, 3.7), kind="png")
    return img(grid(values, columns=COLUMNS), alt)


def seconds(value: float) -> str:
    """82 ms, 0.79 s, 12.4 s."""
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def minutes(value: float) -> str:
    """41 s, 5 min 03 s."""
    whole, rest = divmod(round(value), 60)
    return f"{whole} min {rest:02d} s" if whole else f"{rest} s"


def small(value: float) -> str:
    """1.2e-05 as people write it."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value:.3g}" if value >= 1e-3 else f"{mantissa} × 10{raised}"


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _safe(markup: str) -> Any:
    """Markup of our own; what is formatted into it is escaped."""
    from markupsafe import Markup

    return Markup(markup)
