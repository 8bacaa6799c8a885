"""convert: values, truth by every convention, statistics, and one clear message per bad sample."""

import json
import shutil

import imagecodecs
import numpy as np
import pytest
import tifffile
from gigaseg import blockwise
from gigaseg.labels import components
from gigaseg.stages import convert
from gigaseg.volumes import open_volume
from scipy import ndimage

STORAGE = {"chunk": 16, "shard": 32, "smallest_level": 32}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


class Lab:
    """A folder of raw files, and the stage applied to it."""

    def __init__(self, folder):
        self.folder = folder
        self.manifest = folder / "results" / "convert" / "set-0000.json"

    def write(self, name, data, **options):
        path = self.folder / name
        tifffile.imwrite(path, data, **({"photometric": "minisblack"} | options))
        return str(path)

    def convert(self, *rows, threads=2, code="1", **settings):
        convert.run(
            manifest=self.manifest,
            settings={"lot": "set-0000", "samples": rows, "storage": STORAGE | settings},
            code=code,
            threads=threads,
        )
        return json.loads(self.manifest.read_text())["samples"]

    def store(self, name="a"):
        return self.manifest.parent / "set" / f"{name}.ome.zarr"


def row(image, label=None, **changes):
    standard = {"sample": "a", "dataset": "set", "split": "train", "spacing": None}
    standard |= {"labels": "instances", "objects": "plane", "planes": None, "channels": "all"}
    standard |= {"ignore_label": None}
    return {**standard, "image": image, "label": label, **changes}


