"""An error curve: what it takes, and the scalar Jacobian that it gives."""

import numpy as np
import pytest

from ncdeploy import ErrorCurve, InputError


@pytest.mark.parametrize(
    ("sigmas", "mse"),
    [
        ((1.0,), (0.5,)),
        ((1.0, 2.0), (0.5,)),
        ((0.0, 2.0), (0.5, 0.5)),
        ((1.0, 1.0), (0.5, 0.5)),
        ((2.0, 1.0), (0.5, 0.5)),
        ((1.0, 2.0), (0.0, 0.5)),
        ((1.0, 2.0), (np.inf, 0.5)),
        ((1.0, np.nan), (0.5, 0.5)),
    ],
)
def test_what_is_no_curve_is_refused(sigmas: tuple[float, ...], mse: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="error curve"):
        ErrorCurve(sigmas=sigmas, mse=mse)


def test_the_jacobian_is_mse_over_sigma_squared_at_most_one() -> None:
    curve = ErrorCurve(sigmas=(0.5, 1.0, 4.0), mse=(0.2, 0.5, 1.0))
    np.testing.assert_allclose(
        curve.jacobian(np.array([0.5, 1.0, 2.0, 4.0, 8.0])), [0.8, 0.5, 0.5**0.5 / 4, 1 / 16, 1 / 64]
    )
    np.testing.assert_allclose(curve.jacobian(np.array([0.0, 0.1])), [0.8, 0.8])
    steep = ErrorCurve(sigmas=(0.5, 1.0), mse=(0.9, 1.5))
    np.testing.assert_array_equal(steep.jacobian(np.array([0.5, 1.0])), [1.0, 1.0])
