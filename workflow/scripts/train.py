import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import train

logs.start_script(snakemake)
train.run(
    manifest=Path(snakemake.output.manifest),
    weigh=[Path(path) for path in snakemake.input.weigh],
    start=next(map(Path, snakemake.input.start), None),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
    nodes=snakemake.resources.nodes,
)