def test_image_truth_facts_and_attributes(lab, rng):
    data = rng.integers(0, 900, (3, 70, 50)).astype("u2")
    ids = rng.integers(0, 3, (3, 70, 50)).astype("u2") * np.array([300, 1, 7], "u2")[:, None, None]
    image = lab.write("a.tif", data, tile=(16, 16), compression="zlib")
    (entry,) = lab.convert(row(image, lab.write("l.tif", ids), spacing=[2, 0.5, 0.5]))
    expected = {"status": "done", "store": "set/a.ome.zarr", "shape": [1, 3, 70, 50]}
    expected |= {"dtype": "uint16", "spacing": [2, 0.5, 0.5], "has_truth": True, "instances": 6}
    assert {key: entry[key] for key in expected} == expected
    volume, truth = open_volume(lab.store()), open_volume(lab.store(), "truth")
    np.testing.assert_array_equal(volume.array[0], data)
    np.testing.assert_array_equal(truth.array[:], ids)
    assert truth.array.dtype == np.uint32
    assert volume.spacing == truth.spacing == (2, 0.5, 0.5)
    assert volume.attributes["fingerprint"] == entry["fingerprint"]
    assert set(volume.attributes["inputs"]) == {"image", "label"}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sample_may_be_some_planes_of_its_files(lab, rng, threads):
    data, ids = (rng.integers(1, 9, (7, 30, 40)).astype("u2") for _ in range(2))
    image = lab.write("a.tif", data, compression="zlib", rowsperstrip=8)
    label = lab.write("l.tif", ids)
    (entry,) = lab.convert(row(image, label, planes=[2, 5]), threads=threads)
    assert entry["shape"] == [1, 3, 30, 40]
    np.testing.assert_array_equal(open_volume(lab.store()).array[0], data[2:5])
    truth = open_volume(lab.store(), "truth").array[:]
    for z in range(3):  # the objects of planes have ids of their own
        pairs = set(zip(ids[2 + z].ravel(), truth[z].ravel(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    first = entry["fingerprint"]
    assert lab.convert(row(image, label, planes=[3, 6]))[0]["fingerprint"] != first
    (entry,) = lab.convert(row(image, label, planes=[5, 8]))
    assert entry["status"] == "failed"
    assert "has 7 planes, numbered 0 to 6: planes 5-7 are not among them" in entry["message"]


def test_file_spacing_is_used_where_the_sheet_has_none(lab, rng):
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    image = lab.write("a.tif", rng.integers(0, 9, (40, 40)).astype("u1"), **resolution)
    assert lab.convert(row(image))[0]["spacing"] == [1, 0.5, 0.5]


def test_a_spacing_that_nobody_says_is_told_from_one_of_1_um(lab, rng):
    data = rng.integers(0, 9, (40, 40)).astype("u1")
    silent, unit = lab.write("a.tif", data), {"resolutionunit": "CENTIMETER"}
    says = lab.write("b.tif", data, resolution=(10000, 10000), **unit)
    for image, given, known in [
        (silent, None, False),
        (silent, [1, 1, 1], True),
        (says, None, True),
    ]:
        (entry,) = lab.convert(row(image, spacing=given))
        assert (entry["spacing"], entry["spacing_known"]) == ([1, 1, 1], known)
        volume = open_volume(lab.store())
        assert volume.spacing == (1, 1, 1)
        assert volume.known_spacing == ((1, 1, 1) if known else None)


def test_threads_and_storage_do_not_change_values(lab, rng):
    data = rng.normal(5, 2, (2, 90, 70)).astype("f4")
    image = lab.write("a.tif", data, rowsperstrip=8, compression="zlib")
    results = []
    for threads, shard in ((1, 16), (3, 32), (2, 96)):
        lab.convert(row(image), threads=threads, shard=shard)
        volume = open_volume(lab.store())
        results.append(([level[:].tobytes() for level in volume.levels], volume.attributes))
    for levels, attributes in results:
        assert levels == results[0][0]
        assert attributes["statistics"] == results[0][1]["statistics"]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4"])
def test_statistics_of_integers_are_exact(lab, rng, dtype):
    data = rng.integers(-100 if dtype[0] == "i" else 0, 120, (2, 40, 50)).astype(dtype)
    lab.convert(row(lab.write("a.tif", data)))
    statistics = open_volume(lab.store()).attributes["statistics"]
    for part, values in [
        (statistics["volume"], data),
        *(({k: v[z] for k, v in statistics["planes"].items()}, data[z]) for z in (0, 1)),
    ]:
        np.testing.assert_allclose(part["mean"], [values.mean()])
        np.testing.assert_allclose(part["std"], [values.std()])
        assert (part["minimum"], part["maximum"]) == ([values.min()], [values.max()])
        np.testing.assert_allclose(
            part["values"][0], np.percentile(values, statistics["quantiles"]), atol=1e-9
        )


def test_statistics_of_floats_are_fine_and_per_channel(lab, rng):
    data = rng.normal([[[5]], [[900]]], [[[1]], [[30]]], (2, 60, 50)).astype("f4")
    lab.convert(row(lab.write("a.tif", data, ome=True, metadata={"axes": "CYX"})))
    statistics = open_volume(lab.store()).attributes["statistics"]
    assert "planes" not in statistics
    for channel, span in ((0, np.ptp(data[0])), (1, np.ptp(data[1]))):
        expected = np.percentile(data[channel], statistics["quantiles"])
        found = statistics["volume"]["values"][channel]
        np.testing.assert_allclose(found, expected, atol=float(span) / 65535)


def test_channels_are_selected(lab, rng):
    data = rng.integers(0, 255, (40, 50, 4)).astype("u1")
    options = {"photometric": "rgb", "extrasamples": ("unassalpha",)}
    lab.convert(row(lab.write("a.tif", data, **options), channels=[2]))
    np.testing.assert_array_equal(open_volume(lab.store()).array[0, 0], data[..., 2])


# ------------------------------------------------------------------------------------------- truth

CROSS = np.array(  # two diagonal neighbours are not connected
    [[[1, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 1]], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]], "u1"
)


@pytest.mark.parametrize("labels", ["foreground", "boundary"])
@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (
            "plane",
            [[[1, 1, 0, 2], [1, 0, 3, 0], [0, 0, 3, 3]], [[4, 0, 0, 0], [0] * 4, [0, 0, 5, 5]]],
        ),
        (
            "volume",
            [[[1, 1, 0, 2], [1, 0, 3, 0], [0, 0, 3, 3]], [[1, 0, 0, 0], [0] * 4, [0, 0, 3, 3]]],
        ),
    ],
)
def test_components_become_instances_in_raster_order(lab, labels, objects, expected):
    mask = CROSS * 255 if labels == "foreground" else (1 - CROSS) * 255
    image, label = lab.write("a.tif", CROSS), lab.write("l.tif", mask)
    (entry,) = lab.convert(row(image, label, labels=labels, objects=objects))
    np.testing.assert_array_equal(open_volume(lab.store(), "truth").array[:], expected)
    assert entry["instances"] == np.max(expected)


