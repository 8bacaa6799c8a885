import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import tabulate

logs.start_script(snakemake)
tabulate.run(
    manifest=Path(snakemake.output.manifest),
    evaluate=[Path(path) for path in snakemake.input.evaluate],
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
