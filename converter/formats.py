"""What a file is that is none of Caffe's, by its first bytes, and what to do with it."""

from __future__ import annotations

from dataclasses import dataclass

LENGTH = 512  # bytes that tell
_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"%PDF-")
_CONTROLS = bytes({*range(32)} - set(b"\t\n\v\f\r\x1b"))  # which text does not hold
_LOAD = "torch.load(path, weights_only=True)"


@dataclass(frozen=True)
class Format:
    what: str  # "an ONNX model"
    advice: str  # what to do with it


TEXT = Format("a text file, a prototxt or a solver by its looks", "give the net's prototxt first, and the .caffemodel second")


def recognised(head: bytes) -> Format | None:
    """The format of a file by its first LENGTH bytes; None for Caffe's own binary ones, and for what is not known.

    A page or a Git LFS pointer that came in place of a file is files.stand_in's to tell.
    """
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head:
        return Format("a PyTorch file (.pth, .pt)", f"it needs no conversion: {_LOAD}")
    if head.startswith(b"PK\x03\x04") and head[30:].startswith((b"metadata.json", b"config.json", b"model.weights.h5")):
        return Format("a Keras model (.keras)", "Keras itself reads it")
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return Format("an archive", "unpack the caffemodel from it first")
    if head.startswith(_PICKLES):
        return Format("a Python pickle (an old PyTorch file, perhaps)", f"a PyTorch file needs no conversion: {_LOAD}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return Format("a safetensors file", "it needs no conversion: safetensors.torch.load_file(path)")
    if head.startswith(b"\x93NUMPY"):
        return Format("a NumPy array (.npy)", "numpy.load reads it")
    if head.startswith(_PICTURES) or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return Format("a picture or a document", "fetch the weights themselves")
    if head[4:8] == b"TFL3":
        return Format("a TensorFlow Lite model", "TensorFlow Lite reads it")
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # a number, then text: ModelProto or SavedModel; a mean image goes on with numbers
        sure = head[4 : 4 + head[3]].isalnum()
        return Format("an ONNX model" if sure else "an ONNX or a TensorFlow model", "convert-caffe reads Caffe's files only")
    if head[:1] == b"\x08" and head[2:3] == b":" and head[1] < 32:  # ModelProto's version and graph, and no producer
        return Format("an ONNX model", "convert-caffe reads Caffe's files only")
    if b"\x12\x0bPlaceholder" in head or b"\x12\x05Const" in head:
        return Format("a frozen TensorFlow graph (.pb)", "convert-caffe reads Caffe's files only")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Format("UTF-16 text", "a prototxt has to be saved as UTF-8")
    if head and head == head.translate(None, _CONTROLS) and (b":" in head or b"{" in head):
        return TEXT
    return None
