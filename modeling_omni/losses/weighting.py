"""How the losses of several modalities become one."""

import torch
from torch import nn


class LossWeights(nn.Module):
    """Learned uncertainty weights, sum of exp(-s) * loss + s with one s a task (Kendall et al. 2018, equation 10).

    The parameters belong to the model, so that its optimiser trains them. The best s is the logarithm of the loss; an
    optimiser's steps are too short to find it in time from afar, so each starts near where its task ends.

    Args:
        start: by task, where s starts.
        fixed: by task, a fixed factor.
        learned: `False` leaves only the fixed factors.
    """

    def __init__(self, start: dict[str, float], fixed: dict[str, float], learned: bool = True):
        super().__init__()
        self.names = list(start)
        self.start = list(start.values())
        self.fixed = fixed
        self.log_variance = nn.Parameter(torch.tensor(self.start)) if learned else None

    def forward(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        total = 0.0
        for name, loss in losses.items():
            loss = self.fixed[name] * loss
            if self.log_variance is not None:
                log_variance = self.log_variance[self.names.index(name)]
                loss = torch.exp(-log_variance) * loss + log_variance
            total = total + loss
        return total
