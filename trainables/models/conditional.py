"""Critics of the conditional nets: one is shown a class label, the other recovers a code.

Their generators are those of `compact`, whose latent holds the label or the code beside the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.models.compact import CompactCritic, he_bound
from trainables.models.network import Parameter, Weights


class LabelCritic(CompactCritic):
    """The critic of a conditional DCGAN: a score of picture and label.

    The label chooses a direction of the last features that is added to the common one
    (arXiv:1802.05637); joining it to the pixels, as arXiv:1411.1784 does, costs a first layer of
    as many more channels as there are labels.

    Args:
        labels: L.
    """

    def __init__(self, *, size: int, channels: int, width: int, labels: int) -> None:
        self.labels = labels
        super().__init__(size=size, channels=channels, width=width)

    def heads(self) -> dict[str, Parameter]:
        flat = self.flat_features
        return super().heads() | {"label.weight": Parameter((self.labels, flat), he_bound(flat))}

    def conditional(self, weights: Weights, batch: Tensor, labels: Tensor) -> Tensor:
        """Pictures [T, n, C, S, S] and labels [T, n, L] -> scores [T, n]."""
        features = self.features(weights, batch)
        direction = torch.bmm(labels, weights["label.weight"])
        common = weights["score.weight"].transpose(1, 2)
        return (features * (direction + common)).sum(-1)


class CodeCritic(CompactCritic):
    """Discriminator and Q of an InfoGAN (arXiv:1606.03657) on one trunk.

    Args:
        codes: numbers that Q tells: logits of the categories, then means of the continuous codes.
    """

    def __init__(self, *, size: int, channels: int, width: int, codes: int) -> None:
        self.codes = codes
        super().__init__(size=size, channels=channels, width=width)

    def heads(self) -> dict[str, Parameter]:
        flat = self.flat_features
        return super().heads() | {
            "code.weight": Parameter((flat, self.codes), he_bound(flat)),
            "code.bias": Parameter((1, self.codes)),
        }

    def recovered(self, weights: Weights, batch: Tensor) -> Tensor:
        """Pictures [T, n, C, S, S] -> what Q tells of their codes [T, n, codes]."""
        features = self.features(weights, batch)
        return torch.baddbmm(weights["code.bias"], features, weights["code.weight"])
