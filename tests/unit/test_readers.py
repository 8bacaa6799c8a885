"""Raw files: every kind read equals what its library reads; every fault has one clear message."""

import json
import pickle
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from gigaseg.geometry import Window, blocks
from gigaseg.readers import natural_order, open_source
from gigaseg.segments import Segmented
from gigaseg.sources import Source, micrometres
from PIL import Image


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planes(rng, dtype="u2", shape=(3, 70, 90)):
    return rng.integers(0, 100, shape).astype(dtype)


def write_tiff(path, data, **options):
    tifffile.imwrite(path, data, **({"photometric": "minisblack"} | options))


def read_all(path, **options):
    with open_source(path, **options) as source:
        data = source[..., :, :, :]
        assert data.shape == source.shape
        assert data.dtype == source.dtype
        return data


# -------------------------------------------------------------------------------------------- TIFF

LAYOUTS = [
    pytest.param({}, id="contiguous"),
    pytest.param({"byteorder": ">"}, id="big endian"),
    pytest.param({"bigtiff": True, "compression": "zlib"}, id="BigTIFF"),
    pytest.param({"compression": "lzw", "predictor": True}, id="LZW with predictor"),
    pytest.param({"rowsperstrip": 7, "compression": "zlib"}, id="strips"),
    pytest.param({"tile": (16, 32), "compression": "zstd"}, id="tiles"),
    pytest.param({"tile": (16, 32), "metadata": None}, id="tiles, no description"),
    pytest.param({"imagej": True, "metadata": {"axes": "ZYX"}}, id="ImageJ"),
    pytest.param({"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"}, id="OME"),
]


@pytest.mark.parametrize("options", LAYOUTS)
def test_tiff_stacks(tmp_path, rng, options):
    data = planes(rng)
    write_tiff(tmp_path / "a.tif", data, **options)
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), data[np.newaxis])
    with open_source(tmp_path / "a.tif") as source:
        window = Window((1, 5, 30), (3, 40, 77))
        np.testing.assert_array_equal(source.read(window)[0], data[window.slices])


FORMS = [
    ((2, 3, 40, 50), {"ome": True, "metadata": {"axes": "CZYX"}, "compression": "zlib"}),
    ((3, 40, 50), {"volumetric": True, "tile": (2, 16, 16), "compression": "zlib"}),
    ((3, 40, 50, 3), {"photometric": "rgb", "tile": (16, 16), "compression": "lzw"}),
    ((3, 40, 50), {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 9}),
    ((2, 3, 40, 50), {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 32)}),
    ((40, 50, 1), {"tile": (16, 16), "compression": "zlib"}),
    ((1, 40, 50), {"rowsperstrip": 7, "metadata": None}),
    ((40, 50), {"bitspersample": 12, "rowsperstrip": 7}),
    ((40, 50, 3), {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16), "as": "u1"}),
    ((2, 3, 40, 50), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
    ((4, 40, 50), {"byteorder": ">"}),
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("shape", "options"), FORMS)
def test_any_window_of_any_form_is_what_tifffile_reads(tmp_path, rng, shape, options, workers):
    path, options = tmp_path / "a.tif", {**options}
    write_tiff(path, planes(rng, options.pop("as", "u2"), shape), **options)
    with open_source(path, workers=workers) as source:
        whole = source[..., :, :, :]
        pixels = np.sort(tifffile.imread(path), axis=None)
        np.testing.assert_array_equal(np.sort(whole, axis=None), pixels)
        for _ in range(20):
            corners = np.sort([rng.integers(0, n + 1, 2) for n in source.shape[1:]])
            window = Window(tuple(corners[:, 0].tolist()), tuple(corners[:, 1].tolist()))
            expected = whole[(slice(None), *window.slices)]
            if expected.size:
                np.testing.assert_array_equal(source.read(window), expected)


def test_missing_tiles_hold_the_files_value_for_none(tmp_path):
    path = tmp_path / "a.tif"
    tiles = [np.full((16, 16), 7, "u2"), None, None, np.full((16, 16), 9, "u2")]
    options = {"shape": (32, 32), "dtype": "u2", "tile": (16, 16), "compression": "zlib"}
    write_tiff(path, iter(tiles), **options)
    assert np.unique(read_all(path)).tolist() == [0, 7, 9]


