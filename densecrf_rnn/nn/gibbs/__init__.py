"""Learning a grid CRF by Gibbs sampling in torch: the layer, its chains and their sweeps."""

from .chains import Chains, ChainStore
from .crf import GibbsCRF

__all__ = ["ChainStore", "Chains", "GibbsCRF"]
