# A few windows over seams of the stored probabilities, predicted again by tiles that start elsewhere.
rule audit_seams:
    input:
        convert=plan.path("convert"),
        predict=plan.path("predict"),
        train=lambda wildcards: plan.models(*model(wildcards)),
    output:
        manifest=plan.path("audit_seams"),
    log:
        f"{RESULTS}/logs/audit_seams/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_seams/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(8000, 60, plan.path("audit_seams")),
    params:
        settings=lambda wildcards: plan.job(
            "audit_seams", wildcards.lot, model(wildcards)
        ),
        code=code("audit_seams"),
    message:
        "Audit seams of {wildcards.lot} of {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/audit_seams.py"


# Whether all results are what the settings and the code make now. The name of the output is that of
# the settings and the code, so that this runs after any edit, whatever Snakemake remembers.
rule audit:
    input:
        outcomes=plan.outcomes(),
        train=plan.manifests("train"),
        scores=rules.tabulate.output.manifest,
    output:
        manifest=plan.audited(),
    log:
        f"{RESULTS}/logs/audit/audit.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit/audit.tsv"
    retries: 0  # the answer stays the same
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(1000, 60),
    params:
        settings=plan.audit(),
        code=code("audit"),
    message:
        "Compare all results with the settings and the code"
    script:
        "../scripts/audit.py"


rule audit_seams_all:
    input:
        plan.manifests("audit_seams"),
