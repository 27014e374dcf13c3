"""Routes in the shapes of other services, one module a family: their clients come here unchanged.

None has logic of its own: each reads a body, asks the prediction service, and writes the answer in its words.
"""

from __future__ import annotations

from starlette.routing import Route

from model_server.queue_proxy.drop_in.commands import CommandFamily
from model_server.queue_proxy.drop_in.forms import FormFamily
from model_server.queue_proxy.drop_in.hub import HubFamily
from model_server.queue_proxy.drop_in.statistics import StatisticsFamily
from model_server.queue_proxy.drop_in.uuids import UuidFamily
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.service import PredictionService


def routes(parts: Parts, service: PredictionService) -> list[Route]:
    """Return the routes of every family."""
    admission = parts.admission
    return [
        *UuidFamily(parts, service).routes(admission),
        *FormFamily(service).routes(admission),
        *CommandFamily(service).routes(admission),
        *HubFamily(service).routes(admission),
        *StatisticsFamily(parts).routes(),
    ]
