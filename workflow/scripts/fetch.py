import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import fetch

logs.start_script(snakemake)
fetch.run(
    manifest=Path(snakemake.output.manifest),
    registry=Path(snakemake.input.registry),
    settings=json.loads(snakemake.params.settings),
)
