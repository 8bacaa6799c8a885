import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import convert

logs.start_script(snakemake)
convert.run(
    manifest=Path(snakemake.output.manifest),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
    scheduler=snakemake.config["dask"]["scheduler_address"],
)
