import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import audit_seams

logs.start_script(snakemake)
audit_seams.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    predict=Path(snakemake.input.predict),
    train=[*map(Path, snakemake.input.train)],
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
)
