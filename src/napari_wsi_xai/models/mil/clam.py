"""CLAM: attention pooling with instance classifiers (Lu et al. 2021, arXiv 2004.09666)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.projected import ProjectedMIL

__all__ = ["CLAM", "CLAMMB", "CLAMSB", "InstanceEvaluation"]

InstanceLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, 2) and targets (n,) int64 to a scalar."""


@dataclass(frozen=True)
class InstanceEvaluation:
    """How the instance classifiers judge the tiles with the most and the least attention.

    Attributes
    ----------
    loss
        Scalar, differentiable.
    logits
        (n, 2) of the chosen tiles: class after class; within the bag's own class the k most
        attended by falling attention, then the k least attended by rising attention.
    targets
        (n,) int64: 1 for the most attended tiles of the bag's class, else 0.
    predictions
        (n,) int64, the larger of the two logits.
    """

    loss: Tensor
    logits: Tensor
    targets: Tensor
    predictions: Tensor


class CLAM(ProjectedMIL):
    r"""What both CLAM heads share: projection, attention network and instance classifiers.

    .. math::
        h_{ij} &= \max(0, W d_{ij} + b) \in R^{512} \\
        s_{ijk} &= w_k^T [\tanh(V h_{ij} + b_V) \odot \sigma(U h_{ij} + b_U)] + b_k
        \quad \text{(gated)} \\
        s_{ijk} &= w_k^T \tanh(V h_{ij} + b_V) + b_k \quad \text{(not gated)}

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    hidden
        Length of the projected descriptors.
    attention
        Length of the attention network's hidden layer; 256 is the authors' ``small``, 384 ``big``.
    gated
        Whether the attention network has the gate U.
    dropout
        Probability with which entries are dropped in training.
    k_sample
        Tiles that :meth:`instance_evaluation` takes from each end of the attention.
    subtyping
        Classes exclude each other: :meth:`instance_evaluation` also looks at the other classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 512,
        attention: int = 256,
        gated: bool = True,
        dropout: float = 0.25,
        k_sample: int = 8,
        subtyping: bool = False,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            hidden=hidden,
            attention=attention,
            gated=gated,
            dropout=dropout,
            k_sample=k_sample,
            subtyping=subtyping,
        )
        check_whole(1, hidden=hidden, attention=attention, k_sample=k_sample)
        self.gated, self.k_sample, self.subtyping = gated, k_sample, subtyping
        self.projection = nn.Linear(in_features, hidden)
        self.attention_V = nn.Linear(hidden, attention)
        if gated:
            self.attention_U = nn.Linear(hidden, attention)
        self.attention_w = nn.Linear(attention, self.num_branches)
        self.dropout = nn.Dropout(dropout)
        self.instance_classifiers = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(num_classes))
        self.add_classifier(hidden)

    @abstractmethod
    def add_classifier(self, hidden: int) -> None:
        """Give the head what :meth:`decide` needs."""

    @property
    @abstractmethod
    def num_branches(self) -> int:
        """K, the number of attention distributions."""

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to (N, hidden)."""
        return self.dropout(torch.relu(self.projection(features)))  # type: ignore[no-any-return]

    def score_projected(self, projected: Tensor) -> Tensor:
        """Projections (N, hidden) to attention logits (N, K)."""
        inner = self.dropout(torch.tanh(self.attention_V(projected)))
        if self.gated:
            inner = inner * self.dropout(torch.sigmoid(self.attention_U(projected)))
        return self.attention_w(inner)  # type: ignore[no-any-return]

    def classify_instances(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to the instance classifiers' logits (C, N, 2)."""
        projected = self.project(self.check_bag(features))
        return torch.stack([classify(projected) for classify in self.instance_classifiers])

    def instance_evaluation(
        self, features: Tensor, label: int, loss: InstanceLoss = cross_entropy
    ) -> InstanceEvaluation:
        r"""Train the instance classifiers on what the attention takes for evidence.

        For the bag's class, its k most attended tiles have target 1 and its k least attended 0;
        with ``subtyping`` the k most attended of every other class have target 0:

        .. math::
            L = \sum_c \ell(z_c, t_c) \,/\, (C \text{ with subtyping, else } 1)

        Parameters
        ----------
        features
            (N, D) descriptors of the bag, N >= ``k_sample``.
        label
            The bag's class, 0 <= label < C.
        loss
            Of the logits (n, 2) and targets (n,) of one class; cross entropy unless told.

        Raises
        ------
        BadArgumentError
            ``label`` is no class.
        ModelError
            The bag holds fewer than ``k_sample`` tiles.
        """
        projected = self.project(self.check_bag(features))
        label = self.check_label(label)
        self._check_instances(len(projected))
        attention = self.weigh(self.score_projected(projected))
        parts: list[tuple[Tensor, Tensor]] = []
        for c, classify in enumerate(self.instance_classifiers):
            if c == label or self.subtyping:
                weights = attention[:, min(c, self.num_branches - 1)]
                chosen, targets = self._instances(weights, own=c == label)
                parts.append((classify(projected[chosen]), targets))
        total = torch.stack([loss(z, t) for z, t in parts]).sum()
        logits = torch.cat([z for z, _ in parts])
        return InstanceEvaluation(
            total / self.num_classes if self.subtyping else total,
            logits,
            torch.cat([t for _, t in parts]),
            logits.argmax(dim=1),
        )

    def _check_instances(self, count: int) -> None:
        if count < self.k_sample:
            raise ModelError(
                f"k_sample={self.k_sample} tiles of each end cannot be taken from a bag of "
                f"{count} tiles: take larger bags or a head with a smaller k_sample."
            )

    def _instances(self, weights: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        """Chosen tiles and their targets, of attention (N,) of one class."""
        k = self.k_sample
        most = torch.topk(weights, k).indices
        if not own:
            return most, torch.zeros_like(most)
        least = torch.topk(weights, k, largest=False).indices
        return torch.cat([most, least]), torch.cat([torch.ones_like(most), torch.zeros_like(least)])


class CLAMSB(CLAM):
    r"""CLAM with a single attention branch.

    .. math::
        a_{ij} = \frac{\exp s_{ij}}{\sum_l \exp s_{il}}, \qquad
        D_i = \sum_j a_{ij} h_{ij}, \qquad P_i = W_c D_i + b_c

    Scores, projection and parameters are those of :class:`CLAM`; K = 1.
    """

    architecture = "clam-sb"

    def add_classifier(self, hidden: int) -> None:
        """One linear classifier of all classes."""
        self.classifier = nn.Linear(hidden, self.num_logits)

    @property
    def num_branches(self) -> int:
        """One attention distribution for all classes."""
        return 1

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear classifier: (hidden,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]


class CLAMMB(CLAM):
    r"""CLAM with an attention branch and a classifier for every class.

    .. math::
        a_{ijc} = \frac{\exp s_{ijc}}{\sum_l \exp s_{ilc}}, \qquad
        D_{ic} = \sum_j a_{ijc} h_{ij}, \qquad P_{ic} = w_c^T D_{ic} + b_c

    Scores, projection and parameters are those of :class:`CLAM`; K = C. The slide descriptor is
    :math:`[D_{i1}, ..., D_{iC}]`.
    """

    architecture = "clam-mb"

    def add_classifier(self, hidden: int) -> None:
        """A linear classifier of one logit for every branch."""
        self.classifiers = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(self.num_logits))

    @property
    def num_branches(self) -> int:
        """An attention distribution for every logit."""
        return self.num_logits

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """A linear classifier for every branch: (C hidden,) to (C,)."""
        branches = slide_descriptor.reshape(self.num_branches, -1)
        pairs = zip(self.classifiers, branches, strict=True)
        return torch.cat([classify(branch) for classify, branch in pairs])
