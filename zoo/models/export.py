"""Back to Caffe: a model's structure as a prototxt, its weights as a caffemodel."""

from __future__ import annotations

import copy
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
TOLERANCE = 1e-3  # of the largest output: the two nets differ by rounding (1e-6), or they are different nets


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


def save_caffe(model: nn.Module, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a model as a Caffe net: a deploy prototxt and its caffemodel (V2; float32, or `half` as save_caffemodel() means it).

    For converted nets (zoo.load_caffe, converter.convert), and for the architectures whose layers Caffe has: forms() names
    them. A model with other classes or of another width gets its numbers into its prototxt, and one whose `preprocess`
    gives another size than the prototxt's gets that; a classifier above an embedding
    becomes an InnerProduct layer "classifier". Before the files appear both nets compute one drawn input, and have to agree. The pair
    converts back to the model's own numbers.

    Raises SaveError: the model has no Caffe form (with the reason), the two nets disagree, or a file cannot be written.
    """
    from converter import CaffeNet, ConversionError, save_caffemodel
    from converter.files import whole_file

    if Path(prototxt).absolute() == Path(caffemodel).absolute():
        raise SaveError(f"the prototxt and the caffemodel cannot both be {prototxt}; give two names")
    net = model if isinstance(model, CaffeNet) else _as_caffe(model)
    try:
        with whole_file(Path(prototxt)) as file:
            file.write(net.prototxt.encode())
            save_caffemodel(net, caffemodel, half=half)
    except ConversionError as error:
        raise SaveError(str(error)) from error


def export_caffe(
    model: nn.Module, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], *, half: bool = False
) -> list[Comparison]:
    """save_caffe(), and where the zoo has no prototxt for the model (another number of stages, other taps, a net of no Caffe origin),
    converter.to_caffe(): layers named after the model's modules, and no Softmax at the end.

    Returns what to_caffe() compared, () where save_caffe() did it. Raises SaveError with both reasons.
    """
    try:
        save_caffe(model, prototxt, caffemodel, half=half)
        return []
    except NoPrototxt as reason:
        if type(model).__name__ in _SEVERAL_NETS:
            raise
        return _traced(model, Path(prototxt), Path(caffemodel), half, reason)


def _traced(model: nn.Module, prototxt: Path, caffemodel: Path, half: bool, reason: NoPrototxt) -> list[Comparison]:
    """What torch.export finds in the model, as a Caffe net."""
    import torch

    from converter import ConversionError, convert, save_caffemodel, to_caffe

    spec = vars(model).get("preprocess")
    if not isinstance(spec, Preprocess) or spec.size is None:
        raise SaveError(f"{reason} It does not say how large its images are, so it cannot be traced on one, either") from reason
    twin = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    example = torch.rand((1, 1 if spec.channels == "GRAY" else 3, *spec.size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "net.caffemodel" if half else caffemodel
            compared = to_caffe(twin, example, prototxt, place, name=type(model).__name__)
            if half:
                save_caffemodel(convert(prototxt, place), caffemodel, half=True)
    except ConversionError as error:
        raise SaveError(f"{reason}\nNor can its operations be written as Caffe's layers: {error}") from error
    return compared


def _as_caffe(model: nn.Module) -> CaffeNet:
    """The Caffe net of a hand-written one, with its weights, proven on one input."""
    import torch

    from converter import ConversionError

    kind = cast("type[Twin]", type(model))
    if kind.__name__ not in forms():
        raise NoPrototxt(f"{_no_form(kind)} There is one for {', '.join(forms())}, and for converted nets")
    _check_taps(model)
    _check_layers(model, kind)
    twin = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    state = twin.state_dict()
    try:
        net, logits = _structure(kind, model, state)
        fill(net, _caffe_state(kind, state, net), (), kind.__name__)
    except (LoadError, ConversionError) as error:
        raise NoPrototxt(f"this {kind.__name__} is not the net of {forms()[kind.__name__]}: {error}") from error
    (shape,) = net.input_shapes.values()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected, caffe = twin(x), net(x, blobs=(logits,))[logits]
    largest = expected.abs().max()
    if not torch.allclose(caffe.reshape(expected.shape), expected, rtol=0, atol=TOLERANCE * float(largest.nan_to_num()), equal_nan=True):
        raise SaveError(
            f"this {kind.__name__} does not compute what the net of {forms()[kind.__name__]} computes with its weights:"
            f" the outputs differ by {float((caffe.reshape(expected.shape) - expected).abs().max()):.1e},"
            f" and the largest is {float(largest):.1e}"
        )
    return net


_SEVERAL_NETS = {
    "MTCNN": "MTCNN is three nets and a cascade, which Caffe leaves to its caller: the authors' three files are its Caffe form.",
    "VGGFaceRNN": "VGGFaceRNN reads clips of different lengths, which no single Caffe net does.",
    "FaceResNetRNN": "FaceResNetRNN reads clips of different lengths, which no single Caffe net does.",
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
