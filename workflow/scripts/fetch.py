import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import fetch

logs.start(snakemake.log[0], f"fetch {snakemake.wildcards.dataset}")
fetch.run(
    manifest=Path(snakemake.output.manifest),
    registry=Path(snakemake.input.registry),
    settings=json.loads(snakemake.params.settings),
)
