"""Back to Caffe: a model's structure as a prototxt, its weights as a caffemodel."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from architectures.contract import CaffeTwin, Classifier
from converter.preprocess import Preprocess
from zoo.cards.registry import CARDS
from zoo.errors import LoadError, SaveError
from zoo.models.named import PROTOTXTS
from zoo.models.weights import fill

if TYPE_CHECKING:
    from torch import Tensor, nn

    from converter import CaffeNet
    from converter.build.graph import Graph
    from converter.verify import Comparison

# Architecture -> its net in zoo/prototxt; those that have a card are found there.
WITHOUT_A_CARD = {
    "MobileFaceExpression": "mobile_face_expression.prototxt",
    "FaceResNet": "face_resnet.prototxt",
    "SmallResNet": "small_resnet.prototxt",
    "SmallVGG": "small_vgg.prototxt",
}


class NoPrototxt(SaveError):
    """The zoo has no prototxt that describes the model."""


class Twin(CaffeTwin, Classifier, Protocol):
    """What the net of an architecture's Caffe form has: the table of its layers, and the path of its classifier."""


def forms() -> dict[str, str]:
    """The architectures that can be written as Caffe nets, each with its prototxt in zoo/prototxt."""
    carded = {
        card.architecture.partition(":")[2]: card.networks[0].prototxt
        for card in CARDS
        if card.architecture is not None and len(card.networks) == 1 and (PROTOTXTS / card.networks[0].prototxt).is_file()
    }
    return {**carded, **WITHOUT_A_CARD}


def save_caffe(
    model: nn.Module, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], *, half: bool = False
) -> list[Comparison]:
    """Write a model as a Caffe net: a deploy prototxt and its caffemodel (V2; float32, or `half` as save_caffemodel() means it).

    Converted nets (zoo.load_caffe, converter.convert) keep their prototxt. The architectures of forms() get the zoo's, with the names
    of Caffe's layers and its Softmax: other classes and widths get their numbers into it, another size of `preprocess` that size, and
    a classifier above an embedding becomes an InnerProduct layer "classifier". What has no prototxt (another number of stages, other
    taps, a net of no Caffe origin) is traced on an image of its `preprocess`, as converter.to_caffe() does: layers named after modules.

    Returns what was compared before the files appeared, as converter.to_caffe() does: the pair converted back with the model, and with
    OpenCV's net where OpenCV 4 is installed and reads it.

    Raises SaveError: the model has no Caffe form (with the reasons), the two nets disagree, or a file cannot be written.
    """
    from converter import CaffeNet, ConversionError

    try:
        if isinstance(model, CaffeNet):
            return _written(model, model, tuple(model.outputs), Path(prototxt), Path(caffemodel), half)
        try:
            net, logits = _as_caffe(model)
        except NoPrototxt as reason:
            if type(model).__name__ in _SEVERAL_NETS:
                raise
            return _traced(model, Path(prototxt), Path(caffemodel), half, reason)
        return _written(model, net, (logits,), Path(prototxt), Path(caffemodel), half)
    except ConversionError as error:
        raise SaveError(str(error)) from error


def _written(model: nn.Module, net: CaffeNet, outputs: tuple[str, ...], prototxt: Path, caffemodel: Path, half: bool) -> list[Comparison]:
    """Write the Caffe net of a model, whose results are the named blobs, once it is proven to be that."""
    from converter import ConversionError, save_caffemodel
    from converter.export.pair import Pair, check_places, float_copy, write_pair
    from converter.export.sketch import Blob
    from converter.write.proof import proof_of

    check_places(prototxt, caffemodel)
    title = net.name or type(model).__name__
    twin = float_copy(net, title)
    try:
        proof = proof_of(twin, [twin.input_shapes], lambda runs: [dict(twin(*run, blobs=outputs)) for run in runs], prototxt)
    except ConversionError as error:
        raise SaveError(f"{title}: the net takes none of the inputs that were drawn to compare it on: {error}") from error
    blobs = [Blob(name, tuple(value.shape)) for name, value in proof.wanted[0].items()]
    pair = Pair(lambda fixed: net.prototxt, lambda path: save_caffemodel(net, path), blobs)
    compared = twin if model is net else float_copy(model, title)
    return write_pair(pair, compared, tuple(proof.runs[0]), prototxt, caffemodel, title=title, half=half)


