"""All that a call which raises could change: of a model, its optimizers and its sparsifier."""

import copy

import torch
from torch import nn

import openwork as ow


class Everything:
    """A model, a sparsifier and optimizers as they are now, to compare with what they are later."""

    def __init__(self, model: nn.Module, *others) -> None:
        self.parts = model, others
        self.before = self._now()

    def assert_unchanged(self) -> None:
        assert_same(self.before, self._now(), "")

    def _now(self):
        model, others = self.parts
        return {
            "classes": [type(module) for module in model.modules()],
            "attributes": [sorted(vars(module)) for module in model.modules()],
            "modes": [module.training for module in model.modules()],
            "values": copy.deepcopy(model.state_dict()),
            "gradients": [copy.deepcopy(p.grad) for p in model.parameters()],
            "trained": [p.requires_grad for p in model.parameters()],
            "identities": [id(p) for p in model.parameters()],
            "hooks": [list(p._post_accumulate_grad_hooks or ()) for p in model.parameters()],
            "module hooks": [[*m._forward_pre_hooks, *m._forward_hooks] for m in model.modules()],
            "random": torch.get_rng_state(),
            "others": [_state(other) for other in others],
        }


def _state(other):
    if isinstance(other, ow.Sparsifier):
        return {"state": copy.deepcopy(other.state_dict()), "attached": [id(o) for o in other._optimizers]}
    hooks = (
        other._optimizer_step_pre_hooks,
        other._optimizer_step_post_hooks,
        other._optimizer_load_state_dict_post_hooks,
    )
    return {"state": copy.deepcopy(other.state_dict()), "hooks": [list(each) for each in hooks]}


def assert_same(one, two, where) -> None:
    """Equal bit by bit, all the way down."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert torch.equal(one.nan_to_num(123.0), two.nan_to_num(123.0)), where
    elif isinstance(one, dict):
        assert [*one] == [*two], where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for place, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}/{place}")
    else:
        assert one == two, where
