rule split:
    input:
        convert=plan.path("convert"),
        predict=plan.path("predict"),
        tune=lambda wildcards: plan.tuned(*model(wildcards)),
    output:
        manifest=plan.path("split"),
    log:
        f"{RESULTS}/logs/split/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/split/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(8000 * (1 + HIRED), 480, plan.path("split"), resumes=True),
        tasks=max(HIRED, 1),
    params:
        settings=lambda wildcards: plan.job("split", wildcards.lot, model(wildcards)),
        code=code("split"),
    message:
        "Split {wildcards.lot} of {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/split.py"


rule split_all:
    input:
        plan.manifests("split"),
