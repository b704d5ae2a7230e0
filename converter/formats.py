"""What a file is that is none of Caffe's, by its first bytes, and what to do with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

LENGTH = 512  # bytes that tell
HDF5 = b"\x89HDF\r\n\x1a\n"  # Caffe's own snapshots, too
_CONTROLS = bytes({*range(32)} - set(b"\t\n\v\f\r\x1b"))  # which text does not hold
_CAFFE_ONLY = "convert-caffe reads Caffe's files only"
_LOAD = "torch.load(path, weights_only=True)"


@dataclass(frozen=True)
class Format:
    what: str  # "an ONNX model"
    advice: str  # what to do with it


TEXT = Format("a text file, a prototxt or a solver by its looks", "give the net's prototxt first, and the .caffemodel second")
PLAIN = Format("text, and no prototxt by its looks", "look at what it says: a server's message, perhaps")
_ONNX = Format("an ONNX model", _CAFFE_ONLY)
_FROZEN = Format("a frozen TensorFlow graph (.pb)", _CAFFE_ONLY)
_ARCHIVE = Format("an archive", "unpack it first, and give the file that was in it")
_PICKLE = Format("a Python pickle (an old PyTorch file, perhaps)", f"a PyTorch file needs no conversion: {_LOAD}")
_MEDIUM = Format("a picture, a video or a document", "fetch the net's own files")
_MATLAB = Format("a MATLAB file (.mat)", "fetch the model in Caffe's own form, a prototxt and a .caffemodel")
_TORCH7 = Format("a Torch7 file (.t7)", "fetch the model in Caffe's own form, a prototxt and a .caffemodel")
_NCNN = Format("an ncnn net (.param)", "the prototxt that it was made from is what is read here")
_UTF16 = Format("UTF-16 text", "a prototxt has to be saved as UTF-8")

# What a file begins with. The first that fits tells.
_BEGINNINGS: tuple[tuple[tuple[bytes, ...], Format], ...] = (
    ((b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18",
      b"\x1f\x9d", b"\x5d\0\0"), _ARCHIVE),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"(lp", b"}q\0", b"]q\0", b"ccopy_reg\n", b"cnumpy"), _PICKLE),
    ((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"%PDF-", b"II*\0", b"MM\0*", b"RIFF", b"\x1aE\xdf\xa3", b"\0\0\x01\0"), _MEDIUM),
    ((b"\x93NUMPY",), Format("a NumPy array (.npy)", "numpy.load reads it")),
    ((b"MATLAB ",), _MATLAB),
    ((b"7767517\n", b"7767517\r\n", b"\xdd\x85\x76\0"), _NCNN),
    ((b"\x12\x01\0\0\0\0\0\0",), Format("a file of MXNet's weights (.params)", _CAFFE_ONLY)),
    ((b"GGUF",), Format("a GGUF model", _CAFFE_ONLY)),
    ((b"SQLite format 3\0",), Format("an SQLite database", _CAFFE_ONLY)),
    ((b"\x7fELF", b"MZ\x90\0"), Format("a program", "fetch the net's own files")),
    ((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"), _UTF16),
)  # fmt: skip
_INSIDE_ZIPS: tuple[tuple[bytes, Format], ...] = (
    (rb"data\.pkl|constants\.pkl|\.data/serialization_id|/code/", Format("a PyTorch file (.pth, .pt)", f"it needs no conversion: {_LOAD}")),
    (rb"^(metadata\.json|config\.json|model\.weights\.h5)", Format("a Keras model (.keras)", "Keras itself reads it")),
    (rb"^[^\0]*\.npy", Format("a file of NumPy arrays (.npz)", "numpy.load reads it")),
)
# Text that is no prototxt, by how it begins.
_TEXTS: tuple[tuple[bytes, Format], ...] = (
    (rb"[{\[]\s*[\"}\]{]", Format("JSON (a server's message or another framework's net)", _CAFFE_ONLY)),
    (rb"\[(net|network)\]", Format("a Darknet net (.cfg)", _CAFFE_ONLY)),
    (rb"<(\?xml[^>]*>\s*<)?net\b", Format("an OpenVINO net (.xml)", _CAFFE_ONLY)),
    (rb"node\s*:?\s*\{\s*(name|op)\s*:", Format("a TensorFlow graph as text (.pbtxt)", _CAFFE_ONLY)),
    (rb"[34]\r?\n1\r?\n3\r?\nV 1", _TORCH7),
    (rb"(--- |diff --git |Index: )", Format("a patch", "apply it to the file that it was made for")),
    (rb"[IWEF]\d{4} \d\d:\d\d:\d\d", Format("a log of Caffe's", "give the prototxt that was trained")),
)


def recognised(head: bytes) -> Format | None:
    """The format of a file by its first LENGTH bytes; None for Caffe's own binary ones, and for what is not known.

    A page or a Git LFS pointer that came in place of a file is files.stand_in's to tell.
    """
    if head.startswith(b"PK\x03\x04"):
        for pattern, found in _INSIDE_ZIPS:
            if re.search(pattern, head[30:]):
                return found
    for beginnings, found in _BEGINNINGS:
        if head.startswith(beginnings):
            return found
    return _inside(head) or _message(head) or _text(head)


def _inside(head: bytes) -> Format | None:
    """What shows behind the first bytes."""
    if head[257:262] == b"ustar":
        return _ARCHIVE
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return Format("a safetensors file", "it needs no conversion: safetensors.torch.load_file(path)")
    if head[4:8] == b"TFL3":
        return Format("a TensorFlow Lite model", "TensorFlow Lite reads it")
    if head[4:8] == b"ftyp" or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return _MEDIUM
    if head[16:20] == b"\xde\xc0\xef\xbe":
        return Format("an LMDB database, Caffe's form of training images", "the weights are in a .caffemodel")
    if b"V 1" in head[8:24] and re.search(rb"(nn|torch|cudnn)\.", head):
        return _TORCH7
    if head[:12] in {b"".join(n.to_bytes(4, "little") for n in (0, minor, last)) for minor in (1, 2) for last in range(6)}:
        return Format("a file of Darknet's weights (.weights)", _CAFFE_ONLY)
    return None


def _message(head: bytes) -> Format | None:
    """Other frameworks' protobuf messages. A mean image begins with a number, too, but goes on with others."""
    if head[:1] == b"\x08" and b".caffemodel" in head:  # a .solverstate, which begins alike
        return None
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # ModelProto's version and producer, SavedModel's and its graph, or Core ML's
        producer = head[4 : 4 + head[3]] if len(head) > 3 and head[3] < 128 else b"\0"
        sure = head[1] > 1 and producer.isascii() and producer.decode().isprintable()
        return _ONNX if sure else Format("an ONNX or a TensorFlow model, or Core ML's", _CAFFE_ONLY)
    if head[:1] == b"\x08" and head[2:3] == b":" and head[1] < 32:  # ModelProto's version and graph, and no producer
        return _ONNX
    if re.search(rb"\x12(\x0bPlaceholder|\x05Const\b|\x0aVariableV2|\x0bVarHandleOp)", head):
        return _FROZEN
    if b"GivenTensorFill" in head or re.match(rb"\n.(init_net|predict_net)", head, re.DOTALL):
        return Format("a Caffe2 net (.pb)", "Caffe2 was another program; " + _CAFFE_ONLY)
    return None


