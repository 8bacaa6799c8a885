"""Conversion against the bare decoding inside it, and against how one would do it otherwise."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from gigaseg.stages import convert, read_entries
from gigaseg.volumes import foreign_codecs

STORAGE = {"chunk": 256, "shard": "auto", "smallest_level": 256}
grows = pytest.mark.parametrize("times", [1, 2])

# A process of its own, so that the peak is that of the stage. VmHWM, because ru_maxrss of a child
# starts at what its parent took.
ALONE = """
import json, sys
from pathlib import Path
from gigaseg.stages import convert

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

before = peak()
convert.run(manifest=Path(sys.argv[1]), settings=json.loads(sys.argv[2]), code="1", threads=1)
print(json.dumps([before, peak()]))
"""


def sheet(image):
    row = {"sample": "a", "dataset": "d", "split": "test", "image": str(image), "label": None}
    row |= {
        "spacing": None,
        "labels": "instances",
        "objects": "plane",
        "planes": None,
        "channels": "all",
    }
    row |= {"ignore_label": None}
    return {"lot": "d-0000", "samples": [row], "storage": STORAGE}


def converted(image, folder):
    """Convert an image; return its entry in the manifest."""
    manifest = folder / "d-0000.json"
    convert.run(manifest=manifest, settings=sheet(image), code="1", threads=1)
    return read_entries(manifest)["a"]


@pytest.fixture
def scan(bench, nuclei, tmp_path):
    """Return a function that writes a tiled and compressed TIFF file of a side in px."""

    def write(side):
        path = tmp_path / f"{side}.tif"
        tile, plane = 256 if bench.measured else 16, nuclei(min(side, 4096))[0]
        tiles = (
            plane[y % len(plane) :, x % len(plane) :][:tile, :tile]
            for y in range(0, side, tile)
            for x in range(0, side, tile)
        )
        options = {"compression": "zlib", "predictor": True, "photometric": "minisblack"}
        tifffile.imwrite(
            path, tiles, shape=(side, side), dtype=plane.dtype, tile=(tile, tile), **options
        )
        return path

    return write


def describe(path, side):
    return f"{side}² uint16, tiled deflate, {path.stat().st_size / 2**20:.0f} MB"


@grows
def test_convert(bench, scan, tmp_path, times):
    """Time per pixel and memory must not grow with the image."""
    side = times * bench.side(8192, 144)
    path, number = scan(side), count()
    entry, decoded = bench.compare(
        lambda: converted(path, tmp_path / str(next(number))),
        lambda: tifffile.imread(path, maxworkers=1),
        names=(
            "convert to OME-Zarr with levels and statistics, 1 thread",
            describe(path, side),
            "decoding alone (tifffile, 1 thread)",
        ),
        aim="0.33",
        rounds=3,
    )
    np.testing.assert_array_equal(zarr.open_array(Path(entry["store"]) / "0")[0, 0], decoded)
    if bench.measured:
        command = [sys.executable, "-c", ALONE, tmp_path / "alone.json", json.dumps(sheet(path))]
        before, peak = json.loads(subprocess.check_output(command))
        files = sum(p.is_file() for p in Path(entry["store"]).rglob("*"))
        note = f"peak RSS {peak:.0f} MB, {before:.0f} MB of it imports; aim 500 MB; {files} files; "
        bench.remark(f"{note}{1e9 * bench.rows[-1].ours_s / side**2:.1f} ns per px")


@pytest.mark.parametrize(("tasks", "aim"), [("its tiles", "5"), (1024, "")])
def test_against_ome_zarr(bench, scan, tmp_path, tasks, aim):
    """The same with the library of the format, the file opened as a lazy array."""
    writer = pytest.importorskip("ome_zarr.writer", reason="needs `pip install ome-zarr`")
    side = bench.side(8192, 144)
    path, number = scan(side), count()

    def peer():
        with (
            foreign_codecs(),
            dask.config.set(scheduler="synchronous"),
            tifffile.imread(path, aszarr=True) as store,
        ):
            # By default each tile of the file is a task; larger ones help, if one thinks of it.
            chunks = (tasks, tasks) if isinstance(tasks, int) else None
            image = dask.array.from_zarr(store, chunks=chunks)
            group = zarr.open_group(tmp_path / f"peer-{next(number)}", mode="w")
            writer.write_image(image, group, axes="yx", scale_factors=(2, 4, 8, 16))
        return group["0" if "0" in group else "s0"]

    entry, array = bench.compare(
        lambda: converted(path, tmp_path / str(next(number))),
        peer,
        names=(
            "convert to OME-Zarr with levels and statistics, 1 thread",
            describe(path, side),
            f"ome-zarr-py's write_image, dask blocks of {tasks}, 4 coarser levels, 1 thread",
        ),
        aim=aim,
        rounds=2,
    )
    ours = zarr.open_array(Path(entry["store"]) / "0")
    np.testing.assert_array_equal(ours[0, 0, :1000], array[:1000])
