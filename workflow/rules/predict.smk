rule predict:
    input:
        convert=plan.path("convert"),
        train=plan.path("train"),
    output:
        manifest=plan.path("predict"),
    log:
        f"{RESULTS}/logs/predict/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        settings=lambda wildcards: plan.job("predict", wildcards.lot, model(wildcards)),
        code=code("predict"),
    message:
        "Predict {wildcards.lot} with {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/predict.py"


rule predict_all:
    input:
        plan.manifests("predict"),