def test_plane_components_equal_scipy_plane_by_plane(lab, rng):
    mask = rng.random((4, 50, 60)) < 0.6
    label = lab.write("l.tif", mask.astype("u1"))
    lab.convert(row(lab.write("a.tif", mask.astype("u1")), label, labels="foreground"))
    offset = 0
    for z, plane in enumerate(open_volume(lab.store(), "truth").array[:]):
        expected, count = ndimage.label(mask[z])
        np.testing.assert_array_equal(plane, np.where(mask[z], expected + offset, 0))
        offset += count


@pytest.mark.parametrize("objects", ["plane", "volume"])
@pytest.mark.parametrize(("share", "threads"), [(0.35, 1), (0.6, 3)])
def test_components_across_blocks_equal_those_of_the_whole(lab, rng, objects, share, threads):
    mask = rng.random((5, 90, 70)) < share
    mask[:, 40] |= rng.random((5, 70)) < 0.5
    label = lab.write("l.tif", mask.astype("u1"), compression="zlib", rowsperstrip=30)
    sample = row(lab.write("a.tif", mask.astype("u1")), label, labels="foreground", objects=objects)
    (entry,) = lab.convert(sample, threads=threads, shard=16)
    expected = components(mask, objects=objects)
    truth = open_volume(lab.store(), "truth")
    np.testing.assert_array_equal(truth.array[:], expected)
    assert entry["instances"] == expected.max()
    for level in range(1, len(truth.levels)):
        np.testing.assert_array_equal(truth.levels[level][:], truth.levels[level - 1][:, ::2, ::2])
    assert {p.name for p in truth.path.iterdir()} == {"0", "1", "2", "zarr.json"}


def test_a_coloured_mask_is_foreground(lab):
    colours = np.zeros((20, 30, 3), "u1")
    colours[2:5, 3:9, 1] = 255
    colours[12:15, 3:9, 2] = 7
    label = lab.write("l.tif", colours, photometric="rgb")
    image = lab.write("a.tif", colours[..., 0])
    assert lab.convert(row(image, label, labels="foreground"))[0]["instances"] == 2


@pytest.mark.parametrize(("objects", "kept"), [("plane", False), ("volume", True)])
def test_ids_on_several_planes_are_renumbered_only_for_planes(lab, objects, kept):
    ids = np.array([[[0, 5, 9], [0, 0, 9]], [[5, 5, 0], [2, 0, 0]]], "u1")
    image, label = lab.write("a.tif", ids), lab.write("l.tif", ids)
    (entry,) = lab.convert(row(image, label, objects=objects))
    renumbered = [[[0, 1, 2], [0, 0, 2]], [[4, 4, 0], [3, 0, 0]]]
    found = open_volume(lab.store(), "truth").array[:]
    np.testing.assert_array_equal(found, ids if kept else renumbered)
    assert entry["instances"] == (3 if kept else 4)


