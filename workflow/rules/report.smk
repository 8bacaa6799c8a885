localrules:
    verdict,


# Relative: moving the whole folder changes no input.
templates = os.path.relpath(f"{workflow.basedir}/resources/report")


rule report:
    input:
        scores=rules.tabulate.output.manifest,
        train=plan.manifests("train"),
        outcomes=plan.outcomes(),
        audit=rules.audit.output.manifest,
        page=[
            f"{templates}/{name}"
            for name in (
                "report.html.jinja",
                "experiments.html.jinja",
                "baseline.html.jinja",
                "tuning.html.jinja",
                "models.html.jinja",
                "crossed.html.jinja",
                "report.css",
                "report.js",
            )
        ],
        # Read only, and not waited for: the report says so if it is gone.
        baseline=plan.baseline(),
    output:
        manifest=f"{RESULTS}/report/report.json",
        html=report(
            f"{RESULTS}/report/report.html",
            caption="../report/report.rst",
            category="Segmentation",
        ),
        # All of them, always: Snakemake overlooks edited settings where an output is missing.
        tables=[
            report(
                f"{RESULTS}/report/tables/{name}.csv",
                caption=f"../report/{name}.rst",
                category="Segmentation",
            )
            for name in ("experiments", "differences", "baseline", "changes")
        ],
        figures=report(
            directory(f"{RESULTS}/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/report/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/report.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        **asks(4000, 60),
    params:
        settings=plan.report(),
        code=code("report"),
    message:
        "Write the report"
    script:
        "../scripts/report.py"


# Fails, and names them, if any sample failed anywhere: the others have been finished by then.
rule verdict:
    input:
        report=rules.report.output.manifest,
        outcomes=plan.outcomes(),
        audit=rules.audit.output.manifest,
    output:
        manifest=f"{RESULTS}/verdict.json",
    log:
        f"{RESULTS}/logs/verdict/verdict.log",
    benchmark:
        f"{RESULTS}/benchmarks/verdict/verdict.tsv"
    retries: 0  # the answer stays the same
    conda:
        "../../environment.yml"
    resources:
        **asks(500, 10),
    params:
        settings=plan.verdict(),
        code=code("verdict"),
    message:
        "Look for failed samples"
    script:
        "../scripts/verdict.py"
