"""The losses of the encoder's fine-tuning: domains together and apart, and the routing-aware term."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, normalize


def intra_loss(
    embeddings: torch.Tensor, domains: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """L_intra: mean of 1 − cosine between an embedding and its domain's centroid.

    embeddings: (n, d) unit rows. domains: (n,) int64, −1 for none. centroids: (k, d) unit rows.
    Zero when no query has a domain.
    """
    known = domains >= 0
    if not known.any():
        return embeddings.sum() * 0.0
    own = centroids[domains[known]]
    return (1.0 - (embeddings[known] * own).sum(1)).mean()


def inter_loss(
    embeddings: torch.Tensor, domains: torch.Tensor, centroids: torch.Tensor, margin: float
) -> torch.Tensor:
    """L_inter: how far the batch's own domain means come nearer than ``margin`` (cosine) to the
    centroids of other domains, mean over the pairs. Arguments as ``intra_loss``."""
    known = domains >= 0
    present = domains[known].unique()
    if len(present) == 0 or len(centroids) < 2:
        return embeddings.sum() * 0.0
    member = (domains[known][None] == present[:, None]).to(embeddings.dtype)
    means = normalize(member @ embeddings[known], dim=1)
    closeness = (means @ centroids.T - margin).clamp(min=0.0)
    others = present[:, None] != torch.arange(len(centroids), device=present.device)[None]
    return closeness[others].mean()


def routing_loss(logits: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between each candidate's predicted and true quality, over known outcomes.

    logits: (n, L). quality: (n, L) in [0, 1], NaN where there is no outcome.
    """
    known = torch.isfinite(quality)
    if not known.any():
        return logits.sum() * 0.0
    return binary_cross_entropy_with_logits(logits[known], quality[known])
