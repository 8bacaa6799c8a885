from hypothesis import settings

# The same examples every time: a test fails or passes for everybody. CPU time is no assertion.
settings.register_profile("gigaseg", deadline=None, derandomize=True)
settings.load_profile("gigaseg")
