"""TIFF files: what their pages, samples and metadata mean, for whole and for tiled reading.

tifffile finds the layout and reads plain files as a whole; rasterio (`geotiff`) reads windows, and
everything of a GeoTIFF.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .._typing import Array
from .. import samples
from ..checks.wording import size as shown
from . import geotiff
from .containers import Missing
from .exif import check_upright
from .geometry import Geometry
from .label_values import check_opaque, grey
from .paths import reading
from .tiff_file import check_page, open_tiff
from .windows import Source, View

CONTENT = "a TIFF that tifffile can decode"

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType: the image is an overview, or a mask
_ALPHA = {1, 2}  # values of ExtraSamples
_GDAL_METADATA = 42112
# Tags that only GDAL's conventions define: scale, tie points, transformation, keys, nodata, RPC.
_GEOTIFF_TAGS = (33550, 33922, 34264, 34735, 42113, 50844)
# Files next to a TIFF that hold its georeference; and GDAL's file, if it has one of these entries.
_WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".wld")
_GDAL_ENTRIES = ("<SRS", "<GeoTransform", "<GCPList", "<NoDataValue")


class _Layout(NamedTuple):
    """The pages of a file that are one stack of images."""

    file: Any  # tifffile.TiffFile
    series: list[Any]  # one series, or several of single pages
    lead: tuple[int, ...]  # lengths of the axes before rows and columns, apart from the samples
    names: str  # a letter of tifffile's for each of them: Z, T, C; Q or I if unknown
    located: bool  # by GDAL's conventions: georeferenced, with nodata or with a mask

    @property
    def page(self) -> Any:
        return self.series[0].keyframe


class Tiff(Source):
    """An open TIFF.

    Its planes (page by page, sample by sample) get their meaning here: pages and samples are the
    labels of logits, the channels of an image, or the layers of a volume.

    Parameters
    ----------
    path : path
    stack : ExitStack
        Closes the file when it exits.
    whole : bool
        The pixels are read once, as a whole; otherwise in windows, by rasterio.
    """

    def __init__(self, path: Path, stack: contextlib.ExitStack, whole: bool = False) -> None:
        self.path = path
        if not whole:
            check_upright(path)
        with reading(path, CONTENT):
            self._layout = layout = _layout(path, stack)
            axes = layout.page.axes
            if axes not in ("YX", "YXS", "SYX"):
                raise ValueError(f"{path}: a TIFF whose pages have the axes {axes}, not YX or YXS")
            self.samples = layout.page.shape[axes.index("S")] if "S" in axes else 1
            self._size = tuple(layout.page.shape[axes.index(axis)] for axis in "YX")
            count = int(np.prod(layout.lead))
            check_page(path, layout.page, count if whole else None)
            stored = len(layout.series) * len(layout.series[0].pages)
            self._pages: geotiff.Pages | None = None
            if layout.located or not whole:
                offsets = _offsets(path, layout)
                self._pages = geotiff.Pages(path, offsets, layout.located, stack)
            if self._pages is None or stored < count:  # ImageJ may store one page for a stack
                self._array = _pixels(path, layout, count, whole)
                self.dtype = self._array.dtype.newbyteorder("=")
            else:
                self._array, self.dtype = None, self._pages.dtype

    @property
    def located(self) -> bool:
        """Whether the file is a GeoTIFF: georeferenced, with a nodata value or with a mask."""
        return self._layout.located

    def maps(self) -> View:
        """Return the logits [L, H, W] or [L, D, H, W]."""
        planes, names = self._planes()
        if planes.ndim == 0:
            return self._view(planes.reshape(1))
        if planes.ndim == 1:
            return self._view(planes)
        labels = [i for i, name in enumerate(names) if name in "CS"]
        if not labels and names[1] not in "T":  # as in an array [L, D, H, W]
            labels = [0] if names[0] not in "ZT" else []
        if planes.ndim > 2 or len(labels) != 1:
            raise self._unclear(names, "a page or a sample per label, or CZYX")
        return self._view(np.moveaxis(planes, labels[0], 0))

    def image(self, axes: int | None, bands: Sequence[int] | None = None) -> View:
        """Return the chosen bands [*S, band], by default all but alpha.

        `bands` count from 1. An alpha band among `bands` is a channel and masks no pixels.
        """
        planes, names = self._planes()
        if planes.ndim > 2 or (planes.ndim == 2 and sum(name in "CS" for name in names) != 1):
            raise self._unclear(names, "pages of one size, or ZCYX")
        channel = next((i for i, name in enumerate(names) if name in "CS"), -1)
        if planes.ndim == 1 and names != "S":  # pages without samples: channels or layers
            unknown = axes is None and names != "C"
            channel = -1 if axes == 3 or unknown or (axes == 2 and names in "ZT") else 0
        planes = planes[..., None] if channel < 0 else np.moveaxis(planes, channel, -1)
        alpha = self._alpha() if "S" in names else []
        count = planes.shape[-1]
        chosen = [i for i in range(count) if i not in alpha]
        if bands is not None:
            if not bands or not set(bands) <= set(range(1, count + 1)):
                raise ValueError(
                    f"{self.path}: bands are {list(bands)}; choose from {list(range(1, count + 1))}"
                )
            chosen = [band - 1 for band in bands]
        transparent = [] if set(alpha) & set(chosen) else alpha
        stacked = np.moveaxis(planes, -1, 0)
        view = self._view(stacked[chosen], self.dtype.kind != "u", stacked[transparent])
        colours = self.colours()
        if colours is not None and len(chosen) == 1:
            shape, dtype = (*view.shape[1:], 3), colours.dtype
            return View(shape, dtype, lambda w: colours[view[(_ALL, *w[:-1])][0]], view.valid)
        shape = (*view.shape[1:], view.shape[0])
        return View(
            shape, view.dtype, lambda w: np.moveaxis(view[(w[-1], *w[:-1])], 0, -1), view.valid
        )

    def labels(self) -> View:
        """Return the label map [H, W] or [D, H, W]: palette indices or grey values.

        Samples that are equal count as one.
        """
        planes, names = self._planes()
        if planes.ndim > 1 + ("S" in names):
            raise self._unclear(names, "one page, or a page per layer")
        count = self.samples
        if count > 4 or (count in (2, 4) and count - 1 not in self._alpha()):
            raise ValueError(f"{self.path}: has {count} bands; a label map, or a mask, has one")
        planes = np.moveaxis(planes, -1, 0) if "S" in names else planes[None]
        view = self._view(planes)

        def part(where: tuple[slice, ...]) -> Array:
            return grey(self.path, np.moveaxis(view[(_ALL, *where)], 0, -1))

        return View(view.shape[1:], view.dtype, part, view.valid)

    @property
    def nodata(self) -> float | None:
        """The value of pixels without data; None if the file has none."""
        return None if self._pages is None else self._pages.nodata

    def ground(self) -> dict[str, Any]:
        """Return the georeference as keywords of rasterio.open; empty if there is none."""
        return {} if self._pages is None else self._pages.ground()

    def geometry(self) -> Geometry | None:
        """Return where the pixels are; None if the file has no transform."""
        return None if self._pages is None else self._pages.geometry()

    def _planes(self) -> tuple[Array, str]:
        """Return the numbers of the planes, arranged by the axes that are longer than 1."""
        lengths, names = (*self._layout.lead, self.samples), f"{self._layout.names}S"
        kept = [i for i, length in enumerate(lengths) if length > 1]
        planes = np.arange(int(np.prod(lengths))).reshape([lengths[i] for i in kept])
        return planes, "".join(names[i] for i in kept)

    def _view(self, planes: Array, by_one: bool = False, alpha: Array | None = None) -> View:
        """Return planes [N, ...] with rows and columns, [N, ..., H, W], and where they have data.

        A pixel lacks data if all of its N values are the nodata value (`by_one`: if one of them
        is); if the file's mask excludes it; or if a plane of `alpha` is 0 there. A nodata value of
        unsigned integers, such as 0, is often a value of single bands, too.
        """
        nodata = None if self._pages is None else self._pages.nodata
        masked = self._pages is not None and self._pages.masked
        valid = None

        def part(where: tuple[slice, ...]) -> Array:
            return self._read(planes[where[:-2]], where[-2:])

        def has_data(where: tuple[slice, ...]) -> Array:
            found = np.ones([len(range(*s.indices(n))) for s, n in zip(where, size)], bool)
            if nodata is not None:
                lacking = _equal(part((_ALL, *where)), nodata)
                found &= ~(lacking.any(0) if by_one else lacking.all(0))
            if masked:
                assert self._pages is not None
                found &= self._pages.mask(where[-2:])
            if alpha is not None and len(alpha):
                found &= (self._read(alpha[(_ALL, *where[:-2])], where[-2:]) != 0).all(0)
            return found

        size = (*planes.shape[1:], *self._size)
        if nodata is not None or masked or (alpha is not None and len(alpha)):
            valid = View(size, bool, has_data)
        return View((*planes.shape, *self._size), self.dtype, part, valid)

    def _read(self, planes: Array, window: tuple[slice, ...]) -> Array:
        """Return planes [...] within a window, [..., h, w]."""
        flat = planes.ravel()
        with reading(self.path, "a GeoTIFF" if self.located else "a TIFF"):
            if self._array is not None:
                page, sample = np.divmod(flat, self.samples)
                found = self._array[(page, sample, *window)]
            else:
                assert self._pages is not None
                found = self._pages.read(flat, self.samples, window)
        found = found.reshape(*planes.shape, *found.shape[-2:])
        return found.astype(self.dtype, copy=False)

    def _alpha(self) -> list[int]:
        """Return the samples that the file marks as alpha, counted from 0."""
        page = self._layout.page
        first = self.samples - len(page.extrasamples)
        found = {first + i for i, kind in enumerate(page.extrasamples) if int(kind) in _ALPHA}
        if tag := page.tags.get(_GDAL_METADATA):
            with reading(self.path, CONTENT):
                items = ElementTree.fromstring(str(tag.value)).iter("Item")
            found |= {
                int(item.get("sample", -1))
                for item in items
                if item.get("role") == "colorinterp" and item.text == "Alpha"
            }
        return sorted(found) if len(found) < self.samples else []

    def colours(self) -> Array | None:
        """Return the colours of a palette, uint8 [N, 3]; None if pixels are not palette indices."""
        page = self._layout.page
        if page.colormap is None or page.photometric.name != "PALETTE":
            return None
        return (page.colormap >> 8).astype(np.uint8).T

    def _unclear(self, names: str, wanted: str) -> ValueError:
        axes = f"{names.replace('S', '')}YX{'S' if 'S' in names else ''}"
        return ValueError(f"{self.path}: a TIFF with the axes {axes}; it must hold {wanted}")


_ALL = slice(None)


def read_image(
    path: Path, axes: int | None = None, bands: Sequence[int] | None = None
) -> Array:
    """Read an image [H, W, C], or [D, H, W, C] from several pages, in the stored dtype.

    Palette indices are replaced by their colours; an alpha channel is dropped unless `bands` (from
    1) names it. With 2 `axes` pages of unknown meaning are channels; otherwise they are layers.
    """
    return _whole(path, lambda file: file.image(axes, bands))[0]


def read_labels(path: Path) -> Array:
    """Read a label map [H, W], or [D, H, W] from several pages: palette indices or grey values."""
    return _whole(path, Tiff.labels)[0]


def read_colours(path: Path) -> Array | None:
    """Read the colours of a label map, uint8 [H, W, 3]; None if its values are labels."""
    with contextlib.ExitStack() as stack:
        file = Tiff(path, stack, whole=True)
        colours, count = file.colours(), file.samples
    if colours is not None:
        is_default = np.array_equal(colours[:256], samples.palette())
        return None if is_default else read_image(path)
    if count not in (3, 4):
        return None
    pixels = read_image(path, bands=range(1, count + 1))
    check_opaque(path, pixels)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: holds colours of {pixels.dtype}; save them with 8 bits each")
    return pixels[..., :3]


def read_scores(path: Path) -> Array:
    """Read logits or probabilities [L, H, W] from a file with a page, or a sample, per label.

    Pages with several samples, and pages with the axes C and Z, are [L, D, H, W].
    """
    return _whole(path, Tiff.maps)[0]


def read_valid(
    path: Path, use: str, axes: int | None = None, bands: Sequence[int] | None = None
) -> Array | None:
    """Read where a file has data, bool [*S]; None if no pixel is marked as without data.

    `use` is "scores", "image" or "labels", because an alpha band concerns images only.
    """
    views = {
        "scores": Tiff.maps, "labels": Tiff.labels, "image": lambda file: file.image(axes, bands)
    }  # fmt: skip
    return _whole(path, views[use], pixels=False)[1]


def read_geometry(path: Path, key: str | None = None) -> Geometry | None:
    """Read where the pixels of a TIFF are; None if it is no GeoTIFF or has no transform."""
    with contextlib.ExitStack() as stack:
        return Tiff(path, stack).geometry() if is_located(path) else None


def read_nodata(path: Path) -> float | None:
    """Read the value of pixels without data; None if the file has none."""
    with contextlib.ExitStack() as stack:
        return Tiff(path, stack).nodata if is_located(path) else None


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the lengths of all axes but the samples, as far as the file's pages are one stack."""
    with contextlib.ExitStack() as stack:
        layout = _layout(path, stack)
        axes = layout.page.axes
        return (*layout.lead, *(layout.page.shape[axes.index(axis)] for axis in "YX"))


