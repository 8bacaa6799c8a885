localrules:
    forecast,


# Answers a question, and leaves nothing: without output and benchmark it runs whenever it is asked.
rule forecast:
    log:
        f"{RESULTS}/logs/forecast/forecast.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: plan.forecast(),
        code=code("forecast"),
    message:
        "Forecast what is left"
    script:
        "../scripts/forecast.py"
