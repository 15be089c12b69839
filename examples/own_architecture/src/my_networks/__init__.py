"""An architecture of one's own: a torch module whose constructor takes what a job's `kwargs` give."""

import torch
from torch import nn


class TwoTowers(nn.Module):
    """Two towers, summed; a policy may freeze one. From (batch, in_features) to (batch, out_features)."""

    def __init__(self, *, in_features: int, hidden: int = 8, out_features: int = 1) -> None:
        super().__init__()
        self.reference = nn.Sequential(nn.Linear(in_features, hidden), nn.Tanh(), nn.Linear(hidden, out_features))
        self.correction = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reference(x) + self.correction(x)
