"""Pretrained Caffe weights: fetched from their authors, verified, converted once, loaded as PyTorch models.

    model = zoo.load("vgg_face")
    logits = model(model.preprocess(image)[None])

And the user's own: zoo.load("runs/a") is what finetune left in that folder, zoo.load_caffe(prototxt, caffemodel) any Caffe net;
zoo.save_caffe(model, prototxt, caffemodel) goes back.
"""

from .card import LocalCard, Preprocess
from .errors import ZooError
from .fetch import add, clean, fetch, verify
from .load import load
from .load_caffe import load_caffe
from .registry import card_of as info
from .registry import list_models
from .save_caffe import save_caffe

__all__ = [
    "LocalCard",
    "Preprocess",
    "ZooError",
    "add",
    "clean",
    "fetch",
    "info",
    "list_models",
    "load",
    "load_caffe",
    "save_caffe",
    "verify",
]
