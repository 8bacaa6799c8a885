# Raw files that the workflow brings itself: drawn (phantom) or downloaded (fetch).


for dataset in plan.phantoms:

    rule:
        name:
            f"phantom_{dataset}"
        output:
            plan.files(dataset),
        log:
            f"{RESULTS}/logs/phantom/{dataset}.log",
        benchmark:
            f"{RESULTS}/benchmarks/phantom/{dataset}.tsv"
        conda:
            "../../environment.yml"
        resources:
            **asks(2000, 30),
        params:
            settings=plan.phantom(dataset),
            code=code("phantom"),
        message:
            f"Draw {dataset}"
        script:
            "../scripts/phantom.py"


rule fetch:
    input:
        registry=lambda wildcards: plan.registry(wildcards.dataset),
    output:
        manifest=f"{RESULTS}/fetch/{{dataset}}.json",
    log:
        f"{RESULTS}/logs/fetch/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch/{{dataset}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(1000, 120),
    params:
        settings=lambda wildcards: plan.fetch(wildcards.dataset),
        code=code("fetch"),
    message:
        "Fetch {wildcards.dataset}"
    script:
        "../scripts/fetch.py"
