"""Damage to bytes, as disks, networks and attackers do it."""

import numpy as np


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes than `data`: bits flipped, bytes replaced, pieces cut out, doubled, zeroed or moved, ends cut."""
    while True:
        changed = _mutate(data, rng)
        if changed != data:
            return changed


def _mutate(data: bytes, rng: np.random.Generator) -> bytes:
    at, to = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    to = min(to, at + int(rng.integers(1, 64)))
    piece = data[at:to]
    match int(rng.integers(0, 8)):
        case 0 | 1:
            changed = bytearray(data)
            for i in rng.integers(0, len(data), int(rng.integers(1, 4))):
                changed[i] ^= 1 << int(rng.integers(0, 8))
            return bytes(changed)
        case 2:
            return data[:at] + rng.bytes(len(piece)) + data[to:]
        case 3:
            return data[:at] + data[to:]
        case 4:
            return data[:to] + piece + data[to:]
        case 5:
            return data[:at] + bytes(len(piece)) + data[to:]
        case 6:
            return data[:at]
        case _:
            rest = data[:at] + data[to:]
            other = int(rng.integers(0, len(rest) + 1))
            return rest[:other] + piece + rest[other:]