def test_a_source_travels(tmp_path, rng):
    data = planes(rng, shape=(3, 2, 30, 40))
    write_tiff(tmp_path / "a.tif", data, ome=True, metadata={"axes": "CZYX"}, compression="zlib")
    with open_source(tmp_path / "a.tif", workers=2) as source:
        for here, expected in ((source, data), (source.select([2, 0]), data[[2, 0]])):
            with pickle.loads(pickle.dumps(here)) as there:
                np.testing.assert_array_equal(there[..., :, :, :], expected)
    lonely = Source(tmp_path, (1, 1, 2, 2), np.dtype("u1"), None, (1, 2, 2), None)
    with pytest.raises(TypeError, match="does not know how to open itself again"):
        pickle.dumps(lonely)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "u8"])
def test_tiff_types(tmp_path, rng, dtype):
    data = rng.integers(0, 2, (40, 50)).astype(dtype)
    write_tiff(tmp_path / "a.tif", data, compression="zlib")
    read = read_all(tmp_path / "a.tif")
    assert read.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype))
    np.testing.assert_array_equal(read[0, 0], data)


def test_half_precision_becomes_single(tmp_path):
    write_tiff(tmp_path / "a.tif", np.full((4, 4), 0.5, "f2"))
    assert read_all(tmp_path / "a.tif").dtype == np.float32


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [(), ("unassalpha",)])
def test_samples_become_channels_and_alpha_is_dropped(tmp_path, rng, planar, alpha):
    data = planes(rng, "u1", (40, 50, 3 + len(alpha)))
    stored = data if planar == "contig" else np.moveaxis(data, 2, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        photometric="rgb",
        planarconfig=planar,
        extrasamples=alpha,
        tile=(16, 16),
    )
    expected = np.moveaxis(data[..., :3], 2, 0)[:, np.newaxis]
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), expected)


def test_ome_axes_and_spacing(tmp_path, rng):
    data = planes(rng, shape=(4, 2, 30, 40))  # z c y x, as some microscopes write
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    metadata = {"axes": "ZCYX", "PhysicalSizeZ": 0.002, "PhysicalSizeZUnit": "mm"} | sizes
    write_tiff(tmp_path / "a.ome.tif", data, ome=True, metadata=metadata)
    np.testing.assert_array_equal(read_all(tmp_path / "a.ome.tif"), np.moveaxis(data, 1, 0))
    with open_source(tmp_path / "a.ome.tif") as source:
        assert source.spacing == pytest.approx((2.0, 0.5, 0.25))


def test_imagej_spacing(tmp_path, rng):
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "\\u00B5m"}
    write_tiff(tmp_path / "a.tif", planes(rng), imagej=True, resolution=(4, 2), metadata=metadata)
    with open_source(tmp_path / "a.tif") as source:
        assert source.spacing == pytest.approx((3.0, 0.5, 0.25))


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"resolution": (20000, 10000), "resolutionunit": "CENTIMETER"}, (1, 1, 0.5)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),  # a printer's habit
        ({}, None),
        ({"description": "Aperio x|AppMag = 20|MPP = 0.499", "metadata": None}, (1, 0.499, 0.499)),
    ],
)
def test_other_spacings(tmp_path, rng, options, spacing):
    write_tiff(tmp_path / "a.tif", planes(rng, shape=(40, 50)), **options)
    with open_source(tmp_path / "a.tif") as source:
        assert source.spacing == (spacing and pytest.approx(spacing))


@pytest.mark.parametrize(
    ("unit", "size"), [("µm", 1), ("\u03bcm", 1), ("micron", 1), ("Å", 1e-4), ("pixel", None)]
)
def test_units(unit, size):
    assert micrometres(unit) == size


