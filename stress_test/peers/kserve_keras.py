"""A peer: a KServe custom model as the SDK's guide shows it, with Keras' `predict`.

Needs: kserve pillow tensorflow-cpu
Example: python kserve_keras.py --http_port 8090 --enable_grpc False --model_dir DIR
"""

import argparse
import base64
import io
from pathlib import Path

import keras
import kserve
import numpy as np
from PIL import Image


class Peer(kserve.Model):
    """One network, one request at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__("peer")
        self.network = keras.models.load_model(folder / "model.keras", compile=False)
        self.labels = (folder / "labels.txt").read_text().splitlines()
        self.ready = True

    def predict(self, payload, headers=None):  # noqa: ARG002 - the SDK passes them
        batch = np.stack([self.prepare(base64.b64decode(instance["b64"])) for instance in payload["instances"]])
        rows = self.network.predict(batch, verbose=0)
        return {"predictions": [{"label": self.labels[row.argmax()], "score": float(row.max())} for row in rows]}

    def prepare(self, data: bytes):
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224))
        return np.asarray(picture, np.float32) / 127.5 - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", type=Path, required=True)
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer(enable_grpc=False).start([Peer(arguments.model_dir)])
