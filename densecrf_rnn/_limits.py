"""Limits and numerical constants that Python and C++ share.

CMake reads each line `NAME = value  # meaning` and writes it to a C++ header as `kName`: an int, or
a double if the value has a decimal point. Native modules report what they were compiled with as
`limits`.
"""

MAX_KERNELS = 6  # kernels of one mean field; CUDA passes them all as one kernel argument
MAX_DIMS = 16  # features of a lattice
INDEX_BITS = 31  # lattice corners N (d+1), vertices and pixels of an image are int32
MAX_KEY_WORDS = 9  # 64-bit words of a vertex key: MAX_DIMS quotients of 32 bits and a remainder
MAX_ELEVATED_FLOAT32 = 1048576.0  # lattice coordinate just below which float32 has steps of 1/16
MAX_ELEVATED_FLOAT64 = 2147483648.0  # the same for float64, where quotients must fit int32

BLUR_SIDE = 0.5  # blur weight of each of a vertex's two neighbours along an axis; its own is 1
FILTER_VARIANCE = 0.6666666666666666  # of splat, blur and slice per feature, in units of (d+1)^2

NARROW_LABELS = 32  # rows of label values are padded to a multiple of NARROW_STEP up to here,
NARROW_STEP = 4  # elements
WIDE_STEP = 8  # elements, the multiple for more labels

LABEL_BITS = 16  # a label of a grid CRF, and one value for masked pixels, are stored as uint16
OFFSET_BITS = 15  # of offsets and colours of a grid CRF, so that a product of two fits int32
