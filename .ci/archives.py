"""Compare the sdist and the wheel in a folder with what git tracks: .ci/archives.py FOLDER

setuptools leaves out of both what no setting names, without a warning.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

# What only a checkout has a use for, and what the build adds.
CHECKOUT_ALONE = re.compile(r"\.github/|\.gitignore$|\.clang-format$")
MADE = re.compile(
    r"densecrf_rnn/_(cpu|serial|cuda)\.[^/]*\.(so|pyd)$|[^/]+\.(dist|egg)-info/|PKG-INFO$"
)


def main(folder: str) -> int:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if not CHECKOUT_ALONE.match(name)}
    [sdist], [wheel] = Path(folder).glob("*.tar.gz"), Path(folder).glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    in_sdist = {name for name in names if not MADE.match(name)}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    in_wheel = {name for name in names if not MADE.match(name)}
    package = {name for name in tracked if name.startswith("densecrf_rnn/")}
    faults = 0
    for archive, held, wanted in (
        (sdist, in_sdist, tracked), (wheel, in_wheel, package),
    ):  # fmt: skip
        for what, files in (("lacks", wanted - held), ("should not hold", held - wanted)):
            for name in sorted(files):
                print(f"{archive.name} {what} {name}", file=sys.stderr)
                faults += 1
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