def test_only_the_touched_segments_are_decoded(tmp_path, rng):
    path = tmp_path / "a.tif"
    data = planes(rng, shape=(64, 64))
    write_tiff(path, data, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[-1]  # the last tile, at the lower right
    content = bytearray(path.read_bytes())
    content[offset : offset + 12] = bytes(12)
    path.write_bytes(content)
    with open_source(path) as source:
        window = Window((0, 0, 0), (1, 48, 64))
        np.testing.assert_array_equal(source.read(window)[0, 0], data[:48])
        with pytest.raises(ValueError, match=r"a\.tif cannot be decoded .*damaged"):
            source.read(Window((0, 40, 40), (1, 64, 64)))


@pytest.mark.parametrize(
    ("options", "unit", "block"),
    [
        ({"tile": (16, 16), "compression": "zlib"}, (1, 32, 32), (1, 32, 32)),
        ({"rowsperstrip": 8, "compression": "zlib"}, (1, 32, 32), (1, 32, 96)),  # whole strips
        ({"rowsperstrip": 70, "compression": "zlib"}, (1, 32, 32), (1, 96, 96)),  # one strip
        ({}, (1, 32, 32), (1, 32, 32)),  # uncompressed: any window
    ],
)
def test_blocks_hold_whole_segments(tmp_path, rng, options, unit, block):
    write_tiff(tmp_path / "a.tif", planes(rng), **options)
    with open_source(tmp_path / "a.tif") as source:
        assert source.block(unit) == block


@pytest.mark.parametrize(
    ("segment", "block"),
    [
        ((1, 8, 60), (1, 32, 64)),
        ((1, 8, 96), (1, 32, 64)),  # not more units side by side than fit
        ((4, 32, 16), (2, 32, 32)),  # nor more planes
        ((1, 96, 96), (1, 32, 32)),  # a segment that does not fit is kept by its reader
    ],
)
def test_blocks_fit_into_memory(monkeypatch, segment, block):
    monkeypatch.setattr("gigaseg.sources.BLOCK_BYTES", 2 * 32 * 32 * 2)
    source = Source(Path("a"), (1, 9, 500, 700), np.dtype("u2"), None, segment, None)
    assert source.block((1, 32, 32)) == block
    assert source.block((1, 32, 32), voxel=4)[-1] == 32


@pytest.mark.parametrize("kind", ["strip", "series"])
def test_large_segments_are_decoded_once(tmp_path, rng, monkeypatch, kind):
    monkeypatch.setattr("gigaseg.segments.LARGE", 100)
    monkeypatch.setattr("gigaseg.readers.BLOCK_BYTES", 100)
    data = planes(rng, "u2", (2, 64, 64))
    if kind == "strip":
        write_tiff(tmp_path / "a.tif", data, compression="zlib", rowsperstrip=64)
    else:
        for z in range(2):
            write_tiff(tmp_path / f"{z}.tif", data[z], compression="zlib", rowsperstrip=64)
    decode, calls = Segmented._decode_anew, []

    def counted(*arguments):
        calls.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr(Segmented, "_decode_anew", counted)
    with open_source(tmp_path / "a.tif" if kind == "strip" else tmp_path) as source:
        for window in blocks(source.shape[1:], (1, 16, 32)):
            np.testing.assert_array_equal(source.read(window)[0], data[window.slices])
    assert len(calls) == 2


def test_channels_can_be_selected(tmp_path, rng):
    data = planes(rng, shape=(3, 2, 30, 40))
    metadata = {"axes": "CZYX"}
    write_tiff(tmp_path / "a.tif", data, ome=True, metadata=metadata, compression="zlib")
    with open_source(tmp_path / "a.tif") as source:
        some = source.select([2, 0])
        assert some.shape == (2, 2, 30, 40)
        np.testing.assert_array_equal(some[..., :, 3:20, :], data[[2, 0], :, 3:20])
        with pytest.raises(ValueError, match=r"3 channels, numbered 0 to 2: channels \[3\]"):
            source.select([3])


# ------------------------------------------------------------------------------------ PNG and JPEG


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize(("samples", "kept"), [((), 1), ((2,), 1), ((3,), 3), ((4,), 3)])
def test_png(tmp_path, rng, dtype, samples, kept):
    data = rng.integers(0, 256, (30, 40, *samples)).astype(dtype) * (1 if dtype == "u1" else 257)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(data))
    expected = np.moveaxis(data.reshape(30, 40, -1)[..., :kept], 2, 0)[:, np.newaxis]
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), expected)


def test_palette_is_expanded_or_kept_as_ids(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 2]], "u1")).convert("P")
    image.putpalette([9, 8, 7, 30, 20, 10, 60, 50, 40] + [0] * (253 * 3))
    image.save(tmp_path / "a.png")
    assert read_all(tmp_path / "a.png")[:, 0, 1, 1].tolist() == [60, 50, 40]
    assert read_all(tmp_path / "a.png", indexed=True)[0, 0].tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("samples", [(), (3,)])
def test_jpeg(tmp_path, samples):
    data = np.full((30, 40, *samples), 77, "u1")
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(data, level=95))
    read = read_all(tmp_path / "a.jpg")
    assert read.shape == (len(samples) * 2 + 1, 1, 30, 40)
    np.testing.assert_allclose(read, 77, atol=2)


# ------------------------------------------------------------------------------------------ series


@pytest.fixture
def series(tmp_path, rng):
    data = planes(rng, "u1", (12, 20, 30))
    folder = tmp_path / "stack"
    folder.mkdir()
    for z, plane in enumerate(data):
        (folder / f"{z}.png").write_bytes(imagecodecs.png_encode(plane))
    return folder, data


