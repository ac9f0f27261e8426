"""Python remedies in messages, replaced by what a user of the command line can do.

The library's messages tell a Python caller what to write. On the command line the remedy is an
option, or another file. `tests/test_cli_messages.py` finds messages that this table misses.
"""

import re
from collections.abc import Callable

_PYTHON_CALL = r"(?:\w+\.)*\w+\(.*\)"

# Pattern in a message of the library, and the replacement.
REMEDIES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (rf"pass kind='probabilities' to refine, or their log\w+: {_PYTHON_CALL}",
     "add --kind probabilities"),
    (
        r"pass kind='probabilities' and multilabel=True to refine, or for one label per pixel "
        rf"their logarithm: {_PYTHON_CALL}",
        "add --kind regions, or for one label per pixel --kind probabilities --clip",
    ),
    (rf"pass kind='probabilities' with multilabel=True, or their logit: {_PYTHON_CALL}",
     "give --kind regions"),
    (r"by unaries\.logits_from_probabilities\(p, multilabel=True, clip=True\)", "with --clip"),
    (r"leave kind='probabilities' out for logits of the maps",
     "for their logits give --kind region-logits"),
    (
        r"search ranges=\{'theta_beta': \(([^,]+), ([^)]+)\)\}",
        lambda m: f"give --theta-beta {m[1]},{m[2]}, or add --normalize percentile",
    ),
    (
        r"give theta_beta=(\([^)]*\)|[^\s,]+), in the units of the image(, or .*)?",
        lambda m: f"give --theta-beta {m[1].strip('()').replace(' ', '')}, in the units of the "
        f"image{', or add --normalize percentile' if m[2] else ''}",
    ),
    (
        rf"pass image \* ([\d.e+-]+)( or {_PYTHON_CALL})?, because a theta_beta",
        lambda m: f"save the image times {m[1]}{', or add --normalize percentile' if m[2] else ''}"
        ", because a --theta-beta",
    ),
    (r"pass multilabel=True if", "add --kind regions if"),
    (r"(by|with) unaries\.logits_from_probabilities\(p, clip=True\)", "with --clip"),
    (r"logits need no conversion", "for logits give --kind logits"),
    (r"pass exif='ignore'", "add --exif ignore"),
    (r"pass kind='probabilities'", "add --kind probabilities"),
    (r"pass kind='labels'", "add --kind labels"),
    (r"for label maps use read_labels", "for label maps add --kind labels"),
    (r"bring them to 0\.\.1 first",
     "save them in 0..1 and add --kind probabilities (several that overlap: --kind "
     "regions), or for label maps --kind labels"),
    (r"divide them by 1 as floating point", "save them as floating point (.npy, .tif)"),
    (r"divide them by (\d+) as floating point",
     r"save them divided by \1 as floating point (.npy, .tif)"),
    (r"for a mask or a label map use unaries\.logits_from_labels",
     "for a mask or a label map add --kind labels"),
    (r"divide them by (\d+) first", r"save them divided by \1 and add --kind probabilities"),
    (r"pass recursive=True", "add --recursive"),
    (r"read it within `files\.allowing\((\d+)\)`", r"add --max-bytes \1"),
    (r"pass strict=True to refuse", "--strict refuses"),
    (r"pass strict=False", "leave --strict out"),
    (r"pass spacing=\(depth, row, column\)", "give --spacing DEPTH,ROW,COLUMN"),
    (r"cut it into tiles, as refine_tiled does", "add --tile 2048"),
    (r"pass void=(-?\d+)", r"add --ignore \1 (TRUTH) or --unsure \1 (LOGITS)"),
    (r"values=LabelValues\(colours=\.\.\.\)", "--colours FILE, or --colours voc"),
    (r"choose one by `key`", "choose one by the option --key, --image-key or --truth-key"),
    (r" \(logits\.astype\(.*?\)\)", "; save it so, or add --kind probabilities if it holds such"),
    (r"channels come last: np\.moveaxis\(.*?\)", "channels must come last in the file"),
    (r"labels come first: np\.moveaxis\(.*?\)", "labels must come first in the file"),
    (r"\(num_labels= or classes=\); if it means unknown, give unsure=(-?\d+)",
     r"(--classes or --num-labels); add --unsure \1 if it means unknown"),
    (r"pass one image at a time: logits\[b\](, image\[b\])?", "save one file per image"),
    (r"; set prune=0(, or use backend='\w+')*", "; give --prune 0, or another --backend"),
    (r"upsample='(\w+)'", r"--upsample \1"),
    (r" or float64 logits", ""),
    (r", for example by np\.save\(.*?\)\)", ""),
    (r"leave out the key ('.*?')", r"leave out \1, given by --key, --image-key or --truth-key"),
    (
        r" \(ignore=(-?\d+) marks pixels of truth that do not count\)",
        r"; give a larger --labels, or by --ignore the value of void (now \1)",
    ),
    (r"folds is (\d+) but there are (\d+) examples", r"--folds is \1 but \2 images have truth"),
    (r"ranges is empty; .*", "all parameters are fixed; give one a range, as --w-spatial 1,9"),
    (r"ranges\['(\w+)'\]", r"\1"),
)
# Arguments of functions that are options of the same name, at the beginning of a clause.
_ARGUMENT = re.compile(
    r"(?<![\w.-])(?:params\.)?(theta_alpha|theta_beta|theta_gamma|w_bilateral|w_spatial|temperature"
    r"|classes|spacing|iterations|confidence|compatibility|folds|halo|bands|prune)"
    r"(?=(?:\[\d+\])? (?:is|has|holds)\b)"
)
_COMPILED = [(re.compile(pattern, re.DOTALL), words) for pattern, words in REMEDIES]


def in_options(message: str) -> str:
    """Return a message with its Python remedies replaced.

    Examples
    --------
    >>> in_options("if they are, pass kind='probabilities' to refine, or their logit: np.log(p)")
    'if they are, add --kind probabilities'
    """
    for pattern, words in _COMPILED:
        message = pattern.sub(words, message)
    if " in JSON: " in message:  # names in a file of settings
        return message
    return _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')}", message)
