"""Types that annotations all over the package use."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