@pytest.mark.parametrize("pattern", ["", "*.png"])
def test_series_is_read_in_natural_order(series, pattern):
    folder, data = series
    np.testing.assert_array_equal(read_all(folder / pattern)[0], data)


def test_series_of_tiff_files(tmp_path, rng):
    data = planes(rng)
    for z, plane in enumerate(data):
        write_tiff(tmp_path / f"z{z}.tif", plane)
    np.testing.assert_array_equal(read_all(tmp_path)[0], data)


def test_natural_order_of_leading_zeros_and_mixed_names():
    names = ["b1", "a10", "a2", "a02", "1", "a"]
    ordered = [p.name for p in sorted(map(Path, names), key=natural_order)]
    assert ordered == ["1", "a", "a02", "a2", "a10", "b1"]


def test_uneven_series_names_the_plane(series):
    folder, _ = series
    (folder / "7.png").write_bytes(imagecodecs.png_encode(np.zeros((20, 31), "u1")))
    with (
        pytest.raises(ValueError, match=r"7\.png is uint8 \(20, 31\).*0\.png is uint8 \(20, 30\)"),
        open_source(folder) as source,
    ):
        source[..., :, :, :]


def test_series_of_several_kinds_is_refused(series):
    folder, _ = series
    (folder / "12.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds \.jpg, \.png, not files of one"):
        open_source(folder)


def test_series_of_stacks_is_refused(tmp_path, rng):
    write_tiff(tmp_path / "0.tif", planes(rng))
    with pytest.raises(ValueError, match=r"0\.tif holds 3 planes: a series has one plane per file"):
        open_source(tmp_path)


# -------------------------------------------------------------------------------------------- Zarr


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_array(tmp_path, rng, version):
    data = planes(rng, shape=(2, 3, 30, 40))
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=data.shape, chunks=(1, 2, 16, 16), dtype="u2",
        zarr_format=version,
    )  # fmt: skip
    array[:] = data
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), data)
    with open_source(tmp_path / "a.zarr") as source:
        assert source.segment == (2, 16, 16)
        assert source.spacing is None


def write_ome(folder, data, axes, scale, *, version, factor=1.0, unit="nanometer"):
    group = zarr.create_group(folder, zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=data, chunks=(1,) * (data.ndim - 2) + (16, 16))
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    named = [{"name": a, **(space if a in "zyx" else {})} for a in axes]
    transform = [{"type": "scale", "scale": list(scale)}]
    whole = [{"type": "scale", "scale": [factor] * data.ndim}]
    scales = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": transform}]}
    content = {"multiscales": [scales | {"coordinateTransformations": whole}]}
    group.attrs.update(content if version == "0.4" else {"ome": content | {"version": version}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path, rng, version):
    data = planes(rng, shape=(1, 2, 3, 30, 40))
    write_ome(tmp_path / "a.zarr", data, "tczyx", (1, 1, 2000, 500, 250), version=version, factor=2)
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), data[0])
    with open_source(tmp_path / "a.zarr") as source:
        assert source.spacing == pytest.approx((4, 1, 0.5))


def test_ome_zarr_without_z_or_units(tmp_path, rng):
    data = planes(rng, shape=(30, 40))
    write_ome(tmp_path / "a.zarr", data, "yx", (0.5, 0.25), version="0.4", unit=None)
    with open_source(tmp_path / "a.zarr") as source:
        assert (source.shape, source.spacing) == ((1, 1, 30, 40), (1, 0.5, 0.25))


def test_zarr_scenes(tmp_path, rng):
    root = tmp_path / "a.zarr"
    zarr.create_group(root, attributes={"ome": {"bioformats2raw.layout": 3}})
    write_ome(root / "0", planes(rng), "zyx", (1, 1, 1), version="0.5")
    assert read_all(root).shape == (1, 3, 70, 90)
    write_ome(root / "1", planes(rng), "zyx", (1, 1, 1), version="0.5")
    with pytest.raises(ValueError, match=r"2 scenes: give the path of one, such as a\.zarr/0"):
        open_source(root)


def test_zarr_group_without_metadata_lists_its_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("raw", shape=(4, 4), dtype="u1")
    with pytest.raises(ValueError, match=r"without OME-Zarr metadata \(it holds: raw\)"):
        open_source(tmp_path / "a.zarr")
    assert read_all(tmp_path / "a.zarr/raw").shape == (1, 1, 4, 4)


