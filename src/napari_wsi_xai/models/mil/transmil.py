"""TransMIL (Shao et al., NeurIPS 2021, arXiv 2106.00908)."""

from __future__ import annotations

from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.nystrom import NystromAttention
from napari_wsi_xai.models.mil.transformer import TransformerMIL

__all__ = ["TransMIL"]


class TransMIL(TransformerMIL):
    """Two layers of Nystrom attention with the pyramid position encoding between them.

    See :class:`~napari_wsi_xai.models.mil.transformer.TransformerMIL` for the equations and
    :class:`~napari_wsi_xai.models.mil.nystrom.NystromAttention` for the attention.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    dim
        Length of a token.
    heads
        Attention heads.
    landmarks
        Landmarks of the attention; ``None`` for half of ``dim``. Checkpoints do not tell it.
    pinv_iterations
        Iterations of the pseudo-inverse.
    residual_kernel
        Taps of the convolution of the values along the tokens, odd, or 0 for none.
    crop
        ``"back"`` for heads trained with nystrom-attention 0.0.10 or later, ``"front"`` for 0.0.9
        and before, which the authors' requirements name. Checkpoints do not tell it, and the
        logits differ strongly.
    dropout
        Probability with which entries of an attention's output are dropped in training.
    """

    architecture = "transmil"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        dim: int = 512,
        heads: int = 8,
        landmarks: int | None = None,
        pinv_iterations: int = 6,
        residual_kernel: int = 33,
        crop: str = "back",
        dropout: float = 0.1,
    ) -> None:
        check_whole(1, dim=dim)
        landmarks = max(1, dim // 2) if landmarks is None else landmarks
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            dim=dim,
            heads=heads,
            landmarks=landmarks,
            pinv_iterations=pinv_iterations,
            residual_kernel=residual_kernel,
            crop=crop,
            dropout=dropout,
        )
        settings = (dim, heads, residual_kernel, dropout, landmarks, pinv_iterations, crop)
        self.build_layers(dim, [NystromAttention(*settings) for _ in range(2)])
