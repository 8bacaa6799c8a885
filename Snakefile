import os
import sys
from copy import deepcopy

from snakemake.utils import min_version

min_version("9.27")

# What the command line brings: an overlay's data sets and experiments replace the default ones.
given = deepcopy(config)


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


# The library is found without installation, here and in every job.
library = f"{workflow.basedir}/workflow"
sys.path.insert(0, library)
inherited = os.environ.get("PYTHONPATH")
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [library, inherited])))
# Threads that wait sleep: on a busy machine, spinning ones slow training down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


chapters = "common raw convert weigh train predict tune split view evaluate audit report forecast"
for chapter in chapters.split():

    include: f"workflow/rules/{chapter}.smk"


rule all:
    default_target: True
    input:
        f"{plan.results}/verdict.json",
        # By name, as Snakemake does not make again what is missing between finished files.
        plan.audited(),


onstart:
    # One run at a time, in place of Snakemake's lock, which outlives a killed run.
    try:
        remember = foresee(workflow)
        lock.hold(plan.results)
        remember()
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))


onsuccess:
    if (page := plan.results / "report" / "report.html").exists():
        print(f"The report is {page}")


onerror:
    explain_failures(workflow)
    print("What is finished stays; the same command goes on from there.")
