"""A prototxt file, or the net inside a caffemodel, becomes a NetSpec: read, told from a solver, upgraded to V2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converter.errors import PrototxtError, meant, shown, some
from converter.files import read_file, stand_in
from converter.formats import HDF5, LENGTH, PLAIN, TEXT, begins_a_message, recognised
from converter.read.schema import message_class
from converter.read.text import Document, read_text
from converter.read.upgrade import NetSpec, upgrade

MAX_BYTES = 32 << 20  # the largest prototxt seen in public has 0.4 MB
_SOLVER_NETS = ("net", "net_param", "train_net", "test_net", "train_net_param", "test_net_param")
_SOLVER_ONLY = (*_SOLVER_NETS, "base_lr", "lr_policy", "max_iter", "solver_mode", "snapshot_prefix", "test_iter")


def read_prototxt(path: str | os.PathLike[str], phase: str = "TEST") -> NetSpec:
    """Read a net's prototxt, or the net that a solver's prototxt names or holds, in V2 form.

    Raises:
        PrototxtError: the file is no prototxt; says where.
        GraphError: it cannot be upgraded.
    """
    path = Path(path)
    if "\n" in str(path) and not path.name.endswith(".prototxt"):
        raise PrototxtError(f"{shown(str(path))}: this is the text of a prototxt; what is asked for is the path of a file that holds it.")
    return _spec(_decoded(path), str(path), phase, path)


def parse_prototxt(text: str, where: str = "prototxt") -> NetSpec:
    """The same for a text in memory."""
    return _spec(text, where, "TEST", None)


def _decoded(path: Path) -> str:
    raw = read_file(path, MAX_BYTES, "prototxt", PrototxtError)
    if found := stand_in(raw[:512]):
        raise PrototxtError(f"{path}: no prototxt, but {found}.")
    if (other := recognised(raw[:LENGTH])) not in (None, TEXT, PLAIN):
        raise PrototxtError(f"{path}: this is {other.what}, no prototxt; {other.advice}.")
    if raw.startswith(HDF5):
        raise PrototxtError(f"{path}: this is an HDF5 file, no prototxt; if it is Caffe's, give it second, as the weights.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # comments in old code pages; a name in one becomes its latin-1 reading
    if "\0" in text:
        what = "is it the caffemodel?" if begins_a_message(raw) else "and no caffemodel either, by its first bytes."
        raise PrototxtError(f"{path}: this is a binary file, not a prototxt; {what}")
    return text


def _spec(text: str, where: str, phase: str, path: Path | None) -> NetSpec:
    if not text.strip():
        raise PrototxtError(f"{where}: the file is empty.")
    document = read_text(text, message_class("NetParameter")(), where)
    names = {u.path[0] for u in document.unknown}
    _refuse_misspelt(document, where)
    if not document.layers and names.intersection(_SOLVER_ONLY):
        return _solver(text, where, phase, path)
    if not document.layers:
        what = f"; its fields are {shown(sorted(names))}" if names else ""
        what += ": a label map of SSD's, perhaps" if names == {"item"} else ""
        raise PrototxtError(f"{where}: there is no layer in this file{what}.")
    return upgrade(document, where)


def _refuse_misspelt(document: Document, where: str) -> None:
    """Refuses fields outside of the layers that look like Caffe's own: input_dims, dims in an input_shape, Layer."""
    wrong = []
    for unknown in document.unknown:
        descriptor = document.message.DESCRIPTOR
        for name in unknown.path[:-1]:
            descriptor = descriptor.fields_by_name[name].message_type
        known = descriptor.fields_by_name
        if near := [name for name in meant(unknown.path[-1], known) if name != unknown.path[-1]]:
            wrong.append(f"{unknown.path[-1]} (line {unknown.line}; did you mean {near[0]}?)")
    if wrong:
        raise PrototxtError(f"{where}: Caffe knows no field {some(list(dict.fromkeys(wrong)), 4)}.")


def _solver(text: str, where: str, phase: str, path: Path | None) -> NetSpec:
    """The net of a solver file, in the order in which Caffe's solver.cpp looks for it."""
    document = read_text(text, message_class("SolverParameter")(), where)
    solver = document.message
    train = phase == "TRAIN"
    embedded = [solver.train_net_param] if train and solver.HasField("train_net_param") else []
    named = [solver.train_net] if train and solver.HasField("train_net") else []
    if not train:
        embedded, named = list(solver.test_net_param), list(solver.test_net)
    if not embedded and not named:
        embedded = [solver.net_param] if solver.HasField("net_param") else []
        named = [solver.net] if solver.HasField("net") else []
    if embedded:
        spec = upgrade(_within(document, embedded[0], where), where)
    elif named and path is not None:
        beside = _beside(named[0], path)
        spec = _spec(_decoded(beside), str(beside), phase, None)
    elif named:
        raise PrototxtError(f"{where}: this is a solver for the net {shown(named[0])}; give the net's own prototxt.")
    else:
        raise PrototxtError(f"{where}: this is a solver, and it names no net for phase {phase}; give the net's own prototxt.")
    states = [solver.train_state] if train and solver.HasField("train_state") else [] if train else list(solver.test_state[:1])
    for state in states:
        spec.state.MergeFrom(state)
    return spec


def _within(document: Document, net: Any, where: str) -> Document:
    """The part of a solver's document that is the embedded net: its layers are found again by their fields."""
    places = {"layer": len(net.layer), "layers": len(net.layers)}
    layers = [p for p in document.layers if p.index < places[p.kind]]
    if sum(places.values()) != len(document.layers):
        raise PrototxtError(f"{where}: the solver holds more than one net; write the one to convert into a file of its own.")
    return Document(net, layers, [])


def _beside(name: str, solver: Path) -> Path:
    """A solver names its net relative to Caffe's root; people keep the two side by side."""
    for candidate in (Path(name), solver.parent / name, solver.parent / Path(name).name):
        try:
            if candidate.is_file() and candidate.resolve() != solver.resolve():
                return candidate
        except (OSError, ValueError):
            continue
    raise PrototxtError(f"{solver}: this is a solver for the net {shown(name)}, which is not there; give the net's own prototxt.")
