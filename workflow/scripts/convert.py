import json
from pathlib import Path

from gigaseg import logs, workers
from gigaseg.stages import convert

logs.start_script(snakemake)
own = snakemake.config["dask"], snakemake.threads, snakemake.resources, snakemake.log[0]
with workers.hire(*own) as scheduler:
    convert.run(
        manifest=Path(snakemake.output.manifest),
        settings=json.loads(snakemake.params.settings),
        code=snakemake.params.code,
        threads=snakemake.threads,
        scheduler=scheduler,
    )
