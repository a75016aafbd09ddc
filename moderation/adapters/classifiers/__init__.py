"""Classifiers: model-sized pictures in, scores out.

`load` turns a spec into a `Model`. Heavy libraries (torch, transformers, onnxruntime) are imported only
by the model that needs them, and only when it is loaded.
"""

from moderation.adapters.classifiers.loading import load
from moderation.adapters.classifiers.model import Model

__all__ = ["Model", "load"]
