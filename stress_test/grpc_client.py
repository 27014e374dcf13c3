"""V2 over gRPC for Locust: the channel yields to other users, and each call is an event."""

from __future__ import annotations

import time
from typing import Any

import grpc.experimental.gevent
import numpy as np
import tritonclient.grpc as triton

from photographs import Photograph
from requests_checked import Wrong, check_label
from slo import GRPC

grpc.experimental.gevent.init_gevent()


class GrpcClient:
    """One channel to a server, for one model."""

    def __init__(self, address: str, model: str, environment: Any) -> None:
        self._client = triton.InferenceServerClient(address)
        self._model = model
        self._environment = environment

    def classify(self, photograph: Photograph) -> None:
        """Send one picture; a failed call or a wrong class is a failure of the route, not an exception."""
        tensor = triton.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([photograph.content], dtype=np.object_))
        wanted = [triton.InferRequestedOutput("label")]
        begun, error = time.perf_counter(), None
        try:
            reply = self._client.infer(self._model, [tensor], outputs=wanted)
            check_label(reply.as_numpy("label")[0].decode(), photograph)
        except (triton.InferenceServerException, Wrong) as caught:
            error = caught
        self._environment.events.request.fire(
            request_type="grpc",
            name=GRPC,
            response_time=(time.perf_counter() - begun) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
