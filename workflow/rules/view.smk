# Relative: moving the whole folder changes no input.
viewer = os.path.relpath(f"{workflow.basedir}/resources/report")


# Pages that pan and zoom over image, probabilities and outlines of each sample.
rule view:
    input:
        convert=plan.path("convert"),
        predict=plan.path("predict"),
        split=plan.path("split"),
        page=[f"{viewer}/viewer.{kind}" for kind in ("html.jinja", "css", "js")],
        program=f"{viewer}/vendor/openseadragon.min.js",
    output:
        manifest=plan.path("view"),
    log:
        f"{RESULTS}/logs/view/{{experiment}}/fold-{{fold}}/{{lot}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/view/{{experiment}}/fold-{{fold}}/{{lot}}.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(2000, 240, plan.path("view"), resumes=True),
    params:
        settings=lambda wildcards: plan.job("view", wildcards.lot, model(wildcards)),
        code=code("view"),
    message:
        "Make the viewer of {wildcards.lot} of {wildcards.experiment}, fold {wildcards.fold}"
    script:
        "../scripts/view.py"


rule view_all:
    input:
        plan.manifests("view"),
