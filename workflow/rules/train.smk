rule train:
    input:
        weigh=lambda wildcards: plan.weighed(*model(wildcards)),
        start=lambda wildcards: plan.roster.starts(wildcards.experiment),
    output:
        manifest=plan.path("train"),
    log:
        f"{RESULTS}/logs/train/{{experiment}}/fold-{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{experiment}}/fold-{{fold}}.tsv"
    conda:
        "../../environment.yml"
    # The number of threads changes the last bits of a model, so it is one of the settings.
    threads: lambda wildcards: plan.training(wildcards.experiment)["threads"]
    resources:
        **asks(8000, 1440, plan.path("train"), resumes=True),
        # No more than there are: Snakemake lowers it to what --resources says.
        gpu=lambda wildcards: plan.training(wildcards.experiment)["processes"],
        nodes=1,
    params:
        settings=lambda wildcards: plan.job("train", model=model(wildcards)),
        code=code("train"),
    message:
        "Train {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/train.py"


rule train_all:
    input:
        plan.manifests("train"),
