import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import report

logs.start_script(snakemake)
report.run(
    manifest=Path(snakemake.output.manifest),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
    results=Path(snakemake.output.manifest).parents[1],
)
