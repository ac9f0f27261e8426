"""Engine "torch": lattices, grids and mean fields in torch operations, on any device.

It needs nothing but torch, reads one number from the device per lattice (how many vertices there
are), and computes every sum in a fixed order, so that results are identical from run to run and in
any batch.
"""

from .build import build, built_like
from .grids import diagonal as grid_diagonal, filtered as grid_filter
from .lattices import filtered as lattice_filter, self_response
from .lattices import weight_gradient as filter_weight_gradient
from .locate import feature_gradient
from .mean_field import backward as mean_field_backward, forward as mean_field
from .traced import mean_field as traced_mean_field

__all__ = [
    "build", "built_like", "feature_gradient", "filter_weight_gradient", "grid_diagonal",
    "grid_filter", "lattice_filter", "mean_field", "mean_field_backward", "self_response",
    "traced_mean_field",
]  # fmt: skip
