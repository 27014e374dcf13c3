"""Settings: one class a role, read once by the command line from ``MODEL_SERVER_…`` variables."""

from __future__ import annotations

import re
from typing import Any, TypeVar, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings
from pydantic_settings import SettingsError as UnreadableSetting

from model_server.config.feedback import FeedbackSettings
from model_server.config.groups import (
    ENV_PREFIX,
    LEAST_RATE,
    MODEL_NAME_PATTERN,
    AccessSettings,
    DatabaseSettings,
    LogSettings,
    ServiceSettings,
)
from model_server.config.predictor import InputDtype, PredictorSettings, RuntimeName
from model_server.config.queue_proxy import QueueProxySettings, WeightedPredictor
from model_server.config.up import UpSettings
from model_server.errors import SettingsError, shown

__all__ = [
    "ENV_PREFIX",
    "LEAST_RATE",
    "MODEL_NAME_PATTERN",
    "ROLES",
    "AccessSettings",
    "DatabaseSettings",
    "FeedbackSettings",
    "InputDtype",
    "LogSettings",
    "PredictorSettings",
    "QueueProxySettings",
    "RuntimeName",
    "ServiceSettings",
    "UpSettings",
    "WeightedPredictor",
    "load",
    "markdown_table",
]

ROLES: dict[str, type[BaseSettings]] = {
    "predictor": PredictorSettings,
    "queue-proxy": QueueProxySettings,
    "feedback": FeedbackSettings,
    "up": UpSettings,
}

_PASSWORD = re.compile(r"//[^/@\s]*@")
Settings = TypeVar("Settings", bound=BaseSettings)


def load(role: type[Settings], **overrides: Any) -> Settings:
    """Read one role's settings from the environment; options that are not None win over it.

    Raises SettingsError with one line that names the first wrong variable, and tells its value if that is no secret.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return role(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(str(part) for part in first["loc"][:1])
        value = "" if _is_secret(role, field) else f"={_PASSWORD.sub('//…@', shown(first['input']))}"
        raise SettingsError(f"{ENV_PREFIX}{field.upper()}{value} is not valid: {first['msg']}.") from None
    except UnreadableSetting as error:
        field = str(error).partition('"')[2].partition('"')[0]
        raise SettingsError(f"{ENV_PREFIX}{field.upper()} is not valid JSON.") from None


def _is_secret(role: type[BaseSettings], field: str) -> bool:
    known = role.model_fields.get(field)
    return known is not None and SecretStr in {known.annotation, *get_args(known.annotation)}


def markdown_table(role: type[BaseSettings]) -> str:
    """Return the README's table of one role: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in role.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)
