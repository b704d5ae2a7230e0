"""The zoo for torch.hub: torch.hub.load(FOLDER, "vgg_face", source="local"), or a repository's owner/name in place of the folder.

Every model of zoo.list_models() is an entry point: name(pretrained=True, **options), with zoo.load()'s options. torch.hub.list() gives
the names, torch.hub.help() what a model is. Whatever else has a public name here would be listed, too: hence the underscores.
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

import zoo as _zoo

dependencies = ["torch", "torchvision", "numpy", "google.protobuf", "requests", "safetensors", "filelock", "platformdirs", "tqdm"]


def _entry(name: str) -> _Callable[..., _Any]:
    card = _zoo.info(name)

    def load(pretrained: bool = True, **options: _Any) -> _Any:
        return _zoo.load(name, pretrained=pretrained, **options)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""{card.title}: {card.task}.

    Input: {card.input}. Output: {card.outputs}. Terms: {card.terms.licence}.

    pretrained: fetch, prove and load the authors' weights; else they are drawn, without a network. The options are those of zoo.load():
    num_classes, device, dtype, accept_terms, allow_unverified. The model is in eval mode and has .preprocess, .labels and .card."""
    return load


globals().update({_name: _entry(_name) for _name in _zoo.list_models()})
