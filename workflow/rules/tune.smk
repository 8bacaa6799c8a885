# For a model whose `instances: tune` is on: the best of a grid of settings, by the score on its own
# validation samples. Split reads what was chosen.
rule tune:
    input:
        convert=lambda wildcards: plan.validated("convert", *model(wildcards)),
        predict=lambda wildcards: plan.validated("predict", *model(wildcards)),
    output:
        manifest=plan.path("tune"),
    log:
        f"{RESULTS}/logs/tune/{{experiment}}/fold-{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune/{{experiment}}/fold-{{fold}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(8000, 480, plan.path("tune")),
    params:
        settings=lambda wildcards: plan.job("tune", model=model(wildcards)),
        code=code("tune"),
    message:
        "Tune the instances of {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/tune.py"


rule tune_all:
    input:
        plan.manifests("tune"),