def missing(path: Path) -> Missing:
    """Count the blocks of a TIFF that are not stored, as GDAL's sparse files leave them out."""
    with contextlib.ExitStack() as stack:
        layout = _layout(path, stack)
        pages = [page for series in layout.series for page in series.pages if page is not None]
        stored = [size > 0 for page in pages for size in page.databytecounts]
        return Missing(len(stored) - sum(stored), len(stored), layout.page.nodata)


def is_located(path: Path) -> bool:
    """Return whether a TIFF is a GeoTIFF: georeferenced, with a nodata value or with a mask."""
    with contextlib.ExitStack() as stack, reading(path, CONTENT):
        return _layout(path, stack).located


def _whole(path: Path, view_of: Any, pixels: bool = True) -> tuple[Array, Array | None]:
    """Return the whole of a view of a file, unless `pixels` is False, and where it has data."""
    with contextlib.ExitStack() as stack:
        view = view_of(Tiff(path, stack, whole=True))
        values = view[(_ALL,) * len(view.shape)] if pixels else np.empty(0)
        valid = None if view.valid is None else view.valid[(_ALL,) * len(view.valid.shape)]
    return np.ascontiguousarray(values), valid


# --- layout --------------------------------------------------------------------------------------


def _layout(path: Path, stack: contextlib.ExitStack) -> _Layout:
    """Return the layout of a file: its one series, or single pages of one size joined as a stack.

    Overviews are known by the file's marks alone: a page of half the size may be another image.
    """
    file = stack.enter_context(open_tiff(path))
    everything = list(file.series)
    masks = [s for s in everything if int(s.keyframe.subfiletype) & _MASK]
    used = [s for s in everything if not int(s.keyframe.subfiletype) & (_MASK | _REDUCED)]
    first, *others = used or everything[:1]
    size = first.keyframe.shape
    kind = (first.shape, first.axes, first.dtype)
    joined = [series for series in others if (series.shape, series.axes, series.dtype) == kind]
    unmarked = [other for other in others if other not in joined]
    unmarked += [level for level in first.levels[1:] if not _is_reduced(level)]
    if unmarked:
        raise ValueError(
            f"{path}: holds images of different kinds, {shown(first.shape)} {first.dtype} and "
            f"{shown(unmarked[0].shape)} {unmarked[0].dtype}, which the file does not mark as "
            "reduced (NewSubfileType, SubIFDs); save one of them, or pages of one size"
        )
    order = [page.index for series in (first, *joined) for page in series.pages if page is not None]
    if joined and order != sorted(order):
        raise ValueError(f"{path}: pages of different kinds alternate; save pages of one kind")
    pages = int(np.prod(first.shape)) // int(np.prod(size))
    lengths, names = _lead(first, pages)
    if joined:
        lengths, names = (1 + len(joined), *lengths), f"I{names}"
    return _Layout(file, [first, *joined], lengths, names, bool(masks) or _located(path, file))


