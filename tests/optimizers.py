"""The optimizers under which every mask technique keeps its zeros: torch's, and two that mix elements."""

import torch


class NotElementwise(torch.optim.Optimizer):
    """Adds the mean gradient to every weight: what an optimizer that mixes elements may do to a zero."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(0.1 * parameter.grad.mean() + 0.01)


class Orthogonalized(torch.optim.Optimizer):
    """Momentum with all singular values set to one, as Muon's; biases take plain steps."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in (p for group in self.param_groups for p in group["params"]):
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.mul_(0.9).add_(parameter.grad)
            if parameter.dim() > 1:
                u, _, v = torch.linalg.svd(momentum.flatten(1), full_matrices=False)
                parameter.sub_(0.01 * (u @ v).view_as(parameter))  # mixes elements: masked ones move too
            else:
                parameter.sub_(0.01 * momentum)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2, amsgrad=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "orthogonalized": Orthogonalized,
    "not elementwise": NotElementwise,
}