def test_whole_numbers_in_floats_and_large_ids_are_kept(lab):
    image = lab.write("a.tif", np.zeros((20, 20), "u1"))
    ids = np.zeros((20, 20), "f4")
    ids[3, 4] = 70000
    lab.convert(row(image, lab.write("l.tif", ids)))
    assert open_volume(lab.store(), "truth").array[0, 3, 4] == 70000
    large = np.zeros((20, 20), "u8")
    large[3, 4] = 2**32
    lab.convert(row(image, lab.write("l.tif", large)))
    truth = open_volume(lab.store(), "truth").array
    assert (truth.dtype, truth[0, 3, 4]) == (np.uint64, 2**32)


def test_labels_without_instances_are_noted(lab, caplog):
    empty = lab.write("l.tif", np.zeros((20, 20), "u1"))
    assert lab.convert(row(empty, empty))[0]["instances"] == 0
    assert "holds no instance" in caplog.text


def test_one_single_id_gives_a_hint(lab, caplog):
    mask = lab.write("l.tif", np.eye(20, dtype="u1") * 255)
    lab.convert(row(mask, mask))
    assert "use `labels: foreground`" in caplog.text


# ----------------------------------------------------------------------------- voxels not annotated


@pytest.mark.parametrize(
    ("ignore", "objects", "expected"),
    [
        (9, "volume", [[[0, 5, -1], [0, 0, -1]], [[5, 5, 0], [2, 0, 0]]]),
        (9, "plane", [[[0, 1, -1], [0, 0, -1]], [[3, 3, 0], [2, 0, 0]]]),
        (0, "volume", [[[-1, 5, 9], [-1, -1, 9]], [[5, 5, -1], [2, -1, -1]]]),
        (300, "volume", [[[0, 5, 9], [0, 0, 9]], [[5, 5, 0], [2, 0, 0]]]),
    ],
)
def test_the_ignored_label_becomes_the_greatest_value(lab, ignore, objects, expected):
    ids = np.array([[[0, 5, 9], [0, 0, 9]], [[5, 5, 0], [2, 0, 0]]], "u1")
    image, label = lab.write("a.tif", ids), lab.write("l.tif", ids)
    (entry,) = lab.convert(row(image, label, objects=objects, ignore_label=ignore))
    truth = open_volume(lab.store(), "truth")
    ignored = truth.attributes["ignored"]
    assert ignored == 2**32 - 1
    found = np.where(truth.array[:] == ignored, -1, truth.array[:].astype(np.int64))
    np.testing.assert_array_equal(found, expected)
    assert entry["instances"] == len(set(found.ravel().tolist()) - {0, -1})


def test_an_ignored_label_may_be_negative_and_beside_large_ids(lab):
    image = lab.write("a.tif", np.zeros((20, 20), "u1"))
    ids = np.zeros((20, 20), "i8")
    ids[3, 4], ids[5], ids[7, 7] = 2**32 - 1, -1, 6
    lab.convert(row(image, lab.write("l.tif", ids), ignore_label=-1))
    truth = open_volume(lab.store(), "truth")
    assert truth.attributes["ignored"] == 2**64 - 1
    found = truth.array[0]
    assert (found[3, 4], found[7, 7]) == (2**32 - 1, 6)
    assert (found[5] == 2**64 - 1).all()
    assert np.count_nonzero(found) == 22


@pytest.mark.parametrize("labels", ["foreground", "boundary"])
@pytest.mark.parametrize("objects", ["plane", "volume"])
def test_ignored_voxels_of_a_mask_separate_components(lab, rng, labels, objects):
    mask = rng.choice(np.array([0, 128, 255], "u1"), (2, 60, 50), p=[0.4, 0.1, 0.5])
    image, label = lab.write("a.tif", mask), lab.write("l.tif", mask, rowsperstrip=8)
    lab.convert(row(image, label, labels=labels, objects=objects, ignore_label=128))
    truth = open_volume(lab.store(), "truth")
    inside = mask == (255 if labels == "foreground" else 0)
    expected = components(inside, objects=objects)
    expected[mask == 128] = truth.attributes["ignored"]
    np.testing.assert_array_equal(truth.array[:], expected)