def _lead(series: Any, pages: int) -> tuple[tuple[int, ...], str]:
    """Return lengths and names of the axes before those of a page, without those of length 1."""
    lead = len(series.shape) - len(series.keyframe.shape)
    found = [(n, name) for n, name in zip(series.shape[:lead], series.axes) if n > 1]
    if int(np.prod([n for n, _ in found])) != pages:  # other axes than tifffile's usual order
        found = [(pages, "Q")] if pages > 1 else []
    return tuple(n for n, _ in found), "".join(name for _, name in found)


def _is_reduced(level: Any) -> bool:
    """Return whether a file marks a level as reduced; in plain TIFFs tifffile goes by the size."""
    page = level.keyframe
    return level.kind != "generic" or page.is_subifd or bool(int(page.subfiletype) & _REDUCED)


def _located(path: Path, file: Any) -> bool:
    tags = file.pages[0].tags
    if any(code in tags for code in _GEOTIFF_TAGS):
        return True
    return bool(companions(path))


def companions(path: Path) -> list[Path]:
    """Return the files next to a TIFF that say where its pixels are, or which have data."""
    ends = (*_WORLD_FILES, *map(str.upper, _WORLD_FILES))
    found = [path.with_suffix(end) for end in ends]
    found = [file for file in (*found, path.with_name(f"{path.name}.msk")) if file.exists()]
    notes = path.with_name(f"{path.name}.aux.xml")
    if notes.exists() and any(entry in notes.read_text() for entry in _GDAL_ENTRIES):
        found.append(notes)
    return found


