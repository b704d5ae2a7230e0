"""CRF-RNN's mean field iterations (torrvision/caffe): a dense CRF whose Gaussian filters run on a permutohedral lattice."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, Layer, Param, layer


class MultiStageMeanfield(CaffeModule):
    """unary and start (N, C, H, W), image (N, 3 or more, H, W) -> scores (N, C, H, W), not normalized.

    Each iteration filters softmax(x) over places (theta_gamma) and over places and colours (theta_alpha, theta_beta), mixes the
    classes by spatial, bilateral and compatibility, all (C, C), and takes the result from unary. The filters are those of
    Adams et al., "Fast high-dimensional filtering using the permutohedral lattice", as multi_stage_meanfield.cpp and
    modified_permutohedral.cpp have them, in float32.
    """

    def __init__(self, classes: int, num_iterations: int, theta_alpha: float, theta_beta: float, theta_gamma: float):
        super().__init__()
        self.classes, self.num_iterations = classes, num_iterations
        self.theta_alpha, self.theta_beta, self.theta_gamma = theta_alpha, theta_beta, theta_gamma
        self.spatial, self.bilateral, self.compatibility = (nn.Parameter(torch.empty(classes, classes)) for _ in range(3))

    def forward(self, unary: Tensor, start: Tensor, image: Tensor) -> Tensor:
        if start.shape != unary.shape or image.shape[0] != unary.shape[0] or image.shape[2:] != unary.shape[2:] or image.shape[1] < 3:
            raise ValueError("it takes unary and start (N, C, H, W), and an image (N, 3, H, W)")
        if unary.is_meta:
            return unary.new_empty(unary.shape)
        return torch.stack([self.item(*each) for each in zip(unary, start, image, strict=True)])

    def item(self, unary: Tensor, x: Tensor, image: Tensor) -> Tensor:
        height, width = unary.shape[1:]
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        places = torch.stack((columns.expand(height, width), rows[:, None].expand(height, width)), 2).reshape(-1, 2).float()
        colours = image[:3].flatten(1).T.detach().float() / self.theta_beta
        near = self.lattice(places / self.theta_gamma)
        alike = self.lattice(torch.cat((places / self.theta_alpha, colours), 1))
        x, unary = x.flatten(1), unary.flatten(1)
        one = torch.ones_like(x[:1])
        norms = [1 / (self.filtered(one, *lattice) + 1e-20) for lattice in (near, alike)]
        for _ in range(self.num_iterations):
            prob = torch.softmax(x, 0)
            message = self.spatial @ (self.filtered(prob, *near) * norms[0]) + self.bilateral @ (self.filtered(prob, *alike) * norms[1])
            x = unary - self.compatibility @ message
        return x.reshape(-1, height, width)

    def lattice(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of points (P, d): their vertices and the weights of these, (P, d + 1) each, and each vertex's neighbours (d + 1, M, 2).

        M, one more than the last vertex, stands for a neighbour that no point touches.
        """
        count, d = features.shape
        features = F.pad(features, (0, 0, 0, -count % 4))  # the code works on four points at once, and fills up with zeros
        spread = math.sqrt(2 / 3) * (d + 1)
        scaled = features * torch.tensor([spread / math.sqrt((i + 1) * (i + 2)) for i in range(d)], device=features.device)
        total, raised = torch.zeros_like(features[:, 0]), list[Tensor]()
        for j in range(d, 0, -1):
            raised.append(total - j * scaled[:, j - 1])
            total = total + scaled[:, j - 1]
        elevated = torch.stack([total, *reversed(raised)], 1)
        rounded = (elevated * torch.tensor(1 / (d + 1), dtype=torch.float32, device=features.device)).round()
        base, off = rounded * (d + 1), rounded.sum(1, keepdim=True)
        apart = elevated - base
        less = apart[:, :, None] < apart[:, None]
        pairs = torch.ones(d + 1, d + 1, dtype=torch.bool, device=features.device).triu(1)  # i < j: the greater one's rank is less
        rank = (less & pairs).sum(2) + (~less & pairs).sum(1) + off
        wrapped = (rank < 0).float() * (d + 1) - (rank > d).float() * (d + 1)
        rank, base = (rank + wrapped).long(), base + wrapped
        share = (elevated - base) / (d + 1)
        weights = features.new_zeros(len(features), d + 2)
        weights = weights.scatter_add(1, d - rank, share).scatter_add(1, d - rank + 1, -share)
        weights = torch.cat((weights[:, :1] + 1 + weights[:, d + 1 :], weights[:, 1 : d + 1]), 1)
        colour = torch.arange(d + 1, device=features.device)
        canonical = torch.where(colour <= d - colour[:, None], colour[:, None], colour[:, None] - (d + 1))
        keys = base[:, None, :d].long() + canonical[:, rank[:, :d]].movedim(0, 1)
        low = keys.amin((0, 1)) - d - 1
        sizes = (keys.amax((0, 1)) + d + 2 - low).tolist()
        if math.prod(sizes) >= 1 << 62:
            raise ValueError("the image's values lie too far apart for a lattice")
        steps = torch.tensor([math.prod(sizes[i + 1 :]) for i in range(d)], device=keys.device)
        vertices, index = torch.unique(((keys - low) * steps).sum(2), return_inverse=True)
        moves = torch.tensor([[(d if i == j else -1) for i in range(d)] for j in range(d + 1)], device=keys.device) @ steps
        wanted = vertices[:, None] + torch.stack((moves, -moves), 1)[:, None]
        found = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
        neighbours = torch.where(vertices[found] == wanted, found, len(vertices))
        return index[:count], weights[:count], neighbours

    def filtered(self, values: Tensor, index: Tensor, weights: Tensor, neighbours: Tensor) -> Tensor:
        """Values (C, P), spread over the vertices, blurred along each of the lattice's directions, and gathered again."""
        weights = weights.to(values.dtype)
        table = values.new_zeros(neighbours.shape[1] + 1, len(values))
        table = table.index_add(0, index.flatten(), (weights[:, :, None] * values.T[:, None]).flatten(0, 1))
        for sides in neighbours:
            table = torch.cat((table[:-1] + 0.5 * (table[sides[:, 0]] + table[sides[:, 1]]), table[-1:]))
        alpha = 1 / (1 + 2.0 ** (1 - weights.shape[1]))
        return ((weights * alpha)[:, :, None] * table[index]).sum(1).T


