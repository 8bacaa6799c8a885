import json

from gigaseg import logs
from gigaseg.stages import forecast

logs.start(snakemake.log[0], "forecast")
print(forecast.run(settings=json.loads(snakemake.params.settings)), flush=True)
