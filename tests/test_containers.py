"""Files from others: nothing outside a file is read, and none unpacks to more than it seems."""

import gzip
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import files
from densecrf_rnn.cli import main
from densecrf_rnn.files import formats, record, sizes

h5py = pytest.importorskip("h5py", reason="needs the extra files")
zarr = pytest.importorskip("zarr", reason="needs the extra files")
nibabel = pytest.importorskip("nibabel", reason="needs the extra files")
Image = pytest.importorskip("PIL.Image", reason="needs the extra cli")
tifffile = pytest.importorskip("tifffile", reason="needs the extra cli")

SHAPE = (2, 6, 7)
SECRET = np.full(SHAPE, 42, np.float32)


@pytest.fixture(autouse=True)
def no_hang():
    """A reader that waits for a FIFO fails the test."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture(params=["file", "fifo", "missing"])
def elsewhere(request, tmp_path):
    """A place outside the container: a file with the secret, a FIFO, or nothing."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "secret.h5"
    if request.param == "file":
        with h5py.File(path, "w") as file:
            file["x"] = SECRET
    elif request.param == "fifo":
        os.mkfifo(path)
    return path


def _virtual(file, path, part=slice(None)):
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[part] = h5py.VirtualSource(str(path), "x", SHAPE)[part]
    file.create_virtual_dataset("group/a", layout)


def _virtual_in_part(file, path):
    _virtual(file, path, slice(1, 2))


def _raw(file, path):
    file.create_dataset("group/a", SHAPE, np.float32, external=[(str(path), 0, 336)])


def _external_link(file, path):
    file["group/a"] = h5py.ExternalLink(str(path), "x")


def _external_group(file, path):
    file["group"] = h5py.ExternalLink(str(path), "/")


def _soft_link(file, path):
    file["hidden/b"] = h5py.ExternalLink(str(path), "x")
    file["group/a"] = h5py.SoftLink("/hidden/b")


def _link_at_the_top(file, path):
    file["a"] = h5py.ExternalLink(str(path), "x")


POINTERS = [_virtual, _virtual_in_part, _raw, _external_link, _external_group, _soft_link]


# --- containers that point elsewhere -------------------------------------------------------------


@pytest.mark.parametrize("read", [files.read_array, files.read_logits, files.read_image])
@pytest.mark.parametrize("point", POINTERS)
def test_hdf5_that_points_to_another_file_is_refused(point, read, elsewhere, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        point(file, elsewhere)
    with pytest.raises(ValueError, match="secret.h5") as error:
        read(path, key="group/a")
    assert str(error.value).startswith(f"{path}: ") and "a'" in str(error.value)


def test_a_lone_link_is_refused_without_a_key(elsewhere, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _link_at_the_top(file, elsewhere)
    with pytest.raises(ValueError, match="'a' is a link to 'x' in .*secret.h5"):
        files.read_logits(path)


def test_links_inside_a_file_are_followed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["deep/er/x"] = SECRET
        file["soft"] = h5py.SoftLink("/deep/er")
        file["round"] = h5py.SoftLink("/round")
    assert (files.read_logits(path, key="soft/x") == 42).all()
    with pytest.raises(ValueError, match="leads nowhere"):
        files.read_logits(path, key="round")


@pytest.mark.parametrize("name", ["0.0.0", "c", "zarr.json", ".zattrs"])
@pytest.mark.parametrize("target", ["file", "fifo", "folder", "missing"])
def test_zarr_with_a_link_out_of_the_folder_is_refused(name, target, tmp_path):
    path, outside = tmp_path / "a.zarr", tmp_path / "outside"
    zarr.create_array(str(path), shape=SHAPE, chunks=SHAPE, dtype="f4", zarr_format=2)
    if target == "file":
        outside.write_bytes(SECRET.tobytes())
    elif target == "fifo":
        os.mkfifo(outside)
    elif target == "folder":
        outside.mkdir()
        (outside / "x").write_bytes(b"x")
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(outside)
    for read in (files.read_logits, record.checksum, lambda path: files.read_image(path, axes=2)):
        with pytest.raises(ValueError, match=f"a.zarr: {name} in it is a link to .*outside"):
            read(path)


def test_zarr_with_a_fifo_or_in_a_linked_folder(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=SECRET, zarr_format=2)
    (tmp_path / "link.zarr").symlink_to(path)
    assert (files.read_logits(tmp_path / "link.zarr") == 42).all()
    (path / "0.0.0").unlink(missing_ok=True)
    os.mkfifo(path / "0.0.0")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        files.read_logits(path)


def test_zarr_codecs_that_run_code_are_refused(tmp_path):
    path, proof = tmp_path / "a.zarr", tmp_path / "proof"
    zarr.create_array(
        str(path), shape=(2, 3, 4), chunks=(2, 3, 4), dtype="f4", zarr_format=2, compressors=None
    )

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    for change in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}):
        about = json.loads((path / ".zarray").read_text())
        (path / ".zarray").write_text(json.dumps({**about, **change}))
        (path / "0.0.0").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ValueError, match="a.zarr: "):
            files.read_logits(path)
        assert not proof.exists()


