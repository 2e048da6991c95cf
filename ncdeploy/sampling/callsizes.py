"""Call sizes: the few numbers of rows that an engine is called with, where every other number would cost a set-up.

A CUDA graph holds the shapes it was captured with, and ONNX Runtime on CUDA sets its convolutions up anew whenever the
number of rows changes, for 50 to 900 ms. Such an engine has the attribute `sizes`, and is asked for 1, 2, 3, 4, 6,
8, 12 ... rows only. What a call has left evaluates further nodes, or its last row again where there are none.
"""

from typing import Any

from ncdeploy.sampling.arrays import namespace

_OVER = 1.06  # of a size: so many rows are rather cut to it than filled up to the next
_DOWN = 8  # a run's calls shrink to this part of its largest one, so that it needs few sizes


class CallSizes:
    """1, and 2 and 3 times the powers of two, up to `most`, and `most` itself; without it, all of them.

    ready: those whose set-up is paid for, which an engine adds to
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.ready: set[int] = set()

    def fit(self, rows: int, least: int = 1) -> int:
        """The size of a call of so many rows, of no fewer than `least`; `rows` itself where no call holds them all."""
        rows, asked = max(rows, least), rows
        power = 1 << (rows - 1).bit_length()
        size = power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power
        return size if self.most is None else max(min(size, self.most), asked)

    def near(self, rows: int, least: int = 1) -> int:
        """The size of a call on about so many rows: `fit`, or the size below it where that leaves few of them out."""
        size = self.fit(rows, least)
        below = max((s for s in self.up_to(size) if s < size), default=size)
        return below if max(rows, least) <= _OVER * below else size

    def up_to(self, rows: int) -> list[int]:
        """All sizes that calls of up to so many rows may have."""
        most = self.fit(rows) if self.most is None else min(self.fit(rows), self.most)
        return sorted(
            {size for e in range(most.bit_length()) for size in (2**e, 3 * 2**e // 2) if size < most} | {most}
        )

    def per(self, rows: int) -> "CallSizes":
        """The sizes in units of so many rows: of a call where each row of x takes that many. `ready` stays with the
        engine's own."""
        sizes = CallSizes(None if self.most is None else max(1, self.most // rows))
        sizes.ready = {size // rows for size in self.ready if size % rows == 0}
        return sizes


def sizes_of(denoise: Any) -> CallSizes | None:
    """The call sizes of an engine, None for one that takes any number of rows at no cost."""
    sizes = getattr(denoise, "sizes", None)
    return sizes if isinstance(sizes, CallSizes) else None


def least_size(largest: int) -> int:
    """The least size of a run whose largest call has this one."""
    return max(1, largest // _DOWN)


def filled(array: Any, rows: int) -> Any:
    """[B, ...] with its last row repeated up to so many rows."""
    if len(array) == rows:
        return array
    xp = namespace(array)
    return xp.concat([array, xp.broadcast_to(array[-1:], (rows - len(array), *array.shape[1:]))])
