"""Routes in the shapes of other services, one module a family: their clients come here unchanged.

None has logic of its own: each reads a body, asks the prediction service, and writes the answer in its words.
"""

from __future__ import annotations

from starlette.routing import Route

from model_server.queue_proxy.drop_in import commands, forms, hub, uuids
from model_server.queue_proxy.service import PredictionService


def routes(service: PredictionService) -> list[Route]:
    """Return the routes of every family."""
    return [
        *uuids.UuidFamily(service).routes(),
        *forms.FormFamily(service).routes(),
        *commands.CommandFamily(service).routes(),
        *hub.HubFamily(service).routes(),
    ]