def test_zarr_of_unknown_axes_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(1, 2, 3, 4, 5), dtype="u1")
    with pytest.raises(ValueError, match="5 axes without names"):
        open_source(tmp_path / "a.zarr")


# ------------------------------------------------------------------------------------------ faults


def test_missing_file(tmp_path):
    for name in ("a.tif", "*.png"):
        with pytest.raises(FileNotFoundError, match="no such file, folder or series"):
            open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\): copy it again"),
        (b"PK\x03\x04" + b"x" * 50, r"cannot be read \(\.docx\).*Fiji and bfconvert"),
        (b"\x89PNG" + b"x" * 50, "cannot be decoded.*damaged"),
        (b"\xff\xd8\xff" + b"x" * 50, "cannot be decoded.*damaged"),
        (b"II*\0" + b"x" * 50, "truncated or damaged: it holds no page"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, message):
    (tmp_path / "a.docx").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.docx")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "options",
    [
        {"metadata": None},
        {"compression": "zlib", "tile": (16, 16), "metadata": None},
        {"imagej": True},
        {"ome": True, "metadata": {"axes": "ZYX"}},
    ],
)
def test_truncated_tiff(tmp_path, rng, share, options):
    path = tmp_path / "a.tif"
    write_tiff(path, planes(rng), **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.tif is truncated|a\.tif cannot be decoded"):
        open_source(path)


def test_damaged_tiff_tags_raise_nothing_but_valueerror(tmp_path, rng):
    path = tmp_path / "a.tif"
    write_tiff(path, planes(rng, shape=(2, 20, 30)), tile=(16, 16), compression="zlib")
    content = path.read_bytes()
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(4, 400, 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            with open_source(path) as source:
                source.read(Window((0, 0, 0), tuple(min(n, 16) for n in source.shape[1:])))
        except ValueError:
            refused += 1
    assert refused > 10


def test_tiles_beyond_memory_are_refused(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("gigaseg.tiffs.LARGEST_SEGMENT", 2**12)
    write_tiff(tmp_path / "a.tif", planes(rng), compression="zlib", rowsperstrip=70)
    with pytest.raises(ValueError, match=r"pieces of \(1, 70, 90\) voxels.*save it in tiles"):
        open_source(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_a_file_that_shrinks_or_goes_while_it_is_read(tmp_path, rng, options):
    path = tmp_path / "a.tif"
    write_tiff(path, planes(rng), **options)
    with open_source(path) as source:
        path.write_bytes(path.read_bytes()[:-9000])
        with pytest.raises(ValueError, match=r"^\S+a\.tif ends at byte \d+, but was longer"):
            source[..., :, :, :]
        path.unlink()
        with pytest.raises(FileNotFoundError):
            source[..., :, :, :]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"tile": (16, 16), "compression": "zlib"}, "tile 14 of 30 of page 1"),
        ({"rowsperstrip": 3, "compression": "lzw"}, "strip 14 of 24 of page 1"),
    ],
)
def test_a_damaged_segment_is_named(tmp_path, rng, options, place):
    path = tmp_path / "a.tif"
    write_tiff(path, planes(rng), **options)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[1].dataoffsets[14]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with open_source(path) as source, pytest.raises(ValueError, match=rf"a\.tif cannot.*{place}"):
        source[..., :, :, :]


def test_truncated_png(tmp_path, rng):
    content = imagecodecs.png_encode(planes(rng, "u1", (50, 60)))
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be decoded"):
        open_source(tmp_path / "a.png")


def test_time_points_are_refused(tmp_path, rng):
    write_tiff(tmp_path / "a.tif", planes(rng), ome=True, metadata={"axes": "TYX"})
    with pytest.raises(ValueError, match=r"holds 3 time points .*export each one"):
        open_source(tmp_path / "a.tif")


def test_scenes_are_refused(tmp_path, rng):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for width in (20, 30):
            tiff.write(planes(rng, "u1", (20, width)), photometric="minisblack")
    with pytest.raises(ValueError, match=r"holds 2 images or scenes of shapes \(20, 20\)"):
        open_source(tmp_path / "a.tif")


def test_complex_values_are_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", np.zeros((4, 4), "c8"))
    with pytest.raises(ValueError, match="type complex64: readable are"):
        open_source(tmp_path / "a.tif")


def test_doubled_axes_are_refused(tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(2, 3, 4), dtype="u1", zarr_format=2)
    array.attrs["_ARRAY_DIMENSIONS"] = list("zzy")
    assert json.loads((tmp_path / "a/.zattrs").read_text())
    with pytest.raises(ValueError, match="exactly one y and x"):
        open_source(tmp_path / "a")
