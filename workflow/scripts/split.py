import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import split

logs.start_script(snakemake)
split.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    predict=Path(snakemake.input.predict),
    tune=next(map(Path, snakemake.input.tune), None),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
    scheduler=snakemake.config["dask"]["scheduler_address"],
)
