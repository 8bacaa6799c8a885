from pathlib import Path

import pytest
from gigaseg import samples
from gigaseg.folds import cut_into_folds
from gigaseg.plan import load
from gigaseg.samples import Sample, cut_into_lots, files, read_sheet
from gigaseg.settings import SettingsError

HEAD = "sample\tdataset\tsplit\timage\tlabel\n"
GOOD = "a\tcells\ttrain\ta.tif\ta-label.tif\nb\tcells\tvalidation\tb.tif\tb-label.tif\n"


def sheet(folder: Path, text: str) -> Path:
    path = folder / "samples.tsv"
    path.write_text(text)
    return path


def complaints(folder: Path, rows: str, *, made: bool = True, **experiment) -> list[str]:
    """Return what `load` finds wrong with a sheet of these rows."""
    config = {
        "samples": str(sheet(folder, HEAD + rows)),
        "data_root": str(folder),
        "datasets": {"cells": {"phantom": {"kind": "nuclei"} if made else None}, "empty": {}},
        "experiments": {"one": {"datasets": ["cells"], **experiment}},
    }
    try:
        load(config, {})
    except SettingsError as error:
        return [str(problem) for problem in error.problems]
    return []


def rows(count: int, split: str = "train") -> list[Sample]:
    return [Sample(f"{split}-{n}", "cells", split, f"{n}.tif", "truth.tif") for n in range(count)]


def test_a_sheet_is_read_as_text(tmp_path):
    found, problems = read_sheet(sheet(tmp_path, HEAD + "007\tcells\ttest\tNA\t\n"))
    assert found == [Sample("007", "cells", "test", "NA", "")]
    assert problems == []


def test_a_sheet_from_a_spreadsheet_is_read_too(tmp_path):
    (tmp_path / "s.tsv").write_bytes(("\ufeff" + HEAD + GOOD).replace("\n", "\r\n").encode())
    found, problems = read_sheet(tmp_path / "s.tsv")
    assert [row.sample for row in found] == ["a", "b"]
    assert problems == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample,dataset,split,image\n", "separated by tabs, not by commas"),
        ("sampel\tdataset\tsplit\timage\n", "unknown column 'sampel'; did you mean sample?"),
        ("sample\tdataset\tsplit\n", "column 'image' is missing"),
        (HEAD, "has no rows"),
        (HEAD + "a\tcells\ttrain\ta.tif\tb.tif\tc.tif\n", "row 2: has more cells"),
        (HEAD + "a\tcells\tvalid\ta.tif\tb.tif\n", "one of train, validation, test; did you mean"),
        (HEAD + "a\tcells\ttest\t\t\n", "row 2: image"),
        (HEAD + "<script>alert(1)</script>\tcells\ttest\ta.tif\t\n", "not safe as a file name"),
        (HEAD + "../a\tcells\ttest\ta.tif\t\n", "not safe as a file name"),
        (HEAD + "a" * 101 + "\tcells\ttest\ta.tif\t\n", "has 101 characters, 100 are allowed"),
        (HEAD + "a/b\tcells\ttest\ta.tif\t\n", "not safe as a file name"),
    ],
)
def test_a_fault_of_form_is_named(tmp_path, text, message):
    _, problems = read_sheet(sheet(tmp_path, text))
    assert any(message in str(problem) for problem in problems), list(map(str, problems))


def test_a_sheet_that_is_not_there_or_no_text(tmp_path):
    assert "does not exist" in str(read_sheet(tmp_path / "none.tsv")[1][0])
    (tmp_path / "s.tsv").write_bytes(b"\xff\xfe\x00")
    assert "not a text in UTF-8" in str(read_sheet(tmp_path / "s.tsv")[1][0])


