import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import predict

logs.start_script(snakemake)
predict.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    train=[*map(Path, snakemake.input.train)],
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
    opened=len(snakemake.input.parts) > 0,
)
