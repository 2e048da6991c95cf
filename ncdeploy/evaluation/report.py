"""A page of HTML for one run: self-contained, in light and dark, readable without pictures.

Functions return fragments as text and escape what they are given; `page` puts fragments and the style together.
Where an argument is called `html`, markup is taken as it is.
"""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from PIL import Image

from ncdeploy.drawing.scatter import ticks
from ncdeploy.errors import InputError


def page(*, title: str, kicker: str, lead_html: str, body: Sequence[str], footer: str) -> str:
    """The whole document: a header, the fragments of `body`, a footer."""
    style = files("ncdeploy.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header class="top">\n<p class="kicker">{escape(kicker)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="lead">{lead_html}</p>\n</header>\n<main>\n'
        + "\n".join(body)
        + f"\n</main>\n<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def section(heading: str, *html: str) -> str:
    """A heading and what follows it."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(html) + "\n</section>"


def text(html: str) -> str:
    """A paragraph."""
    return f"<p>{html}</p>"


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """A row of large figures: (what it is, the figure, one line about it)."""
    cells = (
        f'<div><dt>{escape(name)}</dt><dd><span class="value">{escape(value)}</span>'
        f'<span class="note">{escape(note)}</span></dd></div>'
        for name, value, note in items
    )
    return '<dl class="tiles">' + "".join(cells) + "</dl>"


def picture(image: Image.Image | bytes, *, alt: str, caption_html: str) -> str:
    """A picture, or the bytes of an animated WebP, inside the page with its caption."""
    return f"<figure>{img(image, alt=alt)}<figcaption>{caption_html}</figcaption></figure>"


def pictures(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return '<div class="pictures">' + "".join(figures) + "</div>"


def strip(columns: Sequence[tuple[Image.Image, str]], *, alt: str, apart: int = 0, wide: bool = False) -> str:
    """Pictures in a row with a caption (markup) under each; the last `apart` stand a little to the side.

    wide: fill the width; by default the pictures stay small.
    """
    items = []
    for i, (image, caption_html) in enumerate(columns):
        side = ' class="apart"' if i == len(columns) - apart else ""
        items.append(f"<li{side}>{img(image, alt='')}{caption_html}</li>")
    kind = "strip filling" if wide else "strip"
    return (
        f'<div class="scroll" role="group" aria-label="{escape(alt)}" tabindex="0">'
        f'<ol class="{kind}">{"".join(items)}</ol></div>'
    )


def heat_map(
    image: Image.Image, *, alt: str, down: Sequence[str], across: Sequence[str], scale: tuple[str, Sequence[str], str]
) -> str:
    """A map of coloured cells with labels along its sides; scale: (low, colours, high)."""
    low, colours, high = scale
    left = "".join(f"<span>{escape(t)}</span>" for t in down)
    below = "".join(f"<span>{escape(t)}</span>" for t in across)
    return (
        f'<figure class="heat"><div class="down">{left}</div><div class="map">{img(image, alt=alt)}</div>'
        f'<div class="across">{below}</div></figure>'
        f'<div class="scale"><span>{escape(low)}</span>'
        f'<i style="background: linear-gradient(90deg, {", ".join(colours)})"></i><span>{escape(high)}</span></div>'
    )


def table(
    head: Sequence[str], groups: Sequence[tuple[str, Sequence[Sequence[str]]]], *, caption: str, text_columns: int = 1
) -> str:
    """Rows in named groups (an empty name: no heading); columns after the first `text_columns` hold numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        out = []
        for i, value in enumerate(row):
            kind = "th" if i == 0 else tag
            scope = ' scope="col"' if tag == "th" else ' scope="row"' if i == 0 else ""
            number = ' class="n"' if i >= text_columns else ""
            out.append(f"<{kind}{scope}{number}>{escape(value)}</{kind}>")
        return "<tr>" + "".join(out) + "</tr>"

    rows = []
    for name, body in groups:
        if name:
            rows.append(f'<tr class="group"><th colspan="{len(head)}" scope="rowgroup">{escape(name)}</th></tr>')
        rows += [cells(row, "td") for row in body]
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead>{cells(head, 'th')}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def bars(items: Sequence[tuple[str, float, str, bool]]) -> str:
    """Horizontal bars from zero: (name, value, what to print, whether it is the reference)."""
    longest = max(value for _, value, _, _ in items)
    rows = (
        f"<dt>{escape(name)}</dt><dd{' class=' + chr(34) + 'real' + chr(34) if reference else ''}>"
        f'<span class="track"><span class="fill" style="width: {100 * value / longest:.1f}%"></span></span>'
        f'<span class="figure">{escape(shown)}</span></dd>'
        for name, value, shown, reference in items
    )
    return '<dl class="bars">' + "".join(rows) + "</dl>"


def line_chart(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, alt: str, x_name: str) -> str:
    """Up to four curves of (x, y) over one another, as SVG; the vertical axis starts at the least value drawn."""
    points = [p for _, curve in series for p in curve]
    if not points or not 1 <= len(series) <= 4 or not all(math.isfinite(v) for p in points for v in p):
        raise InputError("line chart: expected one to four curves of finite points")
    width, height, left, right, top, bottom = 900, 260, 56, 130, 14, 40
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = min(p[1] for p in points), max(p[1] for p in points)
    x_high, y_high = x_high + (x_low == x_high), y_high + (y_low == y_high)

    def place(x: float, y: float) -> tuple[float, float]:
        u, v = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    parts = []
    for value in ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<line class="rule" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        x, _ = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{height - 16}" text-anchor="middle">{value:,.10g}</text>')
    parts.append(f'<text x="{width - right + 30}" y="{height - 16}">{escape(x_name)}</text>')
    ends = [place(*curve[-1]) for _, curve in series]
    heights = _apart([y for _, y in ends], 16.0, float(height - bottom))
    for i, (name, curve) in enumerate(series):
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*p) for p in curve))
        parts.append(f'<path class="s{i}" d="M{path}"/>')
        parts.append(f'<text class="l{i}" x="{ends[i][0] + 10:.1f}" y="{heights[i] + 4:.1f}">{escape(name)}</text>')
    drawn = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}">{drawn}</svg>'


def _apart(heights: Sequence[float], gap: float, lowest: float) -> list[float]:
    """Heights, in their order, moved so that no two are nearer than `gap` and none is beyond `lowest`."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    found, least = list(heights), -math.inf
    for i in order:
        least = found[i] = max(found[i], least + gap)
    for i in reversed(order):
        lowest = found[i] = min(found[i], lowest)
        lowest -= gap
    return found


def img(image: Image.Image | bytes, *, alt: str) -> str:
    """An <img> that carries its picture: bytes are an animated WebP, anything else becomes a PNG."""
    if isinstance(image, bytes):
        kind, data = "webp", image
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
    else:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        kind, data, (width, height) = "png", buffer.getvalue(), image.size
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