def _text(head: bytes) -> Format | None:
    if head.startswith(HDF5) or not head:
        return None
    if _is_wide(head):
        return _UTF16
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, found in _TEXTS:
        if re.match(pattern, start):
            return found
    ascii_only = len(head.decode("ascii", "ignore"))
    if head == head.translate(None, _CONTROLS) and ascii_only > len(head) // 2:
        return TEXT if b":" in head or b"{" in head else PLAIN
    return None


def _is_wide(head: bytes) -> bool:
    """Whether these are characters of two or four bytes, ASCII's mostly, without a mark that says so."""
    for encoding, width in (("utf-16-le", 2), ("utf-16-be", 2), ("utf-32-le", 4), ("utf-32-be", 4)):
        whole = head[: len(head) // width * width]
        if whole.count(0) * 3 < len(whole) or len(whole) < 8:
            continue
        text = whole.decode(encoding, "replace")
        words = sum(c.isascii() and (c.isalpha() or c in "_ ") for c in text)  # repeated values are no text
        if sum(c.isascii() and (c.isprintable() or c.isspace()) for c in text) > 0.9 * len(text) and words > len(text) // 4:
            return True
    return False


def begins_a_message(head: bytes) -> bool:
    """Whether a NetParameter or a BlobProto may begin so: by a field up to 100, the layers', in a wire type that Caffe writes."""
    tag = head[0] if head[0] < 128 else head[0] & 127 | head[1:2].ljust(1, b"\0")[0] << 7
    return 1 <= tag >> 3 <= 100 and tag & 7 in (0, 1, 2, 5)
