import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import tune

logs.start_script(snakemake)
tune.run(
    manifest=Path(snakemake.output.manifest),
    convert=[*map(Path, snakemake.input.convert)],
    predict=[*map(Path, snakemake.input.predict)],
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
