"""Muon: momentum whose matrix updates are orthogonalized, for the weights inside the layers.

The update of a matrix has the root mean square of a typical AdamW update (0.2), so that learning rate
and weight decay mean the same in both.
"""

import torch


def orthogonalize(update):
    """Push all singular values of `(n, m)` towards 1, by five Newton-Schulz steps; RMS about 0.2."""
    longest = max(update.shape)
    tall = update.shape[0] > update.shape[1]
    x = update.t() if tall else update
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.t()
        b = torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, b, x, beta=3.4445)
    return (x.t() if tall else x) * (0.2 * longest**0.5)


class Muon(torch.optim.Optimizer):
    """For matrices alone. A matrix three times as wide as high holds queries, keys and values: three."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(mean, group["momentum"])
                parts = 3 if weight.shape[1] == 3 * weight.shape[0] else 1
                update = torch.cat([orthogonalize(part) for part in update.chunk(parts, dim=1)], dim=1)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"])
