"""Interfaces of MONAI: transforms that refine predictions, and `blocks.CRF`, a layer."""

from .transforms import CRF, CRFD, CRFd, CRFDict

__all__ = ["CRF", "CRFD", "CRFDict", "CRFd"]
