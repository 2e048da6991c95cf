"""Networks that return a variance beside the mean (Nichol & Dhariwal 2021): twice the channels, of which D is the
first half. The solvers here have variances of their own, so the second half is left out, and that is said."""

from ncdeploy.errors import InputError

DROPPED = "the half of the network's output that holds a learned variance was dropped; D is the mean"


def drops_variance(channels: int, returned: int, asked: str | None, said: bool = False) -> bool:
    """Whether to leave out the second half of a network's output.

    channels, returned: of its input and of its output
    asked: the option learned-variance, "drop" or None
    said:  whether the file itself says that half of the output is a variance

    Raises InputError for another word, for "drop" where there is nothing to, and where nobody says what the half is.
    """
    if asked not in (None, "drop"):
        raise InputError(f"learned-variance: got {asked!r}, expected drop")
    twice = returned == 2 * channels
    if asked and not twice:
        raise InputError(f"learned-variance: takes {channels} channels and returns {returned}; there is none to drop")
    if twice and not asked and not said:
        raise InputError(
            f"takes {channels} channels and returns {returned}; if half of that is a learned variance, give "
            "--learned-variance drop"
        )
    return twice
