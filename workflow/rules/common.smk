from gigaseg import lock
from gigaseg.plan import load
from gigaseg.provenance import code
from gigaseg.settings import SettingsError

try:
    plan = load(config, given)
except SettingsError as problems:
    sys.exit(str(problems))

config.update(plan.settings)  # complete, for the captions of Snakemake's report

RESULTS = plan.results


wildcard_constraints:
    lot=r"[^/]+-\d+",
    experiment=r"[^/]+",
    fold=r"\d+",
    part=r"\d+",
    parts=r"\d+",


def model(wildcards):
    """Name the model a job belongs to: experiment and fold."""
    return wildcards.experiment, wildcards.fold
