import logging
import os
import re

import pytest
from hypothesis import settings

# Threads that wait sleep, as in the workflow: tests share the machine. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples every time: a test fails or passes for everybody. CPU time is no assertion.
settings.register_profile("gigaseg", deadline=None, derandomize=True)
settings.load_profile("gigaseg")


@pytest.fixture
def paced(monkeypatch, caplog):
    """Make every line on how far a work is due; return them, without speed and time."""
    monkeypatch.setattr("gigaseg.pace.FIRST", 0.0)
    monkeypatch.setattr("gigaseg.pace.EVERY", 0.0)
    caplog.set_level(logging.INFO, logger="gigaseg.pace")

    def lines():
        records = [record for record in caplog.records if record.name == "gigaseg.pace"]
        return [
            re.sub(r"(,| in) [\d.e+-]+ (s|min|h|\S+/s)\b.*", "", record.getMessage())
            for record in records
        ]

    return lines
