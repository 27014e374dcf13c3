"""Image classification server: KServe predictor, model bundles, and their tools."""

from importlib.metadata import version

__version__ = version("model-server")
