"""TIFF: what its pages, samples and metadata mean, the same for whole and for tiled reading."""

import contextlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from densecrf_rnn import files
from densecrf_rnn.files import formats, windows

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")

UTM = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(691000, 5335000, 0.5, 0.5)}
HEIGHT, WIDTH = 21, 34
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def values(*shape, dtype="uint8"):
    """Return values among which are many zeros and maxima, as of an alpha band."""
    most = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (RNG.choice([0, 0.25, 1], shape) * most).astype(dtype)


def geotiff(path, bands, **options):
    """Write [band, H, W]."""
    shape = dict(zip(("count", "height", "width"), bands.shape))
    with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, **shape, **options) as file:
        file.write(bands)
    return path


def in_windows(path, view_of):
    """Return an array that is read in windows, and where it has data."""
    with contextlib.ExitStack() as stack:
        view = view_of(formats.open_in_parts(path, stack))
        spatial = [i for i, n in enumerate(view.shape) if n in (HEIGHT, WIDTH)]
        found, valid = np.empty(view.shape, view.dtype), windows.valid(view)
        whole = [slice(0, n) for n in view.shape]
        has_data = None if valid is None else np.empty(valid.shape, bool)
        for top in range(0, HEIGHT, 8):
            for left in range(0, WIDTH, 16):
                where = list(whole)
                where[spatial[0]] = slice(top, min(HEIGHT, top + 8))
                where[spatial[1]] = slice(left, min(WIDTH, left + 16))
                found[tuple(where)] = view[tuple(where)]
                if has_data is not None:
                    part = tuple(s for s, n in zip(where, view.shape) if n in (HEIGHT, WIDTH))
                    has_data[part] = valid[part]
    return found, has_data


# --- an image rule is never applied to scores ----------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 6),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    photometric=st.sampled_from([None, "MINISBLACK", "RGB"]),
    alpha=st.sampled_from([None, "YES", "NO"]),
    interleave=st.sampled_from(["pixel", "band"]),
    ground=st.sampled_from([{}, UTM]),
)
def test_a_band_of_scores_is_never_alpha(
    tmp_path_factory, count, dtype, photometric, alpha, interleave, ground
):
    if photometric == "RGB" and (count < 3 or dtype == "float32"):
        photometric = None
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    bands = values(count, HEIGHT, WIDTH, dtype=dtype)
    given = {"photometric": photometric, "alpha": alpha}
    options = {name: value for name, value in given.items() if value is not None}
    geotiff(path, bands, interleave=interleave, **ground, **options)
    np.testing.assert_array_equal(formats.read(path, "scores"), bands)
    assert formats.function(path, "valid")(path, "scores") is None
    found, has_data = in_windows(path, lambda file: file.maps())
    np.testing.assert_array_equal(found, bands)
    assert has_data is None
    if count == 1 and dtype != "float32":
        np.testing.assert_array_equal(files.read_labels(path), bands[0])
        found, has_data = in_windows(path, lambda file: file.labels())
        np.testing.assert_array_equal(found, bands[0])
        assert has_data is None


# --- pages ---------------------------------------------------------------------------------------


def write_loop(path, maps):
    with tifffile.TiffWriter(path) as file:
        for plane in maps:
            file.write(plane)


def write_loop_without_metadata(path, maps):
    with tifffile.TiffWriter(path) as file:
        for plane in maps:
            file.write(plane, metadata=None)


