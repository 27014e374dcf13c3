"""The KServe SDK's own REST client, in a process of its own: its protobufs and tritonclient's cannot share one.

Usage: python kserve_client.py URL MODEL IMAGE — prints the V1 predictions and the V2 scores as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import kserve
from kserve.inference_client import RESTConfig


async def ask(url: str, model: str, text: str) -> dict:
    v1 = kserve.InferenceRESTClient(RESTConfig(protocol="v1"))
    v2 = kserve.InferenceRESTClient(RESTConfig(protocol="v2"))
    predictions = await v1.infer(url, {"instances": [{"b64": text}]}, model_name=model)
    request = kserve.InferRequest(model, [kserve.InferInput("image", [1], "BYTES", data=[text])])
    reply = await v2.infer(url, request, model_name=model)
    ready = await v2.is_model_ready(url, model) and await v1.is_model_ready(url, model)
    scores = [float(score) for score in reply.get_output_by_name("scores").data]
    return {"ready": ready, "predictions": predictions["predictions"], "scores": scores}


if __name__ == "__main__":
    image = base64.b64encode(Path(sys.argv[3]).read_bytes()).decode()
    print(json.dumps(asyncio.run(ask(sys.argv[1], sys.argv[2], image))))
