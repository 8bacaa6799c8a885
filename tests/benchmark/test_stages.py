"""Whole stages against the bare work inside them."""

import json
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import tifffile
from gigaseg.stages import convert, read_entries

STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
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
    row |= {"spacing": None, "labels": "instances", "objects": "plane", "channels": "all"}
    return {"lot": "d-0000", "samples": [row], "storage": STORAGE}


def converted(image, folder):
    """Convert an image; return its entry in the manifest."""
    manifest = folder / "d-0000.json"
    convert.run(manifest=manifest, settings=sheet(image), code="1", threads=1)
    return read_entries(manifest)["a"]


@grows
def test_convert(bench, nuclei, tmp_path, times):
    side = times * bench.side(4096, 150)
    source = tmp_path / "a.tif"
    image = nuclei(side)[0]
    tifffile.imwrite(source, image, tile=(256, 256), compression="zlib", predictor=True)
    number = count()
    entry, decoded = bench.compare(
        lambda: converted(source, tmp_path / str(next(number))),
        lambda: tifffile.imread(source, maxworkers=1),
        names=(
            "convert to OME-Zarr with levels and statistics, 1 thread",
            f"{side}² uint16, tiled deflate, {source.stat().st_size / 2**20:.0f} MB",
            "decoding alone (tifffile, 1 thread)",
        ),
        aim="0.33",
        rounds=3,
    )
    np.testing.assert_array_equal(decoded, image)
    assert entry["shape"] == [1, 1, side, side]
    if bench.measured:
        command = [sys.executable, "-c", ALONE, tmp_path / "alone.json", json.dumps(sheet(source))]
        before, peak = json.loads(subprocess.check_output(command))
        bench.remark(f"peak RSS {peak:.0f} MB, {before:.0f} MB of it imports; aim 500 MB")
