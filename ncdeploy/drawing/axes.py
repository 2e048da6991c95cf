"""Axes of charts: where a value goes, and which values are written beside the axis."""

import math
from collections.abc import Sequence


class LogAxis:
    """A logarithmic axis from pixel `a` to pixel `b` that holds the values with air around them."""

    def __init__(self, values: Sequence[float], a: float, b: float) -> None:
        low, high = max(min(values), 1e-12), max(values)
        air = max(0.06 * math.log(high / low), 0.08)
        self.a, self.b = a, b
        self.low, self.high = math.log(low) - air, math.log(high) + air

    def __call__(self, value: float) -> float:
        at = (math.log(max(value, 1e-12)) - self.low) / (self.high - self.low)
        return self.a + at * (self.b - self.a)

    def ticks(self) -> list[float]:
        """Round values: as many of 1, 2, 5 times powers of ten as keep apart, on a short axis every step of one."""
        powers = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
        for digits in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            values = [d * 10.0**p for p in powers for d in digits if self.low <= math.log(d * 10.0**p) <= self.high]
            if len(values) <= 7:
                break
        return values
