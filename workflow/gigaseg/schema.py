"""The schema of the config and the sheet, and what it finds wrong, in words users understand."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMAS = Path(__file__).parents[1] / "schemas"

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where: the keys that lead to it, or a row of the sheet."""

    where: Path_
    text: str

    def __str__(self) -> str:
        return f"{'.'.join(self.where)}: {self.text}" if self.where else self.text


@cache
def read_schema(name: str) -> dict[str, Any]:
    """Read a schema of ``workflow/schemas`` by name, ``config`` or ``samples``."""
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))


def follow(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace a reference by the definition it names, keeping the keys beside it."""
    if "$ref" not in schema:
        return schema
    definition = read_schema("config")["$defs"][schema["$ref"].rpartition("/")[2]]
    return {**definition, **{key: item for key, item in schema.items() if key != "$ref"}}


def validate(value: Any, schema: Mapping[str, Any]) -> list[Problem]:
    """List what a schema finds wrong, in words a user of the config file understands."""
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(value), key=lambda error: [*map(str, error.path)])
    found = [problem for error in errors for problem in _translate(error)]
    return found + list(_infinite(value))


def _infinite(value: Any, where: Path_ = ()) -> Iterator[Problem]:
    """Find what YAML writes .nan and .inf: a schema takes them for numbers within any limits."""
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(where, f"{value} is not a finite number")
    items = value.items() if isinstance(value, Mapping) else ()
    for key, item in items:
        yield from _infinite(item, (*where, str(key)))


def _translate(error: jsonschema.ValidationError) -> Iterator[Problem]:
    where = tuple(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for key in error.instance.keys() - known.keys():
            yield Problem((*where, str(key)), f"unknown key{nearest(str(key), known)}")
    elif error.validator == "pattern" and error.validator_value == NAME_PATTERN:
        yield Problem((*where, str(error.instance)), SAFE_NAME)
    else:
        about = error.schema.get("description")
        text = f"{_complaint(error)}{_hint(error)}"
        yield Problem(where, f"{text} ({about})" if about else text)


NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of the schemas
SAFE_NAME = (
    "not safe as a file name: use letters, digits, '.', '_' and '-', and begin with a letter or "
    "a digit"
)

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section of keys",
    "null": "null",
}


def _complaint(error: jsonschema.ValidationError) -> str:
    value, limit = _shown(error.instance), error.validator_value
    match error.validator:
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            return f"{value} is not {' or '.join(_KINDS[kind] for kind in kinds)}"
        case "enum":
            return f"{value} is not one of {', '.join(map(str, limit))}"
        case "minimum":
            return f"{value} is below {limit}, the smallest allowed"
        case "maximum":
            return f"{value} is above {limit}, the largest allowed"
        case "exclusiveMinimum":
            return f"{value} is not above {limit}"
        case "exclusiveMaximum":
            return f"{value} is not below {limit}"
        case "required":
            return error.message.replace("a required property", "missing")
        case "pattern":
            return f"{value} does not match {limit}"
        case "uniqueItems":
            return f"{value} names something twice"
        case "maxLength":
            return f"{value} has {len(error.instance)} characters, {limit} are allowed"
        case "minItems" | "maxItems" | "minProperties" | "minLength":
            return f"{value} has {len(error.instance)} entries, not {limit}"
        case "anyOf" if words := [e for e in error.context if e.validator == "const"]:
            others = (e for e in error.context if e.validator != "const")
            complaints = (f"{_complaint(e)} (or {words[0].validator_value})" for e in others)
            return next(complaints, f"{value} is not allowed")
        case _:
            return f"{value} is not allowed"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)


def _hint(error: jsonschema.ValidationError) -> str:
    """Explain the traps of YAML: `1e-3` is a text in it, and `no` is false."""
    value = error.instance
    if isinstance(value, bool):
        return "; YAML reads yes, no, on and off as true and false"
    if not isinstance(value, str):
        return ""
    if error.validator == "enum":
        return nearest(value, [str(choice) for choice in error.validator_value])
    try:
        float(value)
    except ValueError:
        return ""
    return f"; YAML reads it as a text: write {_as_yaml(value)}"


def _as_yaml(number: str) -> str:
    """Write a number so that YAML 1.1 takes it for one: with a point and a signed exponent."""
    mantissa, letter, exponent = number.lower().partition("e")
    if not letter:
        return number
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest what a misspelt word may mean, as the end of a message; empty if nothing is near.

    Examples
    --------
    >>> nearest("widht", ["depth", "width"])
    '; did you mean width?'
    """
    match difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        case [near]:
            return f"; did you mean {near}?"
    homes = [home for home in _homes(read_schema("config"), word) if home]
    return f"; it belongs under {' or '.join(homes)}" if homes else ""


def _homes(schema: Mapping[str, Any], key: str, path: Path_ = ()) -> Iterator[str]:
    """Find the sections in which a key is known."""
    properties = schema.get("properties", {})
    if key in properties:
        yield ".".join(path)
    for name, part in properties.items():
        yield from _homes(follow(part), key, (*path, name))
