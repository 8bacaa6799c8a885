"""What is to be done: which job reads and writes which files, and what it is told."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import grids, samples
from .briefs import PLACES, ROW, SECTIONS, UNTOLD, part_instances
from .folds import ALL
from .ledger import canonical_json
from .provenance import code
from .roster import Roster, check_roles
from .samples import Sample
from .settings import SettingsError, changes, resolve

LOT_STAGES = ("convert", "weigh")  # once per lot
MODEL_STAGES = ("predict", "split", "evaluate", "audit_seams", "view")  # once per lot and model

FOLDERS = {"audit_seams": "audit"}  # where they are not called like the stage


def load(config: Mapping[str, Any], given: Mapping[str, Any]) -> "Plan":
    """Read the settings and the sheet they name, and check them.

    Parameters
    ----------
    config, given : mapping
        As for `gigaseg.settings.resolve`.

    Raises
    ------
    SettingsError
        With everything that is wrong.
    """
    settings, problems = resolve(config, given)
    rows: list[Sample] = []
    if settings["samples"]:
        rows, found = samples.read_sheet(Path(settings["samples"]))
        whole = not found  # rows at fault are left out, and nobody knows what they stand for
        problems += [*found, *samples.check(rows, settings, settings["samples"])]
        problems += check_roles(settings, rows) if whole else []
    if problems:
        raise SettingsError(problems)
    return Plan(settings, rows)


class Plan:
    """The jobs of a run.

    Parameters
    ----------
    settings : mapping
        Complete settings, as `gigaseg.settings.resolve` makes them.
    rows : list of Sample
        The sheet.
    """

    def __init__(self, settings: Mapping[str, Any], rows: Iterable[Sample]) -> None:
        self.settings = settings
        self.rows = list(rows)
        self.results = Path(settings["results"])
        self.lots = samples.cut_into_lots(self.rows, settings["datasets"])
        self.roster = Roster(settings["experiments"], self.rows)

    @cached_property
    def _model_stages(self) -> list[str]:
        """The stages of each model that are wanted."""
        unwanted = {"view"} if self.settings["view"]["samples"] == "none" else set()
        return [stage for stage in MODEL_STAGES if stage not in unwanted]

    @cached_property
    def _lot_of(self) -> dict[Sample, str]:
        return {row: lot for lot, rows in self.lots.items() for row in rows}

    # ------------------------------------------------------------------------------------- files

    def path(self, stage: str, lot: str = "{lot}", model: tuple[str, Any] | None = None) -> str:
        """Return where a job leaves its manifest; by default a pattern of all of a stage.

        Parameters
        ----------
        stage, lot : str
        model : (experiment, fold), optional
            For the stages that belong to a model; the default is a pattern.
        """
        experiment, fold = model or ("{experiment}", "{fold}")
        if stage in LOT_STAGES:
            return f"{self.results}/{stage}/{lot}.json"
        if stage in (*MODEL_STAGES, "predict_open"):
            folder = FOLDERS.get(stage, stage)
            return f"{self.results}/{folder}/{experiment}/fold-{fold}/{lot}.json"
        if stage in ("train", "tune"):
            return f"{self.results}/{stage}/{experiment}/fold-{fold}.json"
        raise KeyError(stage)

    def manifests(self, stage: str) -> list[str]:
        """List the manifests of all jobs of a stage."""
        if stage == "convert":
            return [self.path(stage, lot) for lot in self.lots]
        if stage == "weigh":
            found = (
                path for name, fold in self.roster.trained for path in self.weighed(name, fold)
            )
            return list(dict.fromkeys(found))
        if stage == "train":
            return [self.path(stage, model=model) for model in self.roster.trained]
        if stage == "tune":
            return [path for model in self.roster.roles for path in self.tuned(*model)]
        if stage not in self._model_stages:
            return []
        return [
            self.path(stage, lot, model)
            for model, roles in self.roster.roles.items()
            for lot in self._lots_of(row for row in roles if _concerns(stage, row))
        ]

    def parts(self, lot: str, model: tuple[str, Any]) -> list[str]:
        """List the manifests of the jobs among which a lot's prediction is divided, if any."""
        count = self.settings["experiments"][model[0]]["prediction"]["jobs_per_sample"]
        if count == 1:
            return []
        return [self.part(lot, model, (part, count)) for part in range(1, count + 1)]

    def part(
        self,
        lot: str = "{lot}",
        model: tuple[str, Any] = ("{experiment}", "{fold}"),
        part: tuple[Any, Any] = ("{part}", "{parts}"),
    ) -> str:
        """Return where one of these jobs leaves its manifest; by default a pattern of all."""
        folder = f"{self.results}/predict_part/{model[0]}/fold-{model[1]}/{lot}"
        return f"{folder}/{part[0]}-of-{part[1]}.json"

    def models(self, experiment: str, fold: Any) -> list[str]:
        """List the models that predict together, one or an ensemble: manifests or model files."""
        trained = (
            self.path("train", model=(experiment, k)) for k in self.roster.members(experiment, fold)
        )
        return self.roster.brought.get(experiment) or list(trained)

    def weighed(self, experiment: str, fold: Any) -> list[str]:
        """List the weigh manifests that a model's training reads."""
        taught = self.roster.folds[experiment][int(fold)].taught
        return sorted(self.path("weigh", lot) for lot in self._lots_of(taught))

    def tuned(self, experiment: str, fold: Any) -> list[str]:
        """List the manifest that says what was chosen for a model's instances, if any is."""
        tried = grids.grid_of(self.settings["experiments"][experiment]["instances"])
        return [self.path("tune", model=(experiment, fold))] if tried else []

    def validated(self, stage: str, experiment: str, fold: Any) -> list[str]:
        """List the manifests of a stage that hold the samples a model's instances are tuned on."""
        paths = (
            self.path(stage, lot, (experiment, k))
            for k in self.roster.judges(experiment, fold)
            for lot in self._lots_of(self.roster.folds[experiment][k].validation)
        )
        return sorted(set(paths))

    def raw(self, lot: str) -> list[str]:
        """List the raw files of a lot, or the manifest that says they are fetched."""
        dataset = self.lots[lot][0].dataset
        if self.settings["datasets"][dataset]["registry"]:
            return [f"{self.results}/fetch/{dataset}.json"]
        cells = (cell for row in self.lots[lot] for cell in self._cells(row))
        return list(dict.fromkeys(str(file) for cell in cells for file in samples.files(cell)))

    @property
    def phantoms(self) -> list[str]:
        """Name the data sets that are drawn."""
        return [name for name, facts in self.settings["datasets"].items() if facts["phantom"]]

    def registry(self, dataset: str) -> str:
        """Return the table that says where the files of a data set come from."""
        return self.settings["datasets"][dataset]["registry"]

    def training(self, experiment: str) -> dict[str, int]:
        """Return the processes of an experiment's training, and the threads of all of them."""
        training = self.settings["experiments"][experiment]["training"]
        processes = training["processes"]
        return {"processes": processes, "threads": training["threads"] * processes}

    def outcomes(self) -> list[str]:
        """List every manifest that says what became of samples."""
        stages = (*LOT_STAGES, *MODEL_STAGES, "tune")
        return [path for stage in stages for path in self.manifests(stage)]

    def files(self, dataset: str) -> list[str]:
        """List the image and label files that the sheet names for a data set, once each."""
        rows = (row for row in self.rows if row.dataset == dataset)
        return list(dict.fromkeys(str(cell) for row in rows for cell in self._cells(row)))

    def _cells(self, row: Sample) -> list[Path]:
        root = Path(self.settings["data_root"])
        return [root / cell for cell in (row.image, row.label) if cell]

    def _lots_of(self, rows: Iterable[Sample]) -> list[str]:
        return list(dict.fromkeys(self._lot_of[row] for row in rows))

    # ---------------------------------------------------------------------------------- settings

    def job(self, stage: str, lot: str = "", model: tuple[str, Any] | None = None) -> str:
        """Return everything a job is told, as canonical JSON.

        Equal settings give equal texts whatever the order of keys or the spelling of numbers, so
        Snakemake reruns a job exactly when something that it uses has changed.
        """
        experiment = self.settings["experiments"][model[0]] if model else {}
        told: dict[str, Any] = {
            key: experiment.get(key, self.settings.get(key)) for key in SECTIONS[stage]
        }
        for section in UNTOLD.keys() & told.keys():
            told[section] = {k: v for k, v in told[section].items() if k not in UNTOLD[section]}
        told |= part_instances(stage, told["instances"]) if "instances" in told else {}
        if model:
            told |= {"experiment": model[0], "fold": _fold(model[1])}
            told |= self.roster.lesson(*model) if stage == "train" else {}
        if model and stage == "tune":
            told["samples"] = [self._row(row) for row in self.roster.judging(*model)]
        if lot:
            told |= {"lot": lot, "samples": self._told(stage, lot, model)}
        return canonical_json(told)

    def phantom(self, dataset: str) -> str:
        """Return the settings of the job that draws a data set."""
        rows = [self._row(row) for row in self.rows if row.dataset == dataset]
        drawn = self.settings["datasets"][dataset]["phantom"]
        return canonical_json({"dataset": dataset, "phantom": drawn, "samples": rows})

    def fetch(self, dataset: str) -> str:
        """Return the settings of the job that downloads a data set."""
        root = Path(self.settings["data_root"])
        files = [Path(file).relative_to(root).as_posix() for file in self.files(dataset)]
        told = {"dataset": dataset, "data_root": str(root), "files": files}
        return canonical_json(told)

    def tabulate(self) -> str:
        """Return the settings of the job that joins all scores."""
        return canonical_json({"evaluate": self.manifests("evaluate")})

    def audit(self) -> str:
        """Return what the audit is told: what each manifest must say, and what its job read."""
        return self._audit

    def audited(self) -> str:
        """Return where the audit leaves its manifest: another place after any edit.

        So it runs after an edit even where Snakemake's own records are lost.
        """
        return f"{self.results}/audit/{_digest(self._audit)}.json"

    @cached_property
    def _audit(self) -> str:
        jobs = [
            {"stage": job["stage"], "output": job["outputs"][0], "inputs": job["inputs"]}
            | job["stamp"]
            for job in self._jobs()
        ]
        scores = {"stage": "tabulate", "output": f"{self.results}/evaluate/scores.json"}
        jobs.append(scores | {"inputs": [], **_stamp("tabulate", self.tabulate())})
        brought = {path for paths in self.roster.brought.values() for path in paths}
        return canonical_json({"jobs": jobs, "models": sorted(brought)})

    def report(self) -> str:
        """Return the settings of the report: those of the whole run, and the results it shows."""
        paths = sorted(map(Path, self.outcomes() + self.manifests("train")))
        shown = {key: self.settings[key] for key in self.settings if key not in PLACES}
        told = {
            "config": shown,
            "changes": changes(shown),
            "manifests": [path.relative_to(self.results).as_posix() for path in paths],
            "models": self.roster.brought,
        }
        return canonical_json({**self.settings["report"], **told})

    def baseline(self) -> list[str]:
        """Return the scores of the run to compare with; none if it is not there (any more)."""
        folder = self.settings["evaluation"]["baseline"]
        path = Path(folder or "") / "evaluate" / "scores.parquet"
        return [str(path)] if folder and path.is_file() else []

    def check_baseline(self) -> None:
        """Raise FileNotFoundError if there is nothing to compare with where the settings say so."""
        folder = self.settings["evaluation"]["baseline"]
        if folder and not self.baseline():
            what = "no evaluate/scores.parquet" if Path(folder).is_dir() else "no such folder"
            raise FileNotFoundError(
                f"evaluation.baseline: {folder} cannot be compared with: there is {what}. It must "
                "be the results folder of an earlier run; null compares with none."
            )

    def verdict(self) -> str:
        """Return the settings of the last job, which looks for failed samples."""
        return canonical_json({"outcomes": self.outcomes()})

    def forecast(self, todo: Iterable[str] | None = None) -> str:
        """Return what the forecast is told: all settings, samples and jobs, in order of stages.

        Parameters
        ----------
        todo : iterable of str, optional
            Outputs of the jobs that Snakemake will run; by default the forecast finds out.
        """
        told = {
            "config": self.settings,
            "samples": {_name(row): self._row(row) for row in self.rows},
            "jobs": [*self._sources(), *self._jobs()],
            "todo": None if todo is None else sorted(todo),
        }
        return canonical_json(told)

    def _sources(self) -> Iterator[dict[str, Any]]:
        """Describe the jobs that bring raw files."""
        for dataset, facts in self.settings["datasets"].items():
            if not samples.is_made(facts):
                continue
            drawn, manifest = bool(facts["phantom"]), f"{self.results}/fetch/{dataset}.json"
            yield {
                "stage": "phantom" if drawn else "fetch",
                "outputs": self.files(dataset) if drawn else [manifest],
                "samples": [_name(row) for row in self.rows if row.dataset == dataset],
            }

    def _jobs(self) -> Iterator[dict[str, Any]]:
        """Describe the jobs of the stages."""
        weighed = set(self.manifests("weigh"))
        for stage in LOT_STAGES:
            for lot in self.lots:
                if stage != "weigh" or self.path(stage, lot) in weighed:
                    yield self._job(stage, lot, None, self._members(stage, lot, None))
        for name, folds in self.roster.folds.items():
            mine = {model: roles for model, roles in self.roster.roles.items() if model[0] == name}
            for model in self.roster.trained:
                if model[0] == name:
                    yield self._job("train", "", model, folds[model[1]].taught)
            # Stage by stage, as tuning reads what the models of other folds have predicted.
            for stage in self._model_stages:
                for model in mine if stage == "split" and self.tuned(name, ALL) else ():
                    yield self._job("tune", "", model, self.roster.judging(*model))
                for model, roles in mine.items():
                    for lot in self._lots_of(row for row in roles if _concerns(stage, row)):
                        yield self._job(stage, lot, model, self._members(stage, lot, model))

    def _job(
        self, stage: str, lot: str, model: tuple[str, Any] | None, rows: Iterable[Sample]
    ) -> dict[str, Any]:
        told = self.job(stage, lot, model)
        return {
            "stage": stage,
            "outputs": [self.path(stage, lot, model)],
            "samples": [_name(row) for row in rows],
            "inputs": self._inputs(stage, lot, model),
            "experiment": model[0] if model else None,
            # What the manifest carries if it is up to date.
            "stamp": _stamp(stage, told),
        }

    def _inputs(self, stage: str, lot: str, model: tuple[str, Any] | None) -> list[str]:
        """List the manifests that a job reads."""
        match stage:
            case "convert":
                return []
            case "weigh":
                return [self.path("convert", lot)]
            case "train":
                return self.weighed(*(model or ()))
            case "predict":
                return [self.path("convert", lot), *self.models(*(model or ()))]
            case "audit_seams":
                predicted = self.path("predict", lot, model)
                return [*self._inputs("predict", lot, model), predicted]
            case "view":
                drawn = (self.path(s, lot, model) for s in ("predict", "split"))
                return [self.path("convert", lot), *drawn]
            case "tune":
                return [
                    p for s in ("convert", "predict") for p in self.validated(s, *(model or ()))
                ]
        earlier = MODEL_STAGES[: MODEL_STAGES.index(stage)]
        choice = self.tuned(*(model or ())) if stage == "split" else []
        return [self.path("convert", lot), *(self.path(s, lot, model) for s in earlier), *choice]

    def _told(self, stage: str, lot: str, model: tuple[str, Any] | None) -> list[dict[str, Any]]:
        return [self._row(row) for row in self._members(stage, lot, model)]

    def _members(self, stage: str, lot: str, model: tuple[str, Any] | None) -> list[Sample]:
        roles = (
            self.roster.roles[model[0], _fold(model[1])]
            if model
            else {r: r for r in self.lots[lot]}
        )
        rows = (roles[row] for row in self.lots[lot] if row in roles)
        return [row for row in rows if _concerns(stage, row)]

    def _row(self, row: Sample) -> dict[str, Any]:
        dataset, root = self.settings["datasets"][row.dataset], Path(self.settings["data_root"])
        return {
            "sample": row.sample,
            "dataset": row.dataset,
            "split": row.split,
            "image": str(root / row.image),
            "label": str(root / row.label) if row.label else None,
            "planes": row.cut,
            **{key: dataset[key] for key in ROW},
        }


def _fold(fold: Any) -> int | str:
    """Return the number of a fold from how a path names it."""
    return ALL if fold == ALL else int(fold)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _stamp(stage: str, told: str) -> dict[str, str]:
    """Return what a job's manifest says of the settings and the code it was made with."""
    return {"settings": _digest(told), "code": code(stage)}


def _name(row: Sample) -> str:
    return f"{row.dataset}/{row.sample}"


def _concerns(stage: str, row: Sample) -> bool:
    """Say whether a stage has work with a sample."""
    match stage:
        case "weigh":
            return row.split != "test"
        case "evaluate":
            return bool(row.label)
        case _:
            return True