def test_nifti_that_is_the_header_of_a_pair_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 2), np.float32), np.eye(4)), tmp_path / "a.nii")
    for end, opened in ((".nii", open), (".nii.gz", gzip.open)):
        stored = bytearray((tmp_path / "a.nii").read_bytes())
        stored[344:348] = b"ni1\0"
        with opened(tmp_path / f"b{end}", "wb") as file:
            file.write(stored)
        with pytest.raises(ValueError, match=r"b.nii\S*: .*another file"):
            files.read_logits(tmp_path / f"b{end}")


def test_one_of_several_files_of_an_ome_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "b.tif", np.full((6, 7), 42, np.float32))
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image>'
        '<Pixels DimensionOrder="XYZCT" Type="float" SizeX="7" SizeY="6" SizeZ="1" SizeC="2" '
        'SizeT="1"><TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">'
        'urn:uuid:1</UUID></TiffData><TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID '
        'FileName="b.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((6, 7), np.float32), description=xml, metadata=None)
    for read in (files.read_logits, files.read_image, files.read_labels):
        with pytest.raises(ValueError, match=r"the others are b\.tif"):
            read(path)


@pytest.mark.parametrize("end", [".png", ".jpg", ".tif", ".bmp"])
def test_content_of_other_formats_is_refused(end, tmp_path):
    path, other = tmp_path / f"a{end}", tmp_path / "other.tif"
    tifffile.imwrite(other, np.full((6, 7), 42, np.uint8))
    vrt = (
        '<VRTDataset rasterXSize="7" rasterYSize="6"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename>{other}</SourceFilename></SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )
    for content in (vrt.encode(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 6\n",
                    b"8BPS\0\1" + bytes(40)):  # fmt: skip
        path.write_bytes(content)
        for read in (files.read_image, files.read_labels):
            with pytest.raises(ValueError, match=f"a{end}: damaged, or not"):
                read(path)


def test_pictures_of_another_extension_are_read(tmp_path):
    grey = np.arange(42, dtype=np.uint8).reshape(6, 7)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (files.read_image(tmp_path / "a.jpg")[..., 0] == grey).all()


# --- arrays that are no numbers ------------------------------------------------------------------


def test_hdf5_without_numbers_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["text"] = ["a", "b"]
        file["fixed"] = np.array([b"a", b"b"])
        file["records"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
        file["references"] = file["text"].ref
        file.create_dataset("lists", (2,), h5py.vlen_dtype(np.int32))
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("enum", data=[[0, 1]], dtype=h5py.enum_dtype({"A": 0, "B": 1}))
    for key in ("text", "fixed", "records", "references", "lists", "empty"):
        with pytest.raises(ValueError, match=rf"a.h5: its (array|dataset) '/?{key}'") as error:
            files.read_labels(path, key=key)
        assert "pickle" not in str(error.value)
    assert files.read_labels(path, key="enum").tolist() == [[0, 1]]


@pytest.mark.parametrize("end", formats.FORMATS)
def test_files_of_a_few_bytes_are_damaged_in_a_sentence(end, tmp_path):
    path = tmp_path / f"a{end}"
    for content in (*(bytes(range(n)) for n in range(6)), b"\x93NUMP", b"PK\3\4", b"\x93NUMPY\1\0"):
        path.write_bytes(content)
        for read in (files.read_logits, files.read_image, files.read_labels):
            with pytest.raises(ValueError, match=f"a{end}: ") as error:
                read(path)
            assert "pickle" not in str(error.value) and "unsafe" not in str(error.value)


@pytest.mark.parametrize("end", formats.FORMATS)
def test_a_fifo_is_not_waited_for(end, tmp_path):
    os.mkfifo(tmp_path / f"a{end}")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        files.read_image(tmp_path / f"a{end}")


def test_safetensors_are_compared_with_the_image(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    for dtype in (np.float32, np.float16, np.uint8, bool, np.int64):
        array = np.zeros((2, 3000, 3000), dtype)
        save_file({"a": array}, tmp_path / "a.safetensors")
        with sizes.expecting(42):
            if array.nbytes > 2**26:
                with pytest.raises(ValueError, match="a.safetensors: it would unpack to"):
                    files.read_array(tmp_path / "a.safetensors")
            else:
                assert files.read_array(tmp_path / "a.safetensors").dtype == dtype


@pytest.mark.parametrize("content", ["text", "records", "objects", "dates"])
def test_numpy_arrays_without_numbers_are_refused(content, tmp_path):
    array = {
        "text": np.array(["a"]), "records": np.zeros(3, [("a", "f4")]),
        "objects": np.array([{}], object), "dates": np.array(["2020-01-01"], "M8[D]"),
    }[content]  # fmt: skip
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array)
    for end in (".npy", ".npz"):
        with pytest.raises(ValueError, match=f"a{end}: ") as error:
            files.read_array(tmp_path / f"a{end}")
        assert "allow_pickle" not in str(error.value) and "unsafe" not in str(error.value)
        assert ("pickled" if content == "objects" else "not numbers") in str(error.value)


# --- chunks that are not stored ------------------------------------------------------------------


def _sparse(end, folder):
    """Write scores of which one half is not stored; return the path."""
    path = folder / f"a{end}"
    if end == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("a", SHAPE, np.float32, chunks=(1, 6, 7))[0] = 1
    elif end == ".zarr":
        array = zarr.create_array(str(path), shape=SHAPE, chunks=(1, 6, 7), dtype="f4")
        array[0] = np.ones(SHAPE[1:], np.float32)
    else:
        rasterio = pytest.importorskip("rasterio", reason="needs the extra raster")
        with rasterio.open(
            path, "w", driver="GTiff", count=2, height=6, width=7, dtype="float32", SPARSE_OK=True,
            interleave="band", transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
        ) as file:  # fmt: skip
            file.write(np.ones(SHAPE[1:], np.float32), 1)
    return path


@pytest.mark.parametrize("end", [".h5", ".zarr", ".tif"])
def test_missing_chunks_of_scores_are_warned_of_or_refused(end, tmp_path):
    path = _sparse(end, tmp_path)
    with pytest.warns(UserWarning, match=f"a{end}: 1 of 2 chunks are not stored"):
        logits = files.read_logits(path)
    assert (logits[0] == 1).all() and (logits[1] == 0).all()
    with pytest.raises(ValueError, match="1 of 2 chunks"):
        files.read_logits(path, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.read_image(path)  # black parts of an image need no chunks


def test_a_dataset_that_was_never_written_lacks_its_one_chunk(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", SHAPE, np.float32)
    with pytest.warns(UserWarning, match="1 of 1 chunks"):
        files.read_logits(tmp_path / "a.h5")


@pytest.mark.parametrize("end", [".zarr", ".tif"])
@pytest.mark.parametrize("tile", [(), ("--tile", "4")], ids=["whole", "tiled"])
def test_the_record_counts_missing_chunks_and_strict_refuses_them(end, tile, tmp_path, capfd):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    for name in ("logits", "images"):
        (tmp_path / name).mkdir()
    path = _sparse(end, tmp_path / "logits")
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 3), np.uint8)
    np.save(tmp_path / "images" / "a.npy", image)
    command = ["refine", str(path.parent), str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    command += ["--iterations", "1", *tile]
    assert main(command) == 0
    assert capfd.readouterr().err.count("1 of 2 chunks are not stored") == 1
    stored = json.loads((tmp_path / "out" / "refine.json").read_text())
    assert stored["files"]["a"]["missing_chunks"] == {"logits": 1}
    assert main([*command, "--strict"]) == 1
    said = capfd.readouterr().err
    assert "1 of 2 chunks" in said and "leave --strict out" in said


def test_a_result_that_has_lost_a_chunk_is_made_again(tmp_path, capfd):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    zarr = pytest.importorskip("zarr")
    for name, shape in (("logits", (2, 40, 50)), ("images", (40, 50, 3))):
        (tmp_path / name).mkdir()
        stored = zarr.open_array(str(tmp_path / name / "a.zarr"), mode="w", shape=shape, dtype="f4")
        stored[...] = np.random.default_rng(0).normal(size=shape)
    command = ["refine", *(str(tmp_path / name) for name in ("logits", "images"))]
    command += ["-o", str(tmp_path / "out"), "--iterations", "1", "--tile", "16"]
    assert main(command) == 0
    out = tmp_path / "out/a.zarr"
    want = np.asarray(zarr.open_array(str(out), mode="r"))
    capfd.readouterr()
    assert main(command) == 0 and "1 were done before" in capfd.readouterr().out
    largest = max((p for p in out.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.unlink()
    assert main(command) == 0 and "1 refined" in capfd.readouterr().out
    np.testing.assert_array_equal(zarr.open_array(str(out), mode="r"), want)


def test_files_next_to_a_geotiff_are_inputs_as_well(tmp_path, capfd):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    pytest.importorskip("rasterio", reason="needs the extra raster")
    for name in ("logits", "images"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "logits" / "a.tif", np.zeros((2, 6, 7), np.float32))
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.zeros((6, 7, 3), np.uint8))
    command = ["refine", *(str(tmp_path / name) for name in ("logits", "images"))]
    command += ["-o", str(tmp_path / "out"), "--iterations", "1"]
    for origin, said in ((0, "1 refined"), (0, "0 refined"), (5, "1 refined")):
        (tmp_path / "images" / "a.tfw").write_text(f"1\n0\n0\n-1\n{origin}\n{origin}\n")
        assert main(command) == 0
        assert said in capfd.readouterr().out


# --- sizes before unpacking ----------------------------------------------------------------------

HUGE = (8, 10_000, 15_000)  # of float32: 4.8 GB


def _header(shape, dtype="<f4"):
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        made, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return made.getvalue()


def _zeros(count):
    """Return deflated zeros, made of one block that is repeated."""
    made = zlib.compressobj(9)
    block = bytes(2**24)
    parts = [made.compress(block) for _ in range(count // len(block))]
    return b"".join([*parts, made.compress(bytes(count % len(block))), made.flush()])


def bomb(end, folder):
    """Write a small file whose header says that it unpacks to gigabytes; return its path."""
    path = folder / f"a{end}"
    if end == ".npy":
        with open(path, "wb") as file:
            file.write(_header(HUGE))
            file.truncate(128 + 4 * int(np.prod(HUGE)))  # sparse: takes no room
    elif end == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("a.npy", "w", force_zip64=True) as file:
                file.write(_header(HUGE))
                for _ in range(20):
                    file.write(bytes(2**24))
        raw = path.read_bytes()  # the directory promises as much as the header
        at = raw.rfind(b"PK\1\2")
        promised = struct.pack("<I", 2**32 - 2)
        path.write_bytes(raw[: at + 24] + promised + raw[at + 28 :])
    elif end == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("a", HUGE, np.float32, chunks=(1, 100, 100))[0, 0, 0] = 1
    elif end == "chunk.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "a", SHAPE, np.float32, chunks=(2, 20_000, 25_000), maxshape=(None,) * 3
            )
    elif end == ".zarr":
        zarr.create_array(str(path), shape=HUGE, chunks=(1, 100, 100), dtype="f4")[0, 0, 0] = 1
    elif end == "chunk.zarr":
        zarr.create_array(str(path), shape=SHAPE, chunks=(2, 20_000, 25_000), dtype="f4")
    elif end in (".nii", ".nii.gz"):
        small = nibabel.Nifti1Image(np.zeros((2, 3, 4, 2), np.float32), np.eye(4)).to_bytes()
        sizes_at = struct.pack("<8h", 4, 15_000, 10_000, 8, 1, 1, 1, 1)
        stored = small[:40] + sizes_at + small[56:] + bytes(10**6)
        path.write_bytes(gzip.compress(stored) if end == ".nii.gz" else stored)
    elif end == "notes.nii.gz":
        small = nibabel.Nifti1Image(np.zeros((2, 3, 4, 2), np.float32), np.eye(4)).to_bytes()
        stored = small[:108] + struct.pack("<f", 2e9) + small[112:348] + b"\1\0\0\0"
        stored += struct.pack("<ii", 2**31 - 64, 6) + bytes(10**6)
        path.write_bytes(gzip.compress(stored))
    elif end == ".tif":
        data = zlib.compress(bytes(100))
        tifffile.imwrite(path, iter([data]), shape=(40_000, 30_000), dtype=np.float32,
                         compression="zlib", rowsperstrip=40_000, bigtiff=True)  # fmt: skip
    elif end == "tile.tif":
        tifffile.imwrite(path, iter([zlib.compress(bytes(100))]), shape=(6, 7), dtype=np.float32,
                         compression="zlib", tile=(32_000, 40_000), bigtiff=True)  # fmt: skip
    elif end == "strip.tif":  # the strip holds more than the pixels that the header names
        tifffile.imwrite(path, iter([_zeros(10**9)]), shape=(6, 7), dtype=np.float32,
                         compression="zlib", rowsperstrip=6)  # fmt: skip
    elif end == ".png":
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(
                ">I", zlib.crc32(kind + data)
            )

        size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", _zeros(10**8))
            + chunk(b"IEND", b"")
        )
    elif end == ".webp":  # found by the fuzzer
        path.write_bytes(
            b"RIFF*\0\0\0WEBPVP8 \x1e\0\0\0\x90\1\0\x9d\1*P8 \x1e\0\0\0\x90\1\0\x9d\1*\4\0\0\xfe"
            b"\xff\x0b|\xc0\0\0\0"
        )
    elif end == ".pt":
        torch = pytest.importorskip("torch", reason="needs the extra torch")
        torch.save(torch.zeros(1).expand(*HUGE), path)
    else:
        raise AssertionError(end)
    return path


BOMBS = [".npy", ".npz", ".h5", "chunk.h5", ".zarr", "chunk.zarr", ".nii", ".nii.gz",
         "notes.nii.gz", ".tif", "tile.tif", "strip.tif", ".png", ".webp", ".pt"]  # fmt: skip
READ = """
import resource, sys, time, warnings
from densecrf_rnn import files
from densecrf_rnn.files import formats, sizes
import numpy, h5py, zarr, nibabel, tifffile, PIL.Image
if sys.argv[1].endswith(".pt"): import densecrf_rnn.nn.saved
warnings.simplefilter("ignore")
from pathlib import Path
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
for read in (files.read_logits, files.read_image, files.read_labels):
    try:
        with sizes.expecting(int(sys.argv[2]) or None):
            read(Path(sys.argv[1]))
    except ValueError as error:
        print(error)
    else:
        print("READ")
print(peak() - before, time.perf_counter() - start)
"""


@pytest.mark.parametrize("end", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_at_once(end, tmp_path):
    path = bomb(end, tmp_path)
    known = "42" if end in (".npy", "strip.tif") else "0"  # as large on disk as it says
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), known], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    *said, measured = done.stdout.strip().splitlines()
    grown, seconds = map(float, measured.split())
    assert "READ" not in said, done.stdout
    assert all(str(path) in line for line in said)
    assert grown < 200 and seconds < 2, measured


def test_what_an_image_implies_is_allowed_and_more_than_fourfold_is_not(tmp_path):
    path, pixels = Path(tmp_path, "a.npy"), 1000 * 1000
    for shape, dtype in (
        ((1000, 1000, 1000), "f8"),  # logits of 1000 labels
        ((21, 1000, 1000), "f8"), ((1, 21, 1000, 1000), "f4"), ((1000, 1000), "i8"),
        ((1, 100, 100, 100), "f4"), ((21, 125, 125), "f8"),
    ):  # fmt: skip
        with sizes.expecting(pixels):
            sizes.check(path, shape, dtype, stored=10**9)
    with sizes.expecting(10**8):  # a label map of one value
        sizes.check(path, (10_000, 10_000), "i8", stored=10**4)
    for shape, dtype in (
        ((21, 3000, 3000), "f8"), ((100_000, 100_000), "u1"), ((1, 100_000, 100_000), "f4"),
        ((10_000, 10_000), "i8"),
    ):  # fmt: skip
        with sizes.expecting(pixels), pytest.raises(ValueError, match="files.allowing") as error:
            sizes.check(path, shape, dtype, stored=10**12)
        most = int(str(error.value).split("allowing(")[1].split(")")[0])
        with sizes.expecting(pixels), files.allowing(most):  # following the advice works
            sizes.check(path, shape, dtype, stored=10**12)


def test_max_bytes_is_the_way_out_on_the_command_line(tmp_path, capfd, monkeypatch):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    monkeypatch.setattr(sizes, "_FREE", 1000)
    for name in ("logits", "images", "truth"):
        (tmp_path / name).mkdir()
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 3), np.uint8)
    np.save(tmp_path / "images" / "a.npy", image)
    np.save(tmp_path / "truth" / "a.npy", np.arange(42).reshape(6, 7) % 2)
    np.save(tmp_path / "logits" / "a.npy", np.zeros((2, 60, 70), np.float32))
    logits, images, truth = (str(tmp_path / name) for name in ("logits", "images", "truth"))
    out = str(tmp_path / "out")
    for command in (["refine", logits, images, "-o", out], ["evaluate", logits, truth]):
        assert main(command) > 0
        said = capfd.readouterr().err
        assert "a.npy: it would unpack to 33.6 kB" in said
        assert "add --max-bytes 33600" in said and "allowing" not in said
        assert main([*command, "--max-bytes", "33600"]) > 0  # now the sizes are compared
        assert "unpack" not in capfd.readouterr().err


# --- the same with and without tiles, and for any name -------------------------------------------


def _refine(folder, logits, image, *options, stem="a"):
    """Refine arrays by the command; return its status and what it wrote, by file name."""
    for name, array in (("logits", logits), ("images", image)):
        (folder / name).mkdir(exist_ok=True)
        np.save(folder / name / f"{stem}.npy", array)
    out = folder / f"out{len(options)}"
    places = [str(folder / name) for name in ("logits", "images")]
    status = main(["refine", *places, "-o", str(out), "--iterations", "2", *options])
    return status, {path.name: path for path in out.iterdir() if path.suffix != ".json"}


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", ">f8", np.longdouble])
@pytest.mark.parametrize("lead", [(), (1,)], ids=["", "batch"])
def test_arrays_of_any_float_are_refined_the_same_in_tiles(dtype, lead, tmp_path):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*lead, 3, 12, 14)).astype(dtype)
    image = rng.integers(0, 255, (12, 14, 3)).astype(">u2")
    whole = ["--write", "marginals", "--dtype", "float32"]
    status, found = _refine(tmp_path, logits, image, *whole)
    tiled_status, tiled = _refine(
        tmp_path, logits, image, "--write", "marginals", "--tile", "6", "--halo", "exact"
    )
    assert status == tiled_status == 0
    q = np.load(found["a.npz"])["marginals"]
    np.testing.assert_allclose(np.load(tiled["a.npy"]), q, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 6, 7), (3, 1, 6, 7)])
