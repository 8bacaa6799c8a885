import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import audit

logs.start_script(snakemake)
audit.run(
    manifest=Path(snakemake.output.manifest),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
