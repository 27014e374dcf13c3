"""Turns a model into a bundle, and refuses where the two disagree."""

from model_server.exporter.assemble import Options, Report, assemble
from model_server.exporter.folder import new_folder
from model_server.exporter.scaling import SCALINGS, Preparation, Scaling, ScalingName
from model_server.exporter.source import Source, find

__all__ = [
    "SCALINGS",
    "Options",
    "Preparation",
    "Report",
    "Scaling",
    "ScalingName",
    "Source",
    "assemble",
    "find",
    "new_folder",
]
