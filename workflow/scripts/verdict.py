from pathlib import Path

from gigaseg import logs
from gigaseg.stages import verdict

logs.start_script(snakemake)
verdict.run(
    manifest=Path(snakemake.output.manifest),
    report=Path(snakemake.input.report),
    outcomes=[Path(path) for path in snakemake.input.outcomes],
)
