import json
from pathlib import Path

from gigaseg import attempts, lock, logs
from gigaseg.allocations import Allocations
from gigaseg.plan import load
from gigaseg.provenance import code
from gigaseg.settings import SettingsError

try:
    plan = load(config, given)
except SettingsError as problems:
    sys.exit(str(problems))

if workflow.is_main_process:
    attempts.name_run()
logger.addFilter(logs.shorten)
config.update(plan.settings)  # complete, for the captions of Snakemake's report

RESULTS = plan.results

HIRED = plan.settings["dask"]["workers"]  # of each job of convert and split

asks = Allocations(plan.results, plan.settings["cluster"]["longest"]).asks


# Of the jobs, with --sdm apptainer.
container: plan.settings["container"]


if "apptainer" in map(str, workflow.deployment_settings.deployment_method):
    if not plan.settings["container"]:
        sys.exit(
            "--sdm apptainer needs an image: config, container (docs/containers.md)"
        )


wildcard_constraints:
    lot=r"[^/]+-\d+",
    experiment=r"[^/]+",
    fold=r"\d+|all",
    part=r"\d+",
    parts=r"\d+",


def model(wildcards):
    """Name the model a job belongs to: experiment and fold."""
    return wildcards.experiment, wildcards.fold


def foresee(run):
    """Print what a run will take; end it before it begins if that cannot be there.

    Returns what remembers the forecast, once the results are this run's own.
    """
    plan.check_baseline()
    plan.roster.check()
    jobs = [job for job in run.dag.needrun_jobs() if job.rule.name != "forecast"]
    if not jobs:
        return lambda: None
    try:
        from gigaseg.stages.forecast import before_run, keep
    except ModuleNotFoundError as missing:
        print(f"No forecast: Snakemake's own environment has no {missing.name}.")
        print("`snakemake --sdm conda --cores 1 forecast` makes one in the workflow's.")
        return lambda: None
    todo = (str(path) for job in jobs for path in job.output)
    text, outlook = before_run(json.loads(plan.forecast(todo)), local=run.local_exec)
    if text:
        print(text, flush=True)
    return lambda: keep(outlook, plan.results)


def explain_failures(run):
    """Say in a line for each failed job how it ended, and where its logs are."""
    cluster = Path(
        getattr(run.executor_settings, "logdir", None) or ".snakemake/slurm_logs"
    )
    failed = [
        part for job in run.scheduler.failed for part in getattr(job, "jobs", [job])
    ]
    for job in sorted(failed, key=lambda job: job.jobid):
        if job.log:
            name = " ".join([job.rule.name, *job.wildcards])
            print(
                attempts.tell(Path(job.log[0]), name, os.environ[attempts.RUN], cluster)
            )
