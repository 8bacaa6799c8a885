import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import predict_open

logs.start_script(snakemake)
predict_open.run(
    manifest=Path(snakemake.output.manifest),
    convert=Path(snakemake.input.convert),
    train=[*map(Path, snakemake.input.train)],
    predict=Path(snakemake.params.predict),
    settings=json.loads(snakemake.params.settings),
    codes=(snakemake.params.code, snakemake.params.predict_code),
)
