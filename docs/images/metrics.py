"""Draw the pictures of docs/metrics.md and fill in its numbers: `python docs/images/metrics.py`.

Every case is a truth and a prediction of a few pixels. Colours, words and numbers come from the
library, so the page cannot say what the code does not do; a test compares them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gigaseg.faults import find_faults
from gigaseg.labels import boundary_truth, components, contingency
from gigaseg.maps import BoundaryMap
from gigaseg.scores import Tally, add, score, tally_instances, tally_map
from gigaseg.warping import warp

FOLDER = Path(__file__).parent / "metrics"
PAGE = Path(__file__).parents[1] / "metrics.md"

PX = 13  # side of a pixel in the drawing
GAP = 24  # between the panels
HEAD = 22
THRESHOLDS = [0.5, 0.75]

# Okabe and Ito's palette, which colour-blind eyes tell apart; words are written on objects as well.
COLOURS = {
    "found": "#7fcfb6",
    "split": "#f0e442",
    "merged": "#56b4e9",
    "missed": "#e58a4e",
    "invented": "#d9a3c1",
    "": "#c9d3de",
}
SIDES = {"split": "truth", "missed": "truth", "merged": "found", "invented": "found"}
IGNORED = 99

#: A number in the page, followed by the case and the score it is: ``0.33<!--scene f1@0.5-->``.
NUMBER = re.compile(r"(–|\d+\.?(\d*))<!--(\w+) ([\w:@.]+)-->")


@dataclass(frozen=True)
class Case:
    """Truth and prediction, and the kind of scores that are taken of them."""

    truth: np.ndarray
    found: np.ndarray
    is_map: bool = False

    @property
    def ignored(self) -> int | None:
        """Id of pixels nobody annotated."""
        return IGNORED if (self.truth == IGNORED).any() else None


def boxes(shape: tuple[int, int], *places: tuple[int, int, int, int]) -> np.ndarray:
    """Return labels 1, 2, … of boxes (top, bottom, left, right)."""
    labels = np.zeros(shape, np.uint32)
    for number, (top, bottom, left, right) in enumerate(places, start=1):
        labels[top:bottom, left:right] = number
    return labels


def membranes(*lines: tuple[slice, slice], holes: tuple[tuple[slice, slice], ...] = ()):
    """Return cells, True, between membranes."""
    cells = np.ones((14, 24), bool)
    for line in lines:
        cells[line] = False
    for hole in holes:
        cells[hole] = True
    return cells


def make_cases() -> dict[str, Case]:
    """Return all cases by name."""
    scene = (20, 34)
    pair = (10, 20)
    cells = [(y, y + 6, x, x + 6) for y in range(1, 29, 7) for x in range(1, 43, 7)]
    rims = [(top + 1, bottom, left, right) for top, bottom, left, right in cells]
    upright, across = np.s_[:, 11:13], np.s_[6:8, :11]
    straight = membranes(upright, across)
    unknown = boxes(pair, (2, 8, 2, 8), (2, 8, 11, 17))
    unknown[:, 10:] = IGNORED
    return {
        "scene": Case(
            boxes(
                *(scene, (2, 8, 2, 9), (2, 8, 12, 21), (2, 8, 24, 27), (2, 8, 28, 32)),
                *((11, 17, 2, 8), (11, 17, 12, 19)),
            ),
            boxes(
                *(scene, (2, 8, 2, 9), (2, 8, 12, 16), (2, 8, 17, 21), (1, 8, 24, 32)),
                *((12, 18, 13, 20), (11, 15, 25, 30)),
            ),
        ),
        "half": Case(boxes(pair, (2, 8, 2, 10), (2, 8, 10, 18)), boxes(pair, (2, 8, 2, 18))),
        "split": Case(
            boxes(pair, (2, 8, 2, 10), (2, 8, 10, 18)),
            boxes(pair, (2, 8, 2, 6), (2, 8, 6, 10), (2, 8, 10, 18)),
        ),
        "merge": Case(
            boxes(pair, (2, 8, 2, 6), (2, 8, 6, 10), (2, 8, 10, 18)),
            boxes(pair, (2, 8, 2, 10), (2, 8, 10, 18)),
        ),
        "rim": Case(boxes((29, 43), *cells), boxes((29, 43), *rims)),
        "ignored": Case(unknown, boxes(pair, (2, 8, 2, 9), (2, 8, 11, 17))),
        "gap": Case(straight, membranes(upright, across, holes=(np.s_[2:4, 11:13],)), True),
        "moved": Case(straight, membranes(np.s_[:, 12:14], np.s_[5:7, :12]), True),
    }


def measure(case: Case) -> dict[str, float]:
    """Return the scores of a case by name: ``f1@0.5``, and ``above:f1@0.5`` for the other rule."""
    if case.is_map:
        labels = components(case.truth)
        probability = np.where(case.found, 255, 0).astype(np.uint8)
        return _read(tally_map(BoundaryMap(labels, probability), thresholds=[0.5], radius=20))
    table = contingency(case.truth, case.found)
    options = {"iou_thresholds": THRESHOLDS, "ignored": case.ignored}
    above = _read(tally_instances(table, **options, iou_match="above"))
    scores = _read(tally_instances(table, **options, iou_match="at_least"))
    return scores | {f"above:{name}": value for name, value in above.items()}


def _read(tally: Tally) -> dict[str, float]:
    scores = {
        one.metric if one.at is None else f"{one.metric}@{one.at:g}": one.value
        for one in score(add([tally]))
    }
    counts = {
        f"{name}@{at:g}": getattr(counted, name)
        for (family, at), counted in tally.items()
        if family == "matching"
        for name in ("tp", "fp", "fn")
    }
    return scores | counts


def fill_in(text: str, cases: dict[str, Case]) -> str:
    """Return the page with every number as the library gives it, to the digits it has."""
    values = {name: measure(case) for name, case in cases.items()}

    def number(match: re.Match[str]) -> str:
        _, digits, case, name = match.groups()
        value = values[case][name]
        shown = "–" if math.isnan(value) else f"{value:.{len(digits or '')}f}"
        return f"{shown}<!--{case} {name}-->"

    return NUMBER.sub(number, text)


# ------------------------------------------------------------------------------------- pictures


def draw(case: Case) -> str:
    """Return both sides of a case as SVG."""
    panels = _draw_map(case) if case.is_map else _draw_objects(case)
    rows, columns = case.truth.shape
    width, height = 2 * columns * PX + GAP + 2, rows * PX + HEAD + 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for k, (title, panel) in enumerate(zip(("truth", "prediction"), panels, strict=True)):
        left = 1 + k * (columns * PX + GAP)
        lines += [
            f'<text x="{left}" y="15" fill="#333333">{title}</text>',
            f'<g transform="translate({left},{HEAD})">',
            *panel,
            f'<rect width="{columns * PX}" height="{rows * PX}" fill="none" stroke="#888888"/>',
            "</g>",
        ]
    return "\n".join([*lines, "</svg>", ""])


def _draw_objects(case: Case) -> tuple[list[str], list[str]]:
    table = contingency(case.truth, case.found)
    faults = find_faults(table, case.ignored)
    kinds = {side: dict.fromkeys(np.unique(getattr(case, side)).tolist(), "found")
             for side in ("truth", "found")}  # fmt: skip
    for kind, side in SIDES.items():
        kinds[side] |= dict.fromkeys(getattr(faults, kind).tolist(), kind)
    # The partners of what is split or merged are neither right nor wrong: they stay without a word.
    for kind, side, other in (("split", "truth", "found"), ("merged", "found", "truth")):
        for i in getattr(faults, kind).tolist():
            partners = getattr(case, other)[getattr(case, side) == i]
            kinds[other] |= dict.fromkeys(np.unique(partners).tolist(), "")
    kinds["found"] |= dict.fromkeys(table.without(case.ignored)[1].tolist(), "")
    kinds["truth"][IGNORED] = "not annotated"
    outlines = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" '
        'stroke="#333333" stroke-dasharray="2 3"/>'
        for _, left, top, width, height in _places(case.truth)
    ]
    return _panel(case.truth, kinds["truth"]), _panel(case.found, kinds["found"], outlines)


def _places(labels: np.ndarray) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield id, left, top, width and height of every box in the drawing."""
    for i in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == i)
        top, left = PX * rows.min(), PX * columns.min()
        yield i, left, top, PX * (columns.max() + 1) - left, PX * (rows.max() + 1) - top