def test_a_good_sheet_has_no_problems(tmp_path):
    assert complaints(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + GOOD.splitlines()[0] + "\n", "sample 'a' stands 2 times in data set 'cells'"),
        (
            GOOD + GOOD.splitlines()[0].upper().replace("TRAIN", "test").replace("CELLS", "cells"),
            "samples 'a' and 'A' of data set 'cells' differ in case only",
        ),
        (GOOD + "c\tcels\ttest\tc.tif\t\n", "data set 'cels' is not in the config; did you mean"),
        (GOOD + "c\tcells\ttrain\tc.tif\t\n", "sample 'c' is for train and has no label"),
        (GOOD + "c\tcells\ttest\tc.tif\t\n", "sample 'c' is drawn and has no label"),
        ("b\tcells\tvalidation\tb.tif\tb.tif\n", "no samples of cells with split train"),
        ("a\tcells\ttrain\tb.tif\tb.tif\n", "no samples of cells with split validation"),
    ],
)
def test_a_fault_between_sheet_and_config_is_named(tmp_path, text, message):
    found = complaints(tmp_path, text)
    assert len(found) == 1, found
    assert message in found[0]


def test_missing_files_are_named_unless_the_workflow_makes_them(tmp_path):
    (tmp_path / "a.tif").touch()
    found = complaints(tmp_path, GOOD, made=False)
    assert len(found) == 3
    assert f"label of sample 'a' does not exist: {tmp_path / 'a-label.tif'}" in found[0]


def test_a_missing_registry_is_named(tmp_path):
    config = {
        "samples": str(sheet(tmp_path, HEAD + GOOD)),
        "datasets": {"cells": {"registry": "nowhere.tsv"}},
        "experiments": {"one": {"datasets": ["cells"]}},
    }
    with pytest.raises(SettingsError, match=r"datasets.cells.registry: nowhere.tsv does not exist"):
        load(config, {})


def test_a_data_set_is_drawn_or_fetched_not_both(tmp_path):
    (tmp_path / "r.tsv").touch()
    both = {"registry": str(tmp_path / "r.tsv"), "phantom": {"kind": "nuclei"}}
    config = {
        "samples": str(sheet(tmp_path, HEAD + GOOD)),
        "datasets": {"cells": both},
        "experiments": {"one": {"datasets": ["cells"]}},
    }
    with pytest.raises(SettingsError, match="has a registry and a phantom"):
        load(config, {})


def test_an_experiment_needs_samples_of_its_data_sets(tmp_path):
    found = complaints(tmp_path, GOOD, datasets=["cells", "empty"])
    assert found == ["experiments.one.datasets: the sheet has no samples of 'empty'"]


def test_nothing_is_tuned_without_samples_for_validation(tmp_path):
    rows = "a\tcells\ttrain\ta.tif\ta.tif\nc\tcells\ttest\tc.tif\tc.tif\n"
    tune = {"tune": {"grid": {"threshold": [0.5, 0.7]}}}
    [found] = complaints(tmp_path, rows, instances=tune)
    assert "the sheet has no samples of cells with split validation" in found


def test_more_folds_than_samples_are_refused(tmp_path):
    assert complaints(tmp_path, GOOD, folds=2) == []
    [found] = complaints(tmp_path, GOOD, folds=3)
    assert found == (
        "experiments.one.folds: 3 folds need as many samples for training and validation, not 2: "
        "set folds to 2 at most, or give more samples the split train or validation in the sheet"
    )


def test_config_and_sheet_are_complained_about_together(tmp_path):
    found = complaints(tmp_path, GOOD + "c\tcells\ttrain\tc.tif\t\n", folds="two")
    assert len(found) == 2


def test_a_row_at_fault_hides_no_other_fault(tmp_path):
    rows = "a\tcells\ttrian\ta.tif\ta.tif\nc\tcels\ttest\tc.tif\t\nd\tcells\ttrain\td.tif\t\n"
    found = complaints(tmp_path, rows)
    assert len(found) == 3, found
    assert "did you mean train?" in found[0]
    assert "data set 'cels' is not in the config" in found[1]
    assert "sample 'd' is for train and has no label" in found[2]


