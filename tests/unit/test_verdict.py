import pytest
from gigaseg.manifests import read_manifest, write_manifest
from gigaseg.stages import verdict


def lot(path, *statuses, stage="convert"):
    """Write a manifest of samples that ended like this."""
    samples = [
        {"sample": f"s{n}", "dataset": "cells", "status": status, "message": f"{status} because"}
        for n, status in enumerate(statuses)
    ]
    write_manifest(path, {"stage": stage, "lot": path.stem, "samples": samples})
    return path


def run(folder, outcomes):
    manifest, report = folder / "verdict.json", folder / "report.json"
    verdict.run(manifest=manifest, report=report, outcomes=outcomes)


def test_a_clean_run_leaves_a_manifest(tmp_path):
    outcomes = [lot(tmp_path / f"cells-{n}.json", "done", "done") for n in range(2)]
    run(tmp_path, outcomes)
    assert read_manifest(tmp_path / "verdict.json")["done"] == 4


def test_failed_samples_are_named_with_the_command_and_skipped_ones_are_not(tmp_path):
    good = lot(tmp_path / "cells-0.json", "done")
    bad = lot(tmp_path / "cells-1.json", "done", "failed", "skipped")
    with pytest.raises(RuntimeError) as error:
        run(tmp_path, [good, bad])
    text = str(error.value)
    assert text.startswith("1 sample failed, all others are finished:")
    assert "convert of cells/s1: failed because" in text
    assert "s2" not in text
    assert f"\n  snakemake --cores all --forcerun {bad}\n" in text
    assert text.endswith(f"The report shows the rest: {tmp_path / 'report.html'}")
    assert not (tmp_path / "verdict.json").exists()


def test_against_seams_the_prediction_is_made_again(tmp_path):
    seams = lot(tmp_path / "audit/e/fold-0/cells-0000.json", "failed", stage="audit_seams")
    predicted = lot(tmp_path / "predict/e/fold-0/cells-0000.json", "done", stage="predict")
    with pytest.raises(RuntimeError) as error:
        run(tmp_path, [predicted, seams])
    assert "audit_seams of cells/s0: failed because" in str(error.value)
    assert f"\n  snakemake --cores all --forcerun {predicted}\n" in str(error.value)
