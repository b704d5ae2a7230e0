"""Layers that are left out of the net, with a note, where nobody reads what they make: what trains a net or scores it.

They take labels, and the net gives its answer without them. A layer whose tops are the answer (Yolov3DetectionOutput,
CTCGreedyDecoder, MultiStageMeanfield, FrcnnOutput) is none of them: it is computed, or refused.
"""

from __future__ import annotations

import re

from converter.read.upgrade import LayerSpec

LOSS, EVALUATION, SAMPLING = "a loss", "an evaluation", "a choice of training samples"

# LayerParameter.type or a V1 name, or the class of a Python layer, where the name alone does not tell: what it is, and whose
DROPPED: dict[str, tuple[str, str]] = {
    "Contrastive": (LOSS, "a fork of 2014"),
    "RegionLoss": (LOSS, "eric612/MobileNet-YOLO"),
    "Yolov3": (LOSS, "eric612/MobileNet-YOLO"),
    "YoloSeg": (LOSS, "eric612/MobileNet-YOLO"),
    "BoundedIOULoss": (LOSS, "zhaoweicai/cascade-rcnn"),
    "LOSS_TREE": (LOSS, "a fork of 2014"),
    "BboxAccuracy": (EVALUATION, "zhaoweicai/cascade-rcnn"),
    "ConfusionMatrix": (EVALUATION, "BVLC/caffe, a pull request"),
    "DetectionEvaluate": (EVALUATION, "weiliu89/caffe (SSD)"),
    "EvalDetection": (EVALUATION, "eric612/MobileNet-YOLO"),
    "LabelsequenceAccuracy": (EVALUATION, "BVLC/caffe, warp-ctc branches"),
    "SegmentationEvaluate": (EVALUATION, "xxradon/PytorchToCaffe"),
    "AnnotatedDataEvaluate": (EVALUATION, "SSD's forks"),
    "caffe.layers.detectnet.mean_ap.mAP": (EVALUATION, "NVIDIA/DIGITS (DetectNet)"),
    "caffe.layers.detectnet.mean_ap.ScoreDetections": (EVALUATION, "NVIDIA/DIGITS (DetectNet)"),
    "caffe.layers.detectnet.clustering.ClusterGroundtruth": (EVALUATION, "NVIDIA/DIGITS (DetectNet)"),
    "BoxAnnotatorOHEM": (SAMPLING, "daijifeng001/caffe-rfcn"),
    "DetectionGroupTarget": (SAMPLING, "zhaoweicai/cascade-rcnn"),
    "HardMining": (SAMPLING, "forks"),
    "GenerateTarget": (SAMPLING, "forks"),
    "ProposalTarget": (SAMPLING, "zhaoweicai/cascade-rcnn"),
    "rpn.anchor_target_layer.AnchorTargetLayer": (SAMPLING, "rbgirshick/py-faster-rcnn"),
    "rpn.proposal_target_layer.ProposalTargetLayer": (SAMPLING, "rbgirshick/py-faster-rcnn"),
}

# By Caffe's own convention a type's name ends in Loss or Accuracy where it is one (SoftmaxWithLossOHEM and V1's ACCURACY_TREE are,
# too); Python layers keep to it.
_BY_NAME = {
    LOSS: re.compile(r"(loss|criterion|mse)(ohem|layer|_?\d+)?$|_loss_|^loss_", re.IGNORECASE),
    EVALUATION: re.compile(r"(accuracy|evaluat(e|ion|or)|metrics?)(layer|_?\d+)?$|^(accuracy|eval)_", re.IGNORECASE),
    SAMPLING: re.compile(r"(anchor|proposal|box|bbox|roi)_?(annotator|target)(ohem|layer|_?\d+)?$", re.IGNORECASE),
}


def is_variant(spec: LayerSpec) -> bool:
    """Whether a type that we know has a form that only chooses training samples: R-FCN's third top, the loss of each place."""
    return spec.type == "SoftmaxWithLoss" and len(spec.message.top) > 2


def purpose(spec: LayerSpec) -> str | None:
    """What a layer is for, where it may be left out: LOSS, EVALUATION or SAMPLING; None for a layer that computes."""
    name = spec.type
    if name == "Python":
        python = spec.message.python_param
        name = f"{python.module}.{python.layer}"
    if name in DROPPED:
        return DROPPED[name][0]
    last = name.rpartition(".")[2]
    found = next((kind for kind, pattern in _BY_NAME.items() if pattern.search(last)), None)
    if found is None and spec.type == "Python" and any(spec.message.loss_weight):
        return LOSS  # Caffe adds up the tops of layers with a loss_weight
    return found
