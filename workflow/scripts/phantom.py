import json
from pathlib import Path

from gigaseg import logs
from gigaseg.stages import phantom

logs.start_script(snakemake)
phantom.run(
    outputs=[Path(path) for path in snakemake.output],
    settings=json.loads(snakemake.params.settings),
)
