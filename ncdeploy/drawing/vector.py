"""Lines, marks and words, drawn once and written as SVG or as a picture."""

from collections.abc import Callable, Sequence
from html import escape

from PIL import Image, ImageDraw, ImageFont

_OVERSAMPLING = 3
_BASELINE = 0.34  # of the size of the letters: from the middle of a line of text to its baseline

Point = tuple[float, float]


class Drawing:
    """Coordinates are pixels from the top left; colours are #rrggbb; everything is drawn in the order of the calls."""

    def __init__(self, width: int, height: int, *, paper: str = "#ffffff") -> None:
        self.width, self.height, self.paper = width, height, paper
        self._svg: list[str] = []
        self._strokes: list[Callable[[ImageDraw.ImageDraw], None]] = []

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1.0) -> None:
        """A line through the points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._svg.append(f'<polyline points="{path}" {_paint(None, colour, width)}/>')
        big = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        broad = max(1, round(width * _OVERSAMPLING))
        self._strokes.append(lambda draw: draw.line(big, fill=colour, width=broad, joint="curve"))

    def circle(self, centre: Point, radius: float, *, fill: str | None, stroke: str, width: float = 1.5) -> None:
        """A disc with an edge, or a ring where fill is None."""
        (x, y), s = centre, _OVERSAMPLING
        self._svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {_paint(fill, stroke, width)}/>')
        r, edge = radius + width / 2, round(width * s)
        box = [(x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s]
        self._strokes.append(lambda draw: draw.ellipse(box, fill=fill, outline=stroke, width=edge))

    def polygon(self, points: Sequence[Point], *, fill: str | None, stroke: str, width: float = 1.5) -> None:
        """A closed shape with an edge."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._svg.append(f'<polygon points="{path}" {_paint(fill, stroke, width)}/>')
        big, edge = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points], round(width * _OVERSAMPLING)

        def draw_it(draw: ImageDraw.ImageDraw) -> None:
            if fill is not None:
                draw.polygon(big, fill=fill)
            draw.line([*big, *big[:2]], fill=stroke, width=edge, joint="curve")

        self._strokes.append(draw_it)

    def text(self, at: Point, words: str, colour: str, *, size: float = 13, anchor: str = "start") -> None:
        """Words whose middle line passes through `at`, which is their start, middle or end."""
        x, y = at
        self._svg.append(
            f'<text x="{x:.1f}" y="{y + _BASELINE * size:.1f}" font-size="{size:g}" fill="{colour}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )
        side = {"start": "l", "middle": "m", "end": "r"}[anchor] + "s"
        place = (x * _OVERSAMPLING, (y + _BASELINE * size) * _OVERSAMPLING)
        font = ImageFont.load_default(size * _OVERSAMPLING)
        self._strokes.append(lambda draw: draw.text(place, words, fill=colour, font=font, anchor=side))

    def svg(self, *, alt: str) -> str:
        """A whole SVG document; alt says what it shows to those who do not see it."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{escape(alt)}" '
            'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{self.paper}"/>\n'
            + "\n".join(self._svg)
            + "\n</svg>\n"
        )

    def picture(self, *, scale: int = 2) -> Image.Image:
        """The same as pixels, `scale` (1 to 3) for each of the drawing's."""
        size = (self.width * _OVERSAMPLING, self.height * _OVERSAMPLING)
        canvas = Image.new("RGB", size, self.paper)
        draw = ImageDraw.Draw(canvas)
        for stroke in self._strokes:
            stroke(draw)
        return canvas.resize((self.width * scale, self.height * scale), Image.Resampling.LANCZOS)


def _paint(fill: str | None, stroke: str, width: float) -> str:
    return f'fill="{fill or "none"}" stroke="{stroke}" stroke-width="{width:g}" stroke-linejoin="round"'
