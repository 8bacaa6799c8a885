"""What a job is told of the settings: what decides its result, and nothing else."""

from collections.abc import Mapping
from typing import Any

from . import grids

# Sections of the settings that decide the result of a stage. A job is told these and no others, so
# that an edit elsewhere leaves it alone. Those in `settings.PER_EXPERIMENT`, and the target, are
# the experiment's own.
SECTIONS = {
    "convert": ("storage",),
    "weigh": ("storage", "weights"),
    "train": ("target", "network", "training", "intensity"),
    "predict": ("prediction", "storage"),
    "tune": ("instances", "target"),
    "split": ("instances", "storage", "target"),
    "evaluate": ("evaluation", "target", "weights"),
    "audit_seams": ("audit", "prediction", "storage"),
    "view": ("view",),
}

# How many jobs share a prediction never changes it, which models predict is seen from what a job
# reads, and what to compare with changes no score: the jobs are not told.
UNTOLD = {"prediction": {"jobs_per_sample", "ensemble"}, "evaluation": {"baseline"}}

# Sections that say where and by whom the work is done: no result shows which.
PLACES = {"cluster", "container", "dask"}

# What a data set says of each of its samples.
ROW = ("labels", "objects", "channels", "spacing", "ignore_label")


def part_instances(stage: str, instances: Mapping[str, Any]) -> dict[str, Any]:
    """Tell tune what to try, and split nothing of that: it reads what was chosen."""
    grid = grids.grid_of(instances)
    kept = {k: v for k, v in instances.items() if k != "tune" and k not in grid}
    if stage != "tune":
        return {"instances": kept}
    return {"instances": kept, "tune": {**instances["tune"], "grid": grid}}
