"""A peer: FastAPI pushes each picture onto a Redis list and polls for its result; a worker polls the list.

The design of many tutorials, with their batches of up to 32, but polling every 10 ms instead of every 250.

Needs: fastapi pillow redis tensorflow-cpu uvicorn
Example: REDIS_PORT=6399 python fastapi_redis.py web 8090; REDIS_PORT=6399 python fastapi_redis.py worker DIR
"""

import asyncio
import base64
import io
import json
import os
import sys
import time
import uuid
from pathlib import Path

import redis
import redis.asyncio
from fastapi import FastAPI

PORT, QUEUE, BATCH, POLL_SECONDS = int(os.environ["REDIS_PORT"]), "pictures", 32, 0.01
app = FastAPI()
waiting_room = redis.asyncio.Redis(port=PORT)


@app.post("/predict")
async def predict(payload: dict) -> dict:
    key = str(uuid.uuid4())
    await waiting_room.rpush(QUEUE, json.dumps({"id": key, "image": payload["instances"][0]["b64"]}))
    while (result := await waiting_room.getdel(key)) is None:  # noqa: ASYNC110 - polling is the design
        await asyncio.sleep(POLL_SECONDS)
    return {"predictions": [json.loads(result)]}


def work(folder: Path) -> None:
    import keras
    import numpy as np
    from PIL import Image

    network = keras.models.load_model(folder / "model.keras", compile=False)
    labels, store = (folder / "labels.txt").read_text().splitlines(), redis.Redis(port=PORT)
    while True:
        jobs = [json.loads(job) for job in store.lpop(QUEUE, BATCH) or []]
        if not jobs:
            time.sleep(POLL_SECONDS)
            continue
        pictures = [Image.open(io.BytesIO(base64.b64decode(job["image"]))).convert("RGB") for job in jobs]
        batch = np.stack([np.asarray(picture.resize((224, 224)), np.float32) / 127.5 - 1 for picture in pictures])
        for job, row in zip(jobs, network.predict(batch, verbose=0), strict=True):
            store.set(job["id"], json.dumps({"label": labels[row.argmax()], "score": float(row.max())}))


if __name__ == "__main__":
    import uvicorn

    work(Path(sys.argv[2])) if sys.argv[1] == "worker" else uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
