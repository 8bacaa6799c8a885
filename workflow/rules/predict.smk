rule predict:
    input:
        convert=plan.path("convert"),
        train=lambda wildcards: plan.models(*model(wildcards)),
        parts=lambda wildcards: plan.parts(wildcards.lot, model(wildcards)),
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
        **asks(8000, 1440, plan.path("predict"), resumes=True),
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


# With prediction.jobs_per_sample above 1: the only job that wipes stores. It settles what is `auto`
# on the node where it runs, which should be of the kind that the parts run on.
rule predict_open:
    input:
        convert=plan.path("convert"),
        train=lambda wildcards: plan.models(*model(wildcards)),
    output:
        manifest=plan.path("predict_open"),
    log:
        f"{RESULTS}/logs/predict_open/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_open/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 30),
    params:
        predict=plan.path("predict"),
        settings=lambda wildcards: plan.job("predict", wildcards.lot, model(wildcards)),
        code=code("predict_open"),
        predict_code=code("predict"),
    message:
        "Open {wildcards.lot} for {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/predict_open.py"


# A consecutive range of the lot's blocks, in a process of its own.
rule predict_part:
    input:
        convert=plan.path("convert"),
        train=lambda wildcards: plan.models(*model(wildcards)),
        open=plan.path("predict_open"),
    output:
        manifest=plan.part(),
    log:
        f"{RESULTS}/logs/predict_part/{{experiment}}/fold-{{fold}}/{{lot}}/{{part}}-of-{{parts}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_part/{{experiment}}/fold-{{fold}}/{{lot}}/{{part}}-of-{{parts}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(8000, 1440, plan.path("predict"), resumes=True),
    params:
        predict=plan.path("predict"),
        settings=lambda wildcards: plan.job("predict", wildcards.lot, model(wildcards)),
        code=code("predict_part"),
        predict_code=code("predict"),
    message:
        "Predict part {wildcards.part} of {wildcards.parts} of {wildcards.lot} with {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/predict_part.py"
