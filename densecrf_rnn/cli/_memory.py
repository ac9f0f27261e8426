"""Keep freed memory in the process."""

import ctypes

# Option numbers of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_memory(most: int) -> None:
    """Reuse freed blocks of up to `most` bytes for the next file; has an effect with glibc only.

    By default, threads return arrays as large as logits to the operating system, which clears the
    same pages again for the next file: a tenth of the run time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, most)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
