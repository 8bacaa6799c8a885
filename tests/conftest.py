import os

from hypothesis import settings

# Threads that wait sleep, as in the workflow: tests share the machine. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples every time: a test fails or passes for everybody. CPU time is no assertion.
settings.register_profile("gigaseg", deadline=None, derandomize=True)
settings.load_profile("gigaseg")
