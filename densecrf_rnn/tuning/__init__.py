"""Search for bandwidths and weights that score best on images with ground truth.

The "cross-validation process" of [CRF-RNN] section 5. Optuna proposes settings, this package
scores them: images in a fixed order, several settings per lattice, poor settings pruned early.
Optuna is imported when a search starts. `nn.tuning` learns parameters by gradients.
"""

from .folds import Folds, cross_validate
from .search import Outcome, Tuned, tune
from .study import held, importances, settings
from .task import ITERATIONS, RANGES, START, Example, Score, Task, confusions, optional, ranges_of

__all__ = [
    "ITERATIONS", "RANGES", "START", "Example", "Folds", "Outcome", "Score", "Task", "Tuned",
    "confusions", "cross_validate", "held", "importances", "optional", "ranges_of", "settings",
    "tune",
]  # fmt: skip
