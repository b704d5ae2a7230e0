"""Pretrained Caffe weights: fetched from their authors, verified, converted once, loaded as PyTorch models.

    model = zoo.load("vgg_face")
    logits = model(model.preprocess(image)[None])

And the user's own: zoo.load("runs/a") is what finetune left in that folder, zoo.load_caffe(prototxt, caffemodel) any Caffe net;
zoo.save_caffe(model, prototxt, caffemodel) goes back.
"""

from converter.preprocess import Preprocess
from zoo.cards.record import LocalCard
from zoo.cards.registry import list_models
from zoo.errors import ZooError
from zoo.files.copies import info
from zoo.files.fetch import clean, fetch, verify
from zoo.foreign.adding import add
from zoo.models.caffe import load_caffe
from zoo.models.export import save_caffe
from zoo.models.named import load

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
