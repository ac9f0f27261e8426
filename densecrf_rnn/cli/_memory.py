"""Memory that stays with the process."""

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_memory(most: int) -> None:
    """Let freed memory serve the next file, up to blocks of `most` bytes; on glibc alone.

    By default each of several threads gives arrays as large as logits back to the kernel, which
    clears the same pages again for the next file: a tenth of all the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, most)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
