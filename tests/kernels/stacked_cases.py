"""Stacked layers to train, and what autograd and torch's own Adam make of each of them alone, in float64."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from openwork.kernels.adam import mark_masked

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass
class Layer:
    """N stacked Linear layers, their moments, inputs and gradients."""

    weight: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    bias: torch.Tensor | None
    bias_exp_avg: torch.Tensor | None
    bias_exp_avg_sq: torch.Tensor | None
    x: torch.Tensor
    gradient: torch.Tensor
    rows: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    @property
    def moved(self):
        """What a step changes."""
        moments = (self.bias, self.bias_exp_avg, self.bias_exp_avg_sq)
        return [self.weight, self.exp_avg, self.exp_avg_sq, *(each for each in moments if each is not None)]

    def copy(self, **changes):
        changed = {name: None if value is None else value.clone() for name, value in vars(self).items()}
        return replace(self, **(changed | changes))

    def to(self, device):
        return replace(self, **{name: None if each is None else each.to(device) for name, each in vars(self).items()})

    def inputs(self):
        """(N, B, in)."""
        x = self.x if self.rows is None else self.x[self.rows]
        return x.expand(len(self.weight), *x.shape[-2:])


def layer(members, batch, inputs, outputs, *, bias=True, masked=False, rows=False, shared=False, seed=0):
    """Random, after some steps."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    shape = (members, outputs, inputs)
    made = Layer(
        weight=random(*shape) / inputs**0.5,
        exp_avg=random(*shape) / 10,
        exp_avg_sq=random(*shape).square() / 10,
        bias=random(members, outputs) if bias else None,
        bias_exp_avg=random(members, outputs) / 10 if bias else None,
        bias_exp_avg_sq=random(members, outputs).square() / 10 if bias else None,
        x=random(11, inputs) if rows else random(batch, inputs) if shared else random(members, batch, inputs),
        gradient=random(members, batch, outputs) / batch,
        rows=torch.randint(11, (members, batch), generator=generator) if rows else None,
        mask=torch.rand(shape, generator=generator) < 0.5 if masked else None,
    )
    if made.mask is not None:
        for each in (made.weight, made.exp_avg, made.exp_avg_sq):
            each.mul_(made.mask)
        mark_masked(made.exp_avg_sq, made.mask)
    return made


def alone(given, number, rate, step, weight_decay=0.0):
    """What `moved` is of one member after its step, float64, by autograd and `torch.optim.Adam`."""
    member = [each[number].double() for each in given.moved]
    weight, bias = member[0].requires_grad_(), member[3].requires_grad_() if given.bias is not None else None
    optimizer = torch.optim.Adam([weight] if bias is None else [weight, bias], lr=rate, betas=BETAS, eps=EPS)
    optimizer.param_groups[0]["weight_decay"] = weight_decay
    moments = [(weight, *member[1:3]), *([(bias, *member[4:])] if bias is not None else [])]
    for parameter, exp_avg, exp_avg_sq in moments:
        state = {"step": torch.tensor(float(step - 1)), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        optimizer.state[parameter] = state
    y = F.linear(given.inputs()[number].double(), weight, bias)
    y.backward(given.gradient[number].double())
    if given.mask is not None:
        weight.grad *= given.mask[number]
    optimizer.step()
    return [each.detach() for parameter, *others in moments for each in (parameter, *others)]
