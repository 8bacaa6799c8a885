import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import view

logs.start_script(snakemake)
view.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    predict=Path(snakemake.input.predict),
    split=Path(snakemake.input.split),
    settings=json.loads(snakemake.params.settings),
    code=snakemake.params.code,
    threads=snakemake.threads,
)