def test_without_an_ignored_label_the_truth_says_so(lab):
    label = lab.write("l.tif", np.eye(20, dtype="u1"))
    lab.convert(row(label, label))
    assert open_volume(lab.store(), "truth").attributes["ignored"] is None


# ------------------------------------------------------------------------------------------ faults


def faulty(kind):
    labels = np.zeros((20, 20), {"negative": "i2"}.get(kind, "f8"))
    labels[3, 4] = {"fraction": 1.5, "negative": -2, "nan": np.nan, "huge": 2**60}[kind]
    return labels


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fraction", "labels must be whole numbers, but it holds 1.5"),
        ("negative", "labels must not be negative, but it holds -2"),
        ("nan", "labels hold NaN or infinity"),
        ("huge", "too large for float64 labels, the limit is 9007199254740992"),
    ],
)
def test_bad_labels(lab, kind, message):
    image = lab.write("a.tif", np.zeros((20, 20), "u1"))
    (entry,) = lab.convert(row(image, lab.write("l.tif", faulty(kind))))
    assert (entry["status"], entry["store"]) == ("failed", None)
    assert message in entry["message"]


def test_ids_beyond_int64_are_refused(lab):
    ids = np.full((20, 20), 2**63, "u8")
    (entry,) = lab.convert(row(lab.write("a.tif", ids.astype("u1")), lab.write("l.tif", ids)))
    assert "9223372036854775808 is too large for uint64 labels" in entry["message"]


def test_image_and_labels_of_different_shape(lab):
    image = lab.write("a.tif", np.zeros((20, 20), "u1"))
    (entry,) = lab.convert(row(image, lab.write("l.tif", np.zeros((20, 21), "u1"))))
    assert "(1, 20, 20)" in entry["message"]
    assert "(1, 20, 21)" in entry["message"]


def test_image_and_labels_of_different_spacing(lab):
    data, unit = np.eye(40, dtype="u1"), {"resolutionunit": "CENTIMETER"}
    image = lab.write("a.tif", data, resolution=(20000, 20000), **unit)
    label = lab.write("l.tif", data, resolution=(10000, 10000), **unit)
    (entry,) = lab.convert(row(image, label))
    assert entry["status"] == "failed"
    assert "a.tif says (1.0, 0.5, 0.5)" in entry["message"]
    assert "l.tif says (1.0, 1.0, 1.0)" in entry["message"]
    assert lab.convert(row(image, label, spacing=[1, 0.5, 0.5]))[0]["status"] == "done"
    silent = lab.write("l.tif", data)
    assert lab.convert(row(image, silent))[0]["spacing"] == [1, 0.5, 0.5]


