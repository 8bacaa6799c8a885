import json
from pathlib import Path

from gigaseg import logs, workers
from gigaseg.stages import split

logs.start_script(snakemake)
own = snakemake.config["dask"], snakemake.threads, snakemake.resources, snakemake.log[0]
with workers.hire(*own) as scheduler:
    split.run(
        manifest=Path(snakemake.output.manifest),
        convert=Path(snakemake.input.convert),
        predict=Path(snakemake.input.predict),
        tune=next(map(Path, snakemake.input.tune), None),
        settings=json.loads(snakemake.params.settings),
        code=snakemake.params.code,
        threads=snakemake.threads,
        scheduler=scheduler,
    )