PAGES = {
    "pages": lambda path, maps: tifffile.imwrite(path, maps, photometric="minisblack"),
    "generic": lambda path, maps: tifffile.imwrite(
        path, maps, photometric="minisblack", metadata=None
    ),
    "compressed": lambda path, maps: tifffile.imwrite(
        path, maps, photometric="minisblack", compression="zlib"
    ),
    "one page for all": lambda path, maps: tifffile.imwrite(
        path, maps, photometric="minisblack", truncate=True
    ),
    "loop": write_loop,
    "loop without metadata": write_loop_without_metadata,
    "planar": lambda path, maps: tifffile.imwrite(
        path, maps, photometric="minisblack", planarconfig="separate"
    ),
    "contig": lambda path, maps: tifffile.imwrite(
        path, np.moveaxis(maps, 0, -1), photometric="minisblack", planarconfig="contig"
    ),
    **{
        axes: lambda path, maps, axes=axes: tifffile.imwrite(
            path, maps, photometric="minisblack", metadata={"axes": axes}
        )
        for axes in ("CYX", "ZYX", "QYX", "IYX")
    },
    "ImageJ": lambda path, maps: tifffile.imwrite(
        path, maps, imagej=True, metadata={"axes": "CYX"}
    ),
    "OME": lambda path, maps: tifffile.imwrite(
        path, maps, photometric="minisblack", ome=True, metadata={"axes": "CYX"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", PAGES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_page_or_a_sample_per_label_is_joined_alike_whole_and_in_tiles(tmp_path, how, count):
    maps = values(count, HEIGHT, WIDTH, dtype="float32")
    path = tmp_path / "a.tif"
    PAGES[how](path, maps)
    np.testing.assert_array_equal(files.read_logits(path), maps)
    found, _ = in_windows(path, lambda file: file.maps())
    np.testing.assert_array_equal(found, maps)
    assert found.dtype.isnative


def test_pages_of_two_kinds_that_alternate_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page, compression in zip(values(4, HEIGHT, WIDTH), (None, "zlib", None, "zlib")):
            file.write(page, compression=compression, metadata=None)
    for whole in (True, False):
        with pytest.raises(ValueError, match="a.tif: pages of different kinds alternate"):
            if whole:
                files.read_logits(tmp_path / "a.tif")
            else:
                in_windows(tmp_path / "a.tif", lambda file: file.maps())


@pytest.mark.parametrize("kind", ["shaped", "ImageJ", "OME", "samples"])
def test_a_volume_of_labels_is_read_as_such(tmp_path, kind):
    maps, path = values(3, 4, HEIGHT, WIDTH, dtype="float32"), tmp_path / "a.tif"
    stored, options = np.swapaxes(maps, 0, 1), {"metadata": {"axes": "ZCYX"}}
    if kind == "samples":
        stored, options = np.moveaxis(maps, 0, -1), {"planarconfig": "contig"}
    if kind == "ImageJ":
        tifffile.imwrite(path, stored, imagej=True, **options)
    else:
        tifffile.imwrite(path, stored, photometric="minisblack", ome=kind == "OME", **options)
    np.testing.assert_array_equal(files.read_logits(path), maps)
    found, _ = in_windows(path, lambda file: file.maps())
    np.testing.assert_array_equal(found, maps)
    image = files.read_image(path)
    np.testing.assert_array_equal(image, np.moveaxis(maps, 0, -1))
    found, _ = in_windows(path, lambda file: file.image(3))
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("how", PAGES)
def test_pages_of_an_image_are_channels_of_a_picture_and_layers_of_a_volume(tmp_path, how):
    pages, path = values(4, HEIGHT, WIDTH, dtype="uint16"), tmp_path / "a.tif"
    PAGES[how](path, pages)
    samples = how in ("planar", "contig")
    if how != "ZYX":
        np.testing.assert_array_equal(files.read_image(path, axes=2), np.moveaxis(pages, 0, -1))
    if not samples:
        np.testing.assert_array_equal(files.read_image(path, axes=3), pages[..., None])
    for axes in (2, 3):
        found, _ = in_windows(path, lambda file: file.image(axes))
        np.testing.assert_array_equal(found, files.read_image(path, axes=axes))


def test_overviews_and_masks_are_no_pages(tmp_path):
    image = RNG.integers(1, 255, (3, 300, 400)).astype("uint8")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = geotiff(tmp_path / "a.tif", image, tiled=True, blockxsize=64, blockysize=64)
        with rasterio.open(path, "r+") as file:
            file.write_mask(image[0] > 100)
            file.build_overviews([2, 4])
    np.testing.assert_array_equal(files.read_image(path), np.moveaxis(image, 0, -1))
    valid = formats.function(path, "valid")(path, "image")
    np.testing.assert_array_equal(valid, image[0] > 100)
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(image[0, ::step, ::step], metadata=None, subfiletype=int(step > 1))
    np.testing.assert_array_equal(files.read_image(path)[..., 0], image[0])
    with tifffile.TiffWriter(path) as file:
        file.write(image[0], subifds=1)
        file.write(image[0, ::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(files.read_image(path)[..., 0], image[0])


@pytest.mark.parametrize("metadata", [None, {}])
@pytest.mark.parametrize("steps", [(1, 1, 2), (1, 2), (1, 2, 4)])
def test_a_smaller_page_is_an_overview_only_if_the_file_says_so(tmp_path, metadata, steps):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page, step in zip(values(3, 32, 48, dtype="float32"), steps):
            file.write(page[::step, ::step], metadata=metadata)
    for read in (files.read_image, files.read_labels, files.read_logits):
        with pytest.raises(ValueError, match="different kinds, .* does not mark as reduced"):
            read(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="mark as reduced"), contextlib.ExitStack() as stack:
        formats.open_in_parts(tmp_path / "a.tif", stack)


def test_images_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for width in (40, 39):
            file.write(np.zeros((30, width), np.uint8))
    for read in (files.read_image, files.read_labels, files.read_logits):
        with pytest.raises(ValueError, match="different kinds, 30 x 40 uint8 and 30 x 39 uint8"):
            read(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="different kinds"), contextlib.ExitStack() as stack:
        formats.open_in_parts(tmp_path / "a.tif", stack)


# --- images, and where they have data ------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 6),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    rgb=st.booleans(),
    alpha=st.sampled_from([None, "YES", "NO"]),
    nodata=st.sampled_from([None, 0]),
    ground=st.sampled_from([{}, UTM]),
)
def test_an_image_and_its_valid_pixels_are_the_same_whole_and_in_windows(
    tmp_path_factory, count, dtype, rgb, alpha, nodata, ground
):
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    bands = values(count, HEIGHT, WIDTH, dtype=dtype)
    bands[:, :3] = 0
    photometric = "RGB" if rgb and count > 2 and dtype[0] == "u" else "MINISBLACK"
    options = {} if alpha is None else {"alpha": alpha}
    geotiff(path, bands, photometric=photometric, nodata=nodata, **ground, **options)
    with tifffile.TiffFile(path) as file:
        extra = [int(kind) for kind in file.pages[0].extrasamples]
    marked = [kind in (1, 2) for kind in [0] * (count - len(extra)) + extra]
    kept = [i for i, is_alpha in enumerate(marked) if not is_alpha]
    image = files.read_image(path)
    np.testing.assert_array_equal(image, np.moveaxis(bands[kept], 0, -1))
    valid = files.read_valid(path, "image")
    if nodata is None and not any(marked):
        assert valid is None
    else:
        want = bands[marked].all(0)
        if nodata is not None:
            found = bands[kept] != nodata
            want &= found.any(0) if dtype[0] == "u" else found.all(0)
        np.testing.assert_array_equal(valid, want)
    found, has_data = in_windows(path, lambda file: file.image(2))
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(has_data, valid)
    every = list(range(1, count + 1))
    np.testing.assert_array_equal(files.read_image(path, bands=every), np.moveaxis(bands, 0, -1))


def test_a_pixel_of_scores_lacks_data_only_if_all_labels_do(tmp_path):
    """A probability of 0 is one, even if a program copied nodata=0 from the image."""
    p = values(3, HEIGHT, WIDTH, dtype="uint8")
    path = geotiff(tmp_path / "a.tif", p, nodata=0, **UTM)
    np.testing.assert_array_equal(files.read_valid(path, "scores"), (p > 0).any(0))
    p[0] = 255
    path = geotiff(tmp_path / "b.tif", p, nodata=0, **UTM)
    assert files.read_valid(path, "scores").all()


def test_scores_and_labels_without_data_are_no_numbers(tmp_path):
    logits = RNG.normal(size=(3, HEIGHT, WIDTH)).astype(np.float32)
    logits[:, :4] = -9999
    found = files.read_logits(geotiff(tmp_path / "a.tif", logits, nodata=-9999))
    assert np.isnan(found[:, :4]).all() and (found[:, 4:] == logits[:, 4:]).all()
    p = np.full((2, HEIGHT, WIDTH), 0.5, np.float32)
    p[:, :4] = np.nan
    path = geotiff(tmp_path / "p.tif", p, nodata=np.nan)
    found = files.read_logits(path, kind="probabilities")
    assert np.isnan(found[:, :4]).all() and (found[:, 4:] == np.log(np.float32(0.5))).all()
    labels = np.full((1, HEIGHT, WIDTH), 2, np.float32)
    labels[:, :4] = np.nan
    path = geotiff(tmp_path / "labels.tif", labels, nodata=np.nan)
    with pytest.raises(ValueError, match="holds NaN"):
        files.read_labels(path)
    found = files.read_labels(path, nodata=255)
    assert (found[:4] == 255).all() and (found[4:] == 2).all()
    assert (files.read_mask(path) == (found == 2)).all()


def test_what_lies_next_to_a_tiff_counts(tmp_path):
    """A world file, GDAL's notes and its mask; notes of statistics alone do not."""
    bands = values(1, HEIGHT, WIDTH)
    path = geotiff(tmp_path / "a.tif", bands)
    assert not files.is_geotiff(path)
    notes = tmp_path / "a.tif.aux.xml"
    notes.write_text("<PAMDataset><PAMRasterBand band='1'><Metadata/></PAMRasterBand></PAMDataset>")
    assert not files.is_geotiff(path)
    notes.write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>0</NoDataValue></PAMRasterBand>"
        "</PAMDataset>"
    )
    assert files.is_geotiff(path)
    np.testing.assert_array_equal(files.read_valid(path, "image"), bands[0] != 0)
    notes.unlink()
    (tmp_path / "a.tfw").write_text("0.5\n0\n0\n-0.5\n691000\n5335000\n")
    assert files.is_geotiff(path) and files.read_geometry(path) is not None


def test_palette_indices_are_colours_of_an_image_whole_and_in_windows(tmp_path):
    indices = values(1, HEIGHT, WIDTH)
    path = geotiff(tmp_path / "a.tif", indices, photometric="PALETTE", **UTM)
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    want = np.array([colours[i][:3] for i in range(256)], np.uint8)[indices[0]]
    np.testing.assert_array_equal(files.read_image(path), want)
    found, _ = in_windows(path, lambda file: file.image(2))
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(files.read_labels(path), indices[0])


def test_labels_are_written_with_georeference_and_nodata(tmp_path):
    like = geotiff(tmp_path / "image.tif", values(3, HEIGHT, WIDTH), **UTM)
    labels = values(HEIGHT, WIDTH)
    files.write_raster(tmp_path / "a.tif", labels, like=like, nodata=255)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs.to_string() == UTM["crs"] and file.transform == UTM["transform"]
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read(1), labels)
    with pytest.raises(ValueError, match="a GeoTIFF .* holds .H, W. or .L, H, W., not the shape"):
        files.write_raster(tmp_path / "b.tif", labels[0])
