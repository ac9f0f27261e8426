"""``python -m tests.fuzz.guided TARGET [libFuzzer options]``: coverage-guided fuzzing by atheris.

TARGET is an extension, whose readers are fuzzed, or "pydensecrf", "json", "journal". Inputs that
increase the coverage are kept in tests/fuzz/corpus/TARGET; a crashing input is written to the
working folder. Useful options: ``-max_total_time=60 -rss_limit_mb=4096 -timeout=20``.
"""

import contextlib
import sys

import atheris  # the extra "fuzz"
import numpy as np

with atheris.instrument_imports(
    include=["densecrf_rnn.files", "densecrf_rnn.compat", "tifffile", "nibabel", "zipfile"]
):
    from densecrf_rnn.compat.pydensecrf import densecrf, utils

    from . import targets


def call_pydensecrf(data):
    """Make a CRF in pydensecrf's interface from arguments that these bytes choose."""
    given = atheris.FuzzedDataProvider(data)

    def array(shape):
        dtype = given.PickValueInList([np.float32, np.float32, np.float64, np.uint8, np.int32])
        values = np.frombuffer(given.ConsumeBytes(64).ljust(64, b"\7"), np.int8).astype(dtype)
        made = np.resize(values, shape)
        if given.ConsumeBool():
            made = np.asfortranarray(made)
        if dtype == np.float32 and given.ConsumeIntInRange(0, 9) == 0 and made.size:
            made.flat[0] = given.PickValueInList([np.nan, np.inf, -np.inf, 3e38])
        return made

    def number():
        return given.PickValueInList(
            [0, 1, 2, 3, -1, 0.5, 3.0, np.nan, np.inf, 1e30, None, "3", (1, 2), (3.0, 2.0), [1]]
        )

    width, height, labels = (given.ConsumeIntInRange(-1, 6) for _ in range(3))
    with contextlib.suppress(ValueError, TypeError, RuntimeError):
        crf = densecrf.DenseCRF2D(width, height, labels)
        for _ in range(given.ConsumeIntInRange(1, 6)):
            call = given.ConsumeIntInRange(0, 7)
            with contextlib.suppress(ValueError, TypeError, RuntimeError):
                if call == 0:
                    crf.setUnaryEnergy(array((labels, max(width * height, 0))))
                elif call == 1:
                    crf.addPairwiseGaussian(number(), compat=number())
                elif call == 2:
                    image = array((max(height, 0), max(width, 0), 3))
                    crf.addPairwiseBilateral(number(), number(), image, compat=number())
                elif call == 3:
                    crf.addPairwiseEnergy(array((2, max(width * height, 0))), compat=number())
                elif call == 4:
                    crf.inference(given.ConsumeIntInRange(-1, 3))
                elif call == 5:
                    q, *temporary = crf.startInference()
                    crf.stepInference(q, *temporary)
                    crf.klDivergence(q)
                elif call == 6:
                    utils.unary_from_labels(
                        array((3, 4)), given.ConsumeIntInRange(-1, 4), gt_prob=number()
                    )
                else:
                    utils.unary_from_softmax(array((2, 3, 4)), scale=number())


def main():
    name, *options = sys.argv[1:]
    function = call_pydensecrf if name == "pydensecrf" else targets.target(name)
    folder = targets.CORPUS / name.lstrip(".")
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()) and name.startswith("."):
        targets.seeds(name)
    atheris.Setup([sys.argv[0], str(folder), *options], function)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
