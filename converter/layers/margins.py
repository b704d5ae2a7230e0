"""Last layers of face nets in training: inner products with a margin for the labelled class, and distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, Layer, Param, layer

_MARGINS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4}


class MarginInnerProduct(CaffeModule):
    """x (..., K...) times rows of weight (num_output, K); the labelled class's logit gets a margin of m * the angle.

    Its new value is |x| |w| psi(angle), psi(angle) = (-1)^k cos(m angle) - 2k for k = floor(m angle / pi); then all logits are
    (new + lambda * old) / (1 + lambda). lambda = max(base * (1 + gamma * (iteration + 1)) ^ -power, lambda_min), as at
    Caffe's first forward pass (it counts them on; here every call is the first). Without a margin (m = 1): plain logits.
    unit_rows: the rows of weight are normalized first (SphereFace's margin_inner_product_layer.cpp); without: L-Softmax's
    largemargin_inner_product_layer.cpp. tops: 2 gives lambda (1,) as well.
    """

    def __init__(self, in_features: int, out_features: int, margin: int, base: float = 1.0, gamma: float = 0.0, power: float = 1.0,
                 lambda_min: float = 0.0, iteration: int = 0, axis: int = 1, unit_rows: bool = True, tops: int = 2):  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.margin = in_features, out_features, margin
        self.base, self.gamma, self.power, self.lambda_min, self.iteration = base, gamma, power, lambda_min, iteration
        self.axis, self.unit_rows, self.tops = axis, unit_rows, tops
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        lead = x.shape[: self.axis]
        rows = x.reshape(-1, self.in_features)
        weight = self.weight / self.weight.norm(dim=1, keepdim=True) if self.unit_rows else self.weight
        logits = rows @ weight.T
        factor = max(self.base * (1 + self.gamma * (self.iteration + 1)) ** -self.power, self.lambda_min)
        if self.margin > 1:
            labels = label.flatten().long()[:, None]
            old = logits.gather(1, labels)
            length = rows.norm(dim=1, keepdim=True)
            if not self.unit_rows:
                length = length * weight.norm(dim=1)[labels] + 1e-9
            new = length * self.psi(old / length)
            logits = (logits.scatter(1, labels, new) + factor * logits) / (1 + factor)
        logits = logits.reshape(*lead, self.out_features)
        return (logits, x.new_full((1,), factor)) if self.tops > 1 else logits

    def psi(self, cosine: Tensor) -> Tensor:
        """(-1)^k cos(m angle) - 2k, as the polynomials and signs of the forks' code."""
        sign, square = cosine.sign(), cosine * cosine
        if self.margin == 2:
            return 2 * sign * square - 1
        if self.margin == 3:
            half = (cosine.abs() - 0.5).sign()
            return half * (4 * square * cosine - 3 * cosine) + sign * (1 + half) - 2
        third = sign * (2 * square - 1).sign()
        return third * (8 * square * square - 8 * square + 1) + 2 * sign + third - 3


def _margin(p: Fields, x: Tensor, label: Tensor, unit_rows: bool) -> Layer:
    axis = p.axis_of(x)
    rows, columns = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    if p.num_output < 1 or label.numel() != rows:
        raise ValueError(f"{label.numel()} labels for {rows} rows, and num_output {p.num_output}; it takes one label a row, and outputs")
    if not 1 <= p.tops <= 2:
        raise ValueError(f"{p.tops} tops; there are the logits and lambda")
    module = MarginInnerProduct(
        columns, p.num_output, _MARGINS[p.type], p.base, p.gamma, p.power, p.lambda_min, p.iteration, axis, unit_rows, p.tops
    )
    return Layer(module, [Param("weight", p.weight_filler)])


@layer("MarginInnerProduct", "margin_inner_product_param", bottoms=(2, 2), origin="SphereFace")
def margin_inner_product(p: Fields, x: Tensor, label: Tensor) -> Layer:
    return _margin(p, x, label, unit_rows=True)


@layer("LargeMarginInnerProduct", "largemargin_inner_product_param", bottoms=(2, 2), origin="L-Softmax")
def large_margin_inner_product(p: Fields, x: Tensor, label: Tensor) -> Layer:
    return _margin(p, x, label, unit_rows=False)


class InnerDistance(CaffeModule):
    """(..., K...) -> (..., num_output): the squared "L2" or the "L1" distance of each row from the rows of weight (num_output, K).

    With two bottoms the second one is the weight. normalize: the rows of weight are divided by sqrt(sum of squares + 1e-6)
    first. happynear/caffe-windows: inner_distance_layer.cpp.
    """

    def __init__(self, in_features: int, out_features: int, kind: str = "L2", normalize: bool = False, axis: int = 1, learned: bool = True):
        super().__init__()
        self.in_features, self.out_features, self.kind, self.normalize = in_features, out_features, kind, normalize
        self.axis, self.learned = axis, learned
        self.weight = nn.Parameter(torch.empty(out_features, in_features)) if learned else None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        weight = self.weight if self.weight is not None else other
        assert weight is not None
        weight = weight.reshape(-1, self.in_features)
        if self.normalize and self.learned:
            weight = weight / ((weight * weight).sum(1, keepdim=True) + 1e-6).sqrt()
        apart = x.reshape(*x.shape[: self.axis], 1, self.in_features) - weight
        return (apart * apart if self.kind == "L2" else apart.abs()).sum(-1)


@layer(
    "InnerDistance",
    "inner_distance_param",
    bottoms=(1, 2),
    ignored={"bias_filler": "there is no bias"},
    origin="happynear",
    refuses="bias_term: true, which only its first versions add; transpose; update_center_only with two bottoms",
)
def inner_distance(p: Fields, x: Tensor, *other: Tensor) -> Layer:
    axis = p.axis_of(x)
    columns = math.prod(x.shape[axis:])
    if (p.has("bias_term") and p.bias_term) or p.transpose or (p.update_center_only and other):
        raise UnsupportedError(
            "bias_term: true, transpose: true, or update_center_only with two bottoms: the layer's versions differ in them"
        )
    if p.distance_type not in ("L1", "L2"):
        raise ValueError(f"distance_type {p.distance_type!r}; there are L1 and L2")
    outputs = other[0].shape[0] if other else p.num_output
    if outputs < 1 or (other and other[0].numel() != outputs * columns):
        raise ValueError(f"num_output {p.num_output}, and {columns} values a row; it takes outputs, or a second bottom of such rows")
    _ = p.num_output, p.weight_filler
    module = InnerDistance(columns, outputs, p.distance_type, p.normalize, axis, not other)
    return Layer(module, [] if other else [Param("weight", p.weight_filler)])
