"""Limits and numerical constants that Python and C++ share.

CMake reads each line `NAME = value  # meaning` and writes it to a C++ header as `kName`: an int, or
a double if the value has a decimal point. Native modules report what they were compiled with as
`limits`.
"""

MAX_KERNELS = 6  # Gaussian kernels of one mean field; a CUDA launch takes all in one argument
MAX_DIMS = 16  # feature dimensions of a lattice
INDEX_BITS = 31  # indices of lattice corners N (d+1), of vertices and of pixels are int32
MAX_KEY_WORDS = 9  # 64-bit words of a vertex key: MAX_DIMS quotients of 32 bits and a remainder
MAX_ELEVATED_FLOAT32 = 1048576.0  # bound on lattice coordinates: below it float32 steps are 1/16
MAX_ELEVATED_FLOAT64 = 2147483648.0  # the bound for float64, where quotients must fit int32

BLUR_SIDE = 0.5  # blur weight of a vertex's two neighbours along an axis; the vertex's own is 1
FILTER_VARIANCE = 0.6666666666666666  # variance of the filter per feature, in units of (d+1)^2

NARROW_LABELS = 32  # up to this many labels, rows of label values are padded less
NARROW_STEP = 4  # up to NARROW_LABELS, rows are padded to a multiple of this many elements
WIDE_STEP = 8  # for more labels, rows are padded to a multiple of this many elements

LABEL_BITS = 16  # uint16 stores the labels of a grid CRF, and one value for masked pixels
OFFSET_BITS = 15  # bits of an offset or colour of a grid CRF, so that a product of two fits int32
