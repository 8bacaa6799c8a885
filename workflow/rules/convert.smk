rule convert:
    input:
        raw=lambda wildcards: plan.raw(wildcards.lot),
    output:
        manifest=plan.path("convert"),
    log:
        f"{RESULTS}/logs/convert/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/convert/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(4000 * (1 + HIRED), 240, plan.path("convert"), resumes=True),
        tasks=max(HIRED, 1),
    params:
        settings=lambda wildcards: plan.job("convert", wildcards.lot),
        code=code("convert"),
    message:
        "Convert {wildcards.lot}"
    script:
        "../scripts/convert.py"


rule convert_all:
    input:
        plan.manifests("convert"),
