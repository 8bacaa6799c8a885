rule weigh:
    input:
        convert=plan.path("convert"),
    output:
        manifest=plan.path("weigh"),
    log:
        f"{RESULTS}/logs/weigh/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/weigh/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(4000, 240, plan.path("weigh"), resumes=True),
    params:
        settings=lambda wildcards: plan.job("weigh", wildcards.lot),
        code=code("weigh"),
    message:
        "Weigh {wildcards.lot}"
    script:
        "../scripts/weigh.py"


rule weigh_all:
    input:
        plan.manifests("weigh"),
