import json


localrules:
    forecast,


# Answers a question, and leaves nothing: without output and benchmark it runs whenever it is asked.
rule forecast:
    log:
        f"{RESULTS}/logs/forecast/forecast.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: plan.forecast(),
        code=code("forecast"),
    message:
        "Forecast what is left"
    script:
        "../scripts/forecast.py"


def foresee(run):
    """Print what a run will take; end it before it begins if that cannot be there."""
    jobs = [job for job in run.dag.needrun_jobs() if job.rule.name != "forecast"]
    if not jobs:
        return
    try:
        from gigaseg.stages.forecast import before_run
    except ModuleNotFoundError as missing:
        print(f"No forecast: Snakemake's own environment has no {missing.name}.")
        print("`snakemake --sdm conda --cores 1 forecast` makes one in the workflow's.")
        return
    todo = (str(path) for job in jobs for path in job.output)
    print(before_run(json.loads(plan.forecast(todo)), local=run.local_exec), flush=True)