def test_sections_of_another_kind_are_named_beside_the_faults_of_the_sheet(tmp_path):
    path = sheet(tmp_path, HEAD + GOOD + "c\tcells\ttrain\tc.tif\t\n")
    with pytest.raises(SettingsError) as error:
        load({"samples": str(path), "datasets": 3, "experiments": []}, {})
    assert "datasets: 3 is not a section of keys" in str(error.value)
    assert "experiments: [] is not a section of keys" in str(error.value)
    assert "sample 'c' is for train and has no label" in str(error.value)
    assert len(error.value.problems) == 3


def test_lots_follow_the_sheet_and_stay_within_a_data_set():
    table = [Sample(n, d, "test", "x") for n, d in [("a", "p"), ("b", "q"), ("c", "p"), ("d", "p")]]
    lots = cut_into_lots(table, {"p": {"lot": 2}, "q": {"lot": 2}})
    assert {lot: [s.sample for s in part] for lot, part in lots.items()} == {
        "p-0000": ["a", "c"],
        "p-0001": ["d"],
        "q-0000": ["b"],
    }


def test_one_fold_takes_the_splits_of_the_sheet():
    table = rows(2) + rows(1, "validation") + rows(1, "test")
    (fold,) = cut_into_folds(table, 1)
    assert (fold.train, fold.validation, fold.test) == (
        *[tuple(table[:2])],
        *map(tuple, [table[2:3], table[3:]]),
    )
    assert fold.taught == tuple(table[:3])


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_folds_validate_every_sample_once_in_runs_of_even_size(k):
    table = rows(4) + rows(3, "validation") + rows(2, "test")
    folds = cut_into_folds(table, k)
    assert [s for fold in folds for s in fold.validation] == table[:7]
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert set(fold.train) == set(table[:7]) - set(fold.validation)
        assert fold.test == tuple(table[7:])


def test_a_cell_names_a_file_or_a_series(tmp_path):
    for name in ("z1.png", "z2.png"):
        (tmp_path / name).touch()
    assert files(tmp_path / "z1.png") == [tmp_path / "z1.png"]
    assert files(tmp_path / "z*.png") == [tmp_path / "z1.png", tmp_path / "z2.png"]
    assert files(tmp_path / "y*.png") == [tmp_path / "y*.png"]


def test_choose_keeps_the_order_of_the_sheet():
    table = [Sample(n, d, "test", "x") for n, d in [("a", "p"), ("b", "q"), ("c", "p")]]
    assert [s.sample for s in samples.choose(table, {"datasets": ["q", "p"]})] == ["a", "b", "c"]


# ------------------------------------------------------------------------------------------ groups

GROUPED = "sample\tdataset\tsplit\timage\tlabel\tgroup\n"


def grouped(sizes: list[int]) -> list[Sample]:
    """Return samples of groups of these sizes, one of each group in turn."""
    members = [(n, g) for g, size in enumerate(sizes) for n in range(size)]
    return [
        Sample(f"{g}-{n}", "cells", "train", "", "truth.tif", f"mouse {g}")
        for n, g in sorted(members)
    ]


@pytest.mark.parametrize(
    "sizes", [[3, 3, 3], [1, 9, 1, 1], [20, 1, 1], [1, 1, 20], [2, 1, 4, 3, 5]]
)
@pytest.mark.parametrize("k", [2, 3])
def test_no_group_is_on_both_sides_of_a_fold(sizes, k):
    table = grouped(sizes)
    parts = cut_into_folds(table, k)
    judged = [sample for part in parts for sample in part.validation]
    assert sorted(judged, key=table.index) == table
    for part in parts:
        assert part.validation
        assert part.train
        assert not {s.group for s in part.train} & {s.group for s in part.validation}
    assert parts == cut_into_folds(table, k)


def test_folds_of_groups_are_runs_of_even_size():
    parts = cut_into_folds(grouped([2, 2, 2, 2, 2, 2]), 3)
    assert [len(part.validation) for part in parts] == [4, 4, 4]


