import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import weigh

logs.start_script(snakemake)
weigh.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
