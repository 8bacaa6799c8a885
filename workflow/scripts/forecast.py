import json

from gigaseg import logs
from gigaseg.stages import forecast

logs.start_script(snakemake)
print(forecast.run(settings=json.loads(snakemake.params.settings)), flush=True)