_FIRST = "the first values of weights that a caffemodel has"


@layer(
    "MultiStageMeanfield",
    "multi_stage_meanfield_param",
    bottoms=(3, 3),
    ignored={
        "threshold": "multi_stage_meanfield.cpp does not read it",
        "compatibility_mode": _FIRST,
        **dict.fromkeys(("spatial_filter_weight", "bilateral_filter_weight"), _FIRST),
        **dict.fromkeys(("spatial_filter_weights_str", "bilateral_filter_weights_str"), _FIRST),
    },
    origin="CRF-RNN",
    refuses="forced_spatial_filter_weight and forced_bilateral_filter_weight",
)
def multi_stage_meanfield(p: Fields, unary: Tensor, start: Tensor, image: Tensor) -> Layer:
    if unary.dim() != 4 or p.num_iterations < 2 or min(p.theta_alpha, p.theta_beta, p.theta_gamma) <= 0:
        raise ValueError("it takes four axes (N, C, H, W), num_iterations of at least 2, and positive thetas")
    classes = unary.shape[1]
    module = MultiStageMeanfield(classes, p.num_iterations, p.theta_alpha, p.theta_beta, p.theta_gamma)
    params = [Param(key, None, (1, 1, classes, classes)) for key in _KEYS]
    return Layer(module, params, _matrices, _as_stored)


_KEYS = ("spatial", "bilateral", "compatibility")


def _matrices(blobs: list[Tensor]) -> dict[str, Tensor]:
    """(1, 1, C, C) become (C, C)."""
    return {key: blob[0, 0] for key, blob in zip(_KEYS, blobs, strict=True)}


def _as_stored(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[key][None, None] for key in _KEYS]