def _panel(labels: np.ndarray, kinds: dict[int, str], over: Sequence[str] = ()) -> list[str]:
    lines, words = [], []
    for i, left, top, width, height in _places(labels):
        fill = "#eeeeee" if i == IGNORED else COLOURS[kinds[i]]
        lines.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="{fill}" '
            f'stroke="#333333" stroke-dasharray="{"3 3" if i == IGNORED else "none"}"/>'
        )
        if kinds[i] and width >= 4 * PX:
            x, y = left + width / 2, top + height / 2 + 4
            size = 12 if width >= 5 * PX else 10
            words.append(
                f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" '
                f'fill="#111111">{kinds[i]}</text>'
            )
    return [*lines, *over, *words]


def _draw_map(case: Case) -> tuple[list[str], list[str]]:
    inside = boundary_truth(components(case.truth))
    cells = case.found
    differ, left = inside != cells, warp(inside, cells) != cells
    marks = _pixels(differ & ~left, "#f0b27a", "circle") + _pixels(left, "#d55e00", "square")
    return _pixels(~inside, "#444444", "fill"), _pixels(~cells, "#444444", "fill") + marks


def _pixels(where: np.ndarray, colour: str, form: str) -> list[str]:
    lines = []
    for y, x in np.argwhere(where).tolist():
        if form == "circle":
            middle = f'cx="{PX * x + PX / 2:g}" cy="{PX * y + PX / 2:g}"'
            lines.append(f'<circle {middle} r="3" fill="{colour}"/>')
        else:
            inset = 2 if form == "square" else 0
            place = f'x="{PX * x + inset}" y="{PX * y + inset}"'
            side = PX - 2 * inset
            lines.append(f'<rect {place} width="{side}" height="{side}" fill="{colour}"/>')
    return lines


def main() -> None:
    """Write the pictures and the page."""
    cases = make_cases()
    FOLDER.mkdir(exist_ok=True)
    for name, case in cases.items():
        (FOLDER / f"{name}.svg").write_text(draw(case), encoding="utf-8")
    PAGE.write_text(fill_in(PAGE.read_text(encoding="utf-8"), cases), encoding="utf-8")


if __name__ == "__main__":
    main()