@pytest.mark.parametrize("end", [".npy", ".zarr"])
def test_axes_of_length_one_are_left_out_by_tiles_as_well(shape, end, tmp_path):
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path / f"logits{end}"
    np.save(path, logits) if end == ".npy" else zarr.create_array(str(path), data=logits)
    np.save(tmp_path / "image.npy", np.zeros((6, 7, 3), np.uint8))
    files.refine_raster(path, tmp_path / "image.npy", tmp_path / "out.npy", tile=4)
    assert np.load(tmp_path / "out.npy").shape == (6, 7)
    np.save(tmp_path / "volume.npy", np.zeros((*shape[1:], 1), np.uint8))
    np.save(tmp_path / "logits.npy", logits)
    files.refine_raster(tmp_path / "logits.npy", tmp_path / "volume.npy", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == shape[1:]


@pytest.mark.parametrize(
    "stem", ["x" * 240, "é" * 120, os.fsdecode(b"a\xff\xfe")], ids=["long", "wide", "bytes"]
)
@pytest.mark.parametrize("options", [["--write", "both"], ["--tile", "4"]], ids=["whole", "tiled"])
def test_any_name_of_a_file_is_refined_and_known_again(stem, options, tmp_path, capfd):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    logits = np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)
    image = np.zeros((6, 7, 3), np.uint8)
    for again in ("1 refined", "1 were done before"):
        status, found = _refine(tmp_path, logits, image, *options, stem=stem)
        assert status == 0 and again in capfd.readouterr().out
        assert all(name.startswith(stem) for name in found) and found
    assert main(["refine", *(str(tmp_path / name) for name in ("logits", "images")), "-o",
                 str(tmp_path / "out"), "--dry-run"]) == 0  # fmt: skip
    capfd.readouterr()  # pytest cannot show such names


def test_a_reader_that_needs_names_in_utf_8_says_so(tmp_path):
    pytest.importorskip("rasterio", reason="needs the extra raster")
    path = tmp_path / os.fsdecode(b"a\xff.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 6, 7), np.float32))
    (tmp_path / "a.tif").rename(path)
    np.save(tmp_path / "image.npy", np.zeros((6, 7, 3), np.uint8))
    with pytest.raises(ValueError, match="UTF-8, which this is not; rename it"):
        files.refine_raster(path, tmp_path / "image.npy", tmp_path / "out.npy")