def test_coloured_instance_labels(lab):
    image = lab.write("a.tif", np.zeros((20, 20), "u1"))
    label = lab.write("l.tif", np.zeros((20, 20, 3), "u1"), photometric="rgb")
    assert "3 channels: instance ids need one" in lab.convert(row(image, label))[0]["message"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_intensities_must_be_finite(lab, value):
    data = np.zeros((2, 40, 50), "f4")
    data[1, 33, 44] = value
    (entry,) = lab.convert(row(lab.write("a.tif", data, compression="zlib")))
    assert "at (z, y, x) = (1, 33, 44), channel 0" in entry["message"]


def test_64_bit_intensities_and_lines_are_refused(lab):
    (entry,) = lab.convert(row(lab.write("a.tif", np.zeros((20, 20), "u8"))))
    assert "holds uint64 intensities" in entry["message"]
    (entry,) = lab.convert(row(lab.write("b.tif", np.zeros((1, 20), "u1"))))
    assert "1 x 20 px (y, x): an image needs at least 2 px" in entry["message"]


def test_one_bad_sample_leaves_the_others(lab, rng):
    good = lab.write("a.tif", rng.integers(0, 9, (40, 40)).astype("u1"))
    (lab.folder / "b.czi").write_bytes(b"ZISRAWFILE")
    rows = [row(good), row(str(lab.folder / "b.czi"), sample="b"), row("no.tif", sample="c")]
    entries = lab.convert(*rows, row(good, sample="d"))
    assert [e["status"] for e in entries] == ["done", "failed", "failed", "done"]
    assert "(.czi)" in entries[1]["message"]
    assert "no such file" in entries[2]["message"]


# --------------------------------------------------------------------------------- rerun and resume


def test_finished_samples_are_left_alone_and_changed_ones_redone(lab, rng):
    image = lab.write("a.tif", rng.integers(0, 9, (40, 40)).astype("u1"))
    (first,) = lab.convert(row(image))
    written = (lab.store() / "zarr.json").stat().st_mtime_ns
    assert lab.convert(row(image)) == [first]
    assert (lab.store() / "zarr.json").stat().st_mtime_ns == written
    lab.write("a.tif", rng.integers(0, 9, (40, 40)).astype("u1"))
    (second,) = lab.convert(row(image))
    assert second["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize("labels", ["instances", "foreground"])
def test_a_killed_conversion_is_resumed(lab, rng, monkeypatch, labels):
    data = rng.integers(0, 9, (4, 40, 40)).astype("u1")
    sample = row(
        lab.write("a.tif", data), lab.write("l.tif", data), objects="volume", labels=labels
    )
    lab.convert(sample, threads=1)
    expected = content(lab.store())
    shutil.rmtree(lab.store())
    read, reads, deaths = blockwise.read_mirrored, [], [5, 20, 30, 35, 45, 48, 70]

    def dies(*arguments):
        reads.append(arguments)
        if len(reads) in deaths:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(blockwise, "read_mirrored", dies)
    for _ in deaths:
        try:
            lab.convert(sample, threads=1)
        except KeyboardInterrupt:
            assert not (lab.store() / "zarr.json").exists()
            continue
        break
    assert content(lab.store()) == expected
    # 16 blocks of the image, and of the truth once, or twice where its components are joined.
    died = sum(n <= len(reads) for n in deaths)
    assert len(reads) == (32 if labels == "instances" else 48) + died


def test_a_torn_shard_of_a_killed_conversion_is_made_again(lab, rng, monkeypatch):
    data = rng.integers(0, 9, (4, 40, 40)).astype("u1")
    sample = row(lab.write("a.tif", data), lab.write("l.tif", data), objects="volume")
    commit = convert.commit_image
    monkeypatch.setattr(convert, "commit_image", killed)
    with pytest.raises(KeyboardInterrupt):
        lab.convert(sample)
    monkeypatch.setattr(convert, "commit_image", commit)
    for folder in ("0/c", "labels/truth/0/c"):
        shard = sorted(p for p in (lab.store() / folder).rglob("*") if p.is_file())[3]
        shard.write_bytes(shard.read_bytes()[:-9])
    lab.convert(sample)
    np.testing.assert_array_equal(open_volume(lab.store()).array[0], data)
    np.testing.assert_array_equal(open_volume(lab.store(), "truth").array[:], data)


def killed(*_, **__):
    raise KeyboardInterrupt


def content(store):
    """Return the bytes of a store's files, without its books."""
    files = (p for p in store.rglob("*") if p.is_file())
    names = ((p.relative_to(store), p) for p in files)
    return {name: p.read_bytes() for name, p in names if ".gigaseg" not in name.parts}


def test_png_series_with_binary_truth(lab, rng):
    mask = rng.random((11, 30, 40)) < 0.7
    for kind in ("image", "label"):
        (lab.folder / kind).mkdir()
        for z, plane in enumerate(mask):
            content = imagecodecs.png_encode(plane.astype("u1") * 255)
            (lab.folder / kind / f"{z}.png").write_bytes(content)
    sample = row(str(lab.folder / "image"), str(lab.folder / "label/*.png"), labels="foreground")
    (entry,) = lab.convert(sample)
    assert entry["shape"] == [1, 11, 30, 40]
    np.testing.assert_array_equal(open_volume(lab.store(), "truth").array[:] > 0, mask)
