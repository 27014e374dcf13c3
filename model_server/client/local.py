"""A bundle that classifies in this process."""

from __future__ import annotations

import threading

import numpy as np

from model_server import classifier
from model_server.client.files import Answer
from model_server.config import PredictorSettings
from model_server.decoding.decoders import Decoders
from model_server.decoding.messages import Decoding
from model_server.runtimes import Session, cores


class LocalModel:
    """A bundle loaded and proven as the predictor does it, with the same limits on images."""

    def __init__(self, settings: PredictorSettings, top_k: int) -> None:
        """Load the bundle; raises BundleError, also where its golden images come out differently here."""
        self.parallel = settings.workers or cores()
        self._classifier = loaded = classifier.load_checked(settings, self.parallel)
        self._decoders = Decoders(Decoding(loaded.bundle.manifest.input, loaded.limits), self.parallel)
        self._top_k = top_k
        self._of_thread = threading.local()

    def classify(self, data: bytes) -> Answer:
        """Classify one encoded image; raises InvalidInput or PayloadTooLarge."""
        pixels = self._decoders.decode(data)
        scores = self._session()(self._classifier.scaled(pixels)[np.newaxis])[0]
        bundle = self._classifier.bundle
        return Answer(classifier.rank(bundle.labels, scores, self._top_k), bundle.manifest.version)

    def _session(self) -> Session:
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = self._classifier.session()
        session: Session = self._of_thread.session
        return session
