rule evaluate:
    input:
        convert=plan.path("convert"),
        predict=plan.path("predict"),
        split=plan.path("split"),
    output:
        manifest=plan.path("evaluate"),
    log:
        f"{RESULTS}/logs/evaluate/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(8000, 480, plan.path("evaluate")),
    params:
        settings=lambda wildcards: plan.job("evaluate", wildcards.lot, model(wildcards)),
        code=code("evaluate"),
    message:
        "Evaluate {wildcards.lot} of {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/evaluate.py"


rule evaluate_all:
    input:
        plan.manifests("evaluate"),


# One table of all scores: per sample, pooled and mean, experiments side by side.
rule tabulate:
    input:
        evaluate=plan.manifests("evaluate"),
    output:
        manifest=f"{RESULTS}/evaluate/scores.json",
        table=report(
            f"{RESULTS}/evaluate/scores.csv",
            caption="../report/scores.rst",
            category="Segmentation",
        ),
    log:
        f"{RESULTS}/logs/tabulate/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/tabulate/scores.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(2000, 30),
    params:
        settings=plan.tabulate(),
        code=code("tabulate"),
    message:
        "Tabulate the scores"
    script:
        "../scripts/tabulate.py"
