"""The native CPU module as an engine."""

from .contract import BackendUnavailableError, FusedEngine


def load() -> FusedEngine:
    """Return the native module: its functions are an engine's operations.

    It reads the structs of `contract` by field name.
    """
    from .. import _cpu

    try:
        _cpu.isa()
    except ValueError as error:  # DENSECRF_RNN_ISA holds another word
        raise BackendUnavailableError(f"backend 'cpu' cannot run here: {error}") from None
    return _cpu
