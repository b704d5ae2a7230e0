"""Pretrained Caffe weights: fetched from their authors, verified, converted once, loaded as PyTorch models.

    model = zoo.load("vgg_face")
    logits = model(model.preprocess(image)[None])
"""

from .errors import ZooError
from .fetch import add, clean, fetch, verify
from .load import load
from .registry import card_of as info
from .registry import list_models

__all__ = ["ZooError", "add", "clean", "fetch", "info", "list_models", "load", "verify"]