def _traced(model: nn.Module, prototxt: Path, caffemodel: Path, half: bool, reason: NoPrototxt) -> list[Comparison]:
    """What torch.export finds in the model, as a Caffe net."""
    import torch

    from converter import ConversionError, to_caffe

    spec = vars(model).get("preprocess")
    if not isinstance(spec, Preprocess) or spec.size is None:
        raise SaveError(f"{reason} It does not say how large its images are, so it cannot be traced on one, either") from reason
    example = torch.rand((1, 1 if spec.channels == "GRAY" else 3, *spec.size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        return to_caffe(model, example, prototxt, caffemodel, name=type(model).__name__, half=half)
    except ConversionError as error:
        raise SaveError(f"{reason}\nNor can its operations be written as Caffe's layers: {error}") from error


def _as_caffe(model: nn.Module) -> tuple[CaffeNet, str]:
    """The Caffe net of a hand-written one, with its weights, and the blob that the model returns."""
    from converter import ConversionError

    kind = cast("type[Twin]", type(model))
    if kind.__name__ not in forms():
        raise NoPrototxt(f"{_no_form(kind)} There is one for {', '.join(forms())}, and for converted nets")
    _check_taps(model)
    _check_layers(model, kind)
    state = {key: value.detach().cpu().float() if value.is_floating_point() else value.cpu() for key, value in model.state_dict().items()}
    try:
        net, logits = _structure(kind, model, state)
        fill(net, _caffe_state(kind, state, net), (), kind.__name__)
    except (LoadError, ConversionError) as error:
        raise NoPrototxt(f"this {kind.__name__} is not the net of {forms()[kind.__name__]}: {error}") from error
    return net.eval(), logits


_SEVERAL_NETS = {
    "MTCNN": "MTCNN is three nets and a cascade, which Caffe leaves to its caller: the authors' three files are its Caffe form.",
    **{
        name: f"{name} reads clips of different lengths, which no single Caffe net does; for clips of one length, such as 16 frames:"
        f' converter.to_caffe(model, torch.zeros(1, 16, 3, {size}), "net.prototxt", "net.caffemodel").'
        for name, size in (("VGGFaceRNN", "224, 224"), ("FaceResNetRNN", "112, 96"), ("FaceClipNet", "height, width"))
    },
}


def _no_form(kind: type) -> str:
    return _SEVERAL_NETS.get(kind.__name__, f"{kind.__name__} has no Caffe form: no prototxt in the zoo describes it.")


def _check_taps(model: nn.Module) -> None:
    """A prototxt has the default's taps, and others may have the same shapes."""
    default = inspect.signature(type(model)).parameters.get("taps")
    taps = getattr(model, "taps", ())
    if default is not None and tuple(taps) != tuple(default.default):
        raise NoPrototxt(
            f"this {type(model).__name__} has the taps {', '.join(taps)}; {forms()[type(model).__name__]} describes the default"
            f" taps ({', '.join(default.default)}) only"
        )


def _check_layers(model: nn.Module, kind: type[Twin]) -> None:
    """A net of fewer or more stages has no prototxt: num_output can change, layers cannot."""
    held = {path for path in kind.FROM_CAFFE.values() if path is not None}
    lacking = sorted(held - dict(model.named_modules()).keys())
    if lacking:
        name = kind.__name__
        raise NoPrototxt(
            f"this {name} has no {', '.join(lacking)}; {forms()[name]} describes the default layers: their"
            " widths may differ, their number may not"
        )


def _structure(kind: type[Twin], model: nn.Module, state: Mapping[str, Tensor]) -> tuple[CaffeNet, str]:
    """The shipped prototxt's net on the meta device, as wide as the model is, and the blob that the model returns.

    Its input is of the size that the model's Preprocess gives; without one it stays the prototxt's.
    """
    from converter.build.assemble import assemble
    from converter.conversion import prepare
    from zoo.models.caffe import result_of

    text = _with_dropout(model, (PROTOTXTS / forms()[kind.__name__]).read_text(encoding="utf-8"))
    weight = state.get(f"{kind.CLASSIFIER}.weight")
    layer = next((name for name, path in kind.FROM_CAFFE.items() if path == kind.CLASSIFIER), None)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "net.prototxt"
        path.write_text(text, encoding="utf-8")
        graph, _ = prepare(path, None)
        wider, sizes = _widths(graph, kind.FROM_CAFFE, state), _sizes(graph, vars(model).get("preprocess"))
        if wider or sizes:
            graph, _ = prepare(path, None, num_output=wider, input_shapes=sizes)
        if weight is not None and layer is None:
            (end,) = graph.outputs
            path.write_text(
                f'{text}layer {{ name: "{kind.CLASSIFIER}" type: "InnerProduct" bottom: "{end}" top: "{kind.CLASSIFIER}"'
                f' inner_product_param {{ num_output: {len(weight)} weight_filler {{ type: "xavier" }} }} }}\n',
                encoding="utf-8",
            )
            graph, _ = prepare(path, None, num_output=wider, input_shapes=sizes)
    return assemble(graph), graph.versions[result_of(graph, None)]


def _with_dropout(model: nn.Module, text: str) -> str:
    """The prototxt with the model's rates of dropout, whose layers have the names of its children: Caffe trains on with them."""
    from torch.nn import Dropout

    for name, layer in model.named_children():
        if isinstance(layer, Dropout):
            text = re.sub(rf'(name: "{name}" type: "Dropout"[^\n]*dropout_ratio: )[\d.]+', rf"\g<1>{layer.p}", text)
    return text


def _widths(graph: Graph, table: Mapping[str, str | None], state: Mapping[str, Tensor]) -> dict[str, int]:
    """The layers whose num_output is another in the model than in the prototxt, each with the model's."""
    found = {}
    for step in graph.steps:
        weight = state.get(f"{table.get(step.name)}.weight")
        if step.type in ("Convolution", "InnerProduct") and weight is not None and len(weight) != step.shapes[0][0]:
            found[step.name] = len(weight)
    return found


def _sizes(graph: Graph, spec: object) -> dict[str, tuple[int, ...]]:
    """The input's shape, where the model takes images of another size than the prototxt says."""
    ((name, shape),) = graph.inputs.items()
    size = spec.size if isinstance(spec, Preprocess) else None
    return {} if size is None or size == tuple(shape[2:]) else {name: (*shape[:2], *size)}


def _caffe_state(kind: type[Twin], state: Mapping[str, Tensor], net: CaffeNet) -> dict[str, Tensor]:
    """The inverse of from_caffe_state(): the model's weights under the Caffe net's names.

    Two Caffe layers of one path (BatchNorm and Scale) each take the parameters that they have.
    """
    paths = {layer.replace(".", "_"): path for layer, path in {kind.CLASSIFIER: kind.CLASSIFIER, **kind.FROM_CAFFE}.items()}
    found: dict[str, Tensor] = {}
    taken = set[str]()
    for key in net.state_dict():
        layer, _, parameter = key.rpartition(".")
        source = f"{paths.get(layer)}.{parameter}"
        if source in state:
            found[key] = state[source]
            taken.add(source)
    return {f"{kind.__name__}'s {key}": value for key, value in state.items() if key not in taken} | found
