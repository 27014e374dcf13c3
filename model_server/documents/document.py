"""What all documents have in common: strict fields, each with a description of what it is to be."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from model_server.errors import InvalidInput, ModelServerError, shown
from model_server.http.json_body import place

Kind = TypeVar("Kind", bound=BaseModel)


class Document(BaseModel):
    """An object with these fields and no other; a field's description completes "it is"."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class LooseDocument(Document):
    """An object of a format that is not ours: fields that we do not know mean nothing to us."""

    model_config = ConfigDict(extra="ignore")


def read(kind: type[Kind], value: object, refusal: type[ModelServerError] = InvalidInput) -> Kind:
    """Return a value as a document; raises ``refusal`` that names the first wrong field.

    A field of type ``InstanceOf`` stays as it is: a million numbers are not validated one by one. A list of anything
    else needs ``fail_fast``, or each of its elements may have an error.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal(_sentence(error.errors(include_url=False, include_input=False)[0], kind)) from None


def _sentence(error: ErrorDetails, kind: type[BaseModel]) -> str:
    path, problem = error["loc"], error["type"]
    owner, named, wanted = _described(kind, path)
    if problem == "extra_forbidden":
        where = f" in {place(path[:-1])}" if path[:-1] else ""
        return f"Unknown field {shown(path[-1])}{where}; allowed: {', '.join(sorted(owner.model_fields))}."
    if problem == "missing":
        return f'"{place(path)}" is missing: {wanted}.'
    if problem == "model_type":
        return f'"{place(path)}" is an object.' if path else "The body is an object."
    return f'"{place(path[:named])}" is {wanted}.'


def _described(kind: type[BaseModel], path: tuple[int | str, ...]) -> tuple[type[BaseModel], int, str]:
    """Return the innermost object of a path, how many of its steps lead to a field, and what that is to be."""
    owner, named, wanted = kind, 0, "an object"
    for number, step in enumerate(path, 1):
        if isinstance(step, int):
            continue
        field = owner.model_fields.get(step)
        if field is None:
            break
        named, wanted = number, field.description or wanted
        owner = _model_in(field.annotation) or owner
    return owner, named, wanted


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