def test_a_sample_without_group_is_one_by_itself():
    table = [*rows(3), *grouped([2])]
    assert [len(part.validation) for part in cut_into_folds(table, 4)] == [1, 1, 1, 2]


def complain(folder, text, **experiment):
    path = folder / "samples.tsv"
    path.write_text(GROUPED + text)
    config = {
        "samples": str(path),
        "data_root": str(folder),
        "datasets": {"cells": {"phantom": {"kind": "nuclei"}}},
        "experiments": {"one": {"datasets": ["cells"], **experiment}},
    }
    try:
        load(config, {})
    except SettingsError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_more_folds_than_groups_are_refused(tmp_path):
    text = "".join(f"{n}\tcells\ttrain\t{n}.tif\t{n}.png\tmouse {n % 2}\n" for n in range(6))
    assert complain(tmp_path, text, folds=2) == []
    [found] = complain(tmp_path, text, folds=3)
    assert "3 folds need as many groups of samples for training and validation, not 2" in found


@pytest.mark.parametrize(
    ("split", "label", "folds", "found"),
    [
        ("validation", "b.png", 1, True),
        ("validation", "b.png", 2, False),
        ("test", "b.png", 1, True),
        ("test", "b.png", 2, True),
        ("test", "", 2, False),  # nothing is judged by it
    ],
)
def test_a_sheet_that_parts_a_group_itself_is_refused(tmp_path, split, label, folds, found):
    text = (
        "a\tcells\ttrain\ta.tif\ta.png\tmouse 1\n"
        f"b\tcells\t{split}\tb.tif\t{label}\tmouse 1\n"
        "c\tcells\tvalidation\tc.tif\tc.png\tmouse 2\n"
    )
    problems = complain(tmp_path, text, folds=folds)
    text = "group 'mouse 1' is learned from (a) and judged by (b)"
    assert any(text in problem for problem in problems) is found


def test_a_model_that_is_brought_needs_something_to_predict(tmp_path):
    # That the file is missing is said beside.
    text = "a\tcells\ttrain\ta.tif\ta.png\t\n"
    problems = complain(tmp_path, text, model="m.json")
    assert any("split validation or test: the model would predict nothing" in p for p in problems)
    tune = {"tune": {"grid": {"threshold": [0.5, 0.7]}}}
    text += "b\tcells\ttest\tb.tif\tb.png\t\n"
    problems = complain(tmp_path, text, model="m.json", instances=tune)
    assert any(p.endswith("has no samples of cells with split validation") for p in problems)


@pytest.mark.parametrize(
    ("cell", "made", "message"),
    [
        ("5-0", False, "sample 'a' is planes 5-0: the first comes first, as in 0-5"),
        ("0-5", True, "sample 'a' is planes 0-5 of a file that is drawn"),
        ("0:5", False, "planes: '0:5' does not match"),
    ],
)
def test_planes_that_cannot_be_are_named(tmp_path, cell, made, message):
    path = tmp_path / "samples.tsv"
    for file in ("s.tif", "b.tif"):
        (tmp_path / file).touch()
    path.write_text(
        "sample\tdataset\tsplit\timage\tlabel\tplanes\n"
        f"a\tcells\ttrain\ts.tif\ts.tif\t{cell}\nb\tcells\tvalidation\tb.tif\tb.tif\t\n"
    )
    config = {
        "samples": str(path),
        "data_root": str(tmp_path),
        "datasets": {"cells": {"phantom": {"kind": "nuclei"} if made else None}},
        "experiments": {"one": {"datasets": ["cells"]}},
    }
    with pytest.raises(SettingsError) as error:
        load(config, {})
    [problem] = map(str, error.value.problems)
    assert message in problem


def test_planes_of_a_file_are_from_the_first_to_the_last():
    assert Sample("a", "d", "train", "s.tif", planes="0-5").cut == (0, 6)
    assert Sample("a", "d", "train", "s.tif").cut is None