def _offsets(path: Path, layout: _Layout) -> list[int]:
    """Return the position in the file of each page of the stack; 0 for the file's first page."""
    pages = [page for series in layout.series for page in series.pages]
    if any(page is None or page.parent is not layout.file for page in pages):
        raise ValueError(f"{path}: its pages are in several files; save them in one")
    return [0 if page.index == 0 else page.offset for page in pages]


def _pixels(path: Path, layout: _Layout, count: int, whole: bool) -> Array:
    """Return the pixels [page, sample, H, W] as an array; a memory map unless `whole`."""
    page, series = layout.page, layout.series
    if whole:
        array = np.stack([s.asarray() for s in series]) if len(series) > 1 else series[0].asarray()
    else:
        if len(series) > 1 or series[0].dataoffset is None:
            raise ValueError(f"{path}: stores several images in one page; save a page for each")
        dtype = series[0].dtype.newbyteorder(layout.file.byteorder)
        shape = series[0].shape
        array = np.memmap(path, dtype, "r", offset=series[0].dataoffset, shape=shape)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    array = array.reshape(count, *page.shape)
    if page.axes == "YXS":
        return np.moveaxis(array, -1, 1)
    return array if page.axes == "SYX" else array[:, None]


def _equal(values: Array, nodata: float) -> Array:
    """Return where values equal the nodata value, as the file's dtype stores it."""
    if np.isnan(nodata):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        return values == values.dtype.type(nodata)
    return values == nodata
