import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import evaluate

logs.start(snakemake.log[0], "tabulate")
evaluate.tabulate(
    manifest=Path(snakemake.output.manifest),
    evaluate=[Path(path) for path in snakemake.input.evaluate],
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
