"""The page that explains the numbers says what the code gives now."""

import importlib.util
import re
from pathlib import Path

import pytest
from gigaseg.glossary import METRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
AGAIN = "run `python docs/images/metrics.py` and look at what it changed"


@pytest.fixture(scope="module")
def maker():
    """Import the script that makes the page's pictures and numbers."""
    path = ROOT / "docs" / "images" / "metrics.py"
    spec = importlib.util.spec_from_file_location("metrics_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_number_of_the_page_is_what_the_code_gives(maker):
    assert len(maker.NUMBER.findall(PAGE)) >= 30
    assert maker.fill_in(PAGE, maker.make_cases()) == PAGE, AGAIN
    # A comment that is no number of a case would never be checked.
    assert len(re.findall("<!--", PAGE)) == len(maker.NUMBER.findall(PAGE))


def test_a_wrong_number_is_put_right(maker):
    wrong = PAGE.replace("0.33<!--scene f1@0.5-->", "0.99<!--scene f1@0.5-->")
    assert wrong != PAGE
    assert maker.fill_in(wrong, maker.make_cases()) == PAGE


def test_the_pictures_are_those_of_the_cases(maker):
    cases = maker.make_cases()
    folder = ROOT / "docs" / "images" / "metrics"
    assert {path.stem for path in folder.iterdir()} == cases.keys()
    for name, case in cases.items():
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == maker.draw(case), AGAIN
        assert f"(images/metrics/{name}.svg)" in PAGE


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_every_metric_of_the_report_is_explained(metric):
    arrow = {"higher": "↑", "lower": "↓"}[metric.better]
    assert f"- **{metric.title}** {arrow} " in PAGE
    assert f"## {metric.group.partition(',')[0]}\n" in PAGE


def test_sources_are_numbered_and_cited():
    listed = re.findall(r"^(\d+)\. .*", PAGE.partition("## References")[2], re.MULTILINE)
    cited = set(re.findall(r"\[(\d)\]", PAGE.partition("## References")[0]))
    assert cited == set(listed)
