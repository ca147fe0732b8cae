"""Layers that get one input, as query, key and value do, have one X Xᵀ, which is computed once."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import input_products
from openwork.core.masks.input_products import InputProducts


class Attention(nn.Module):
    """Three layers of one input, which changes in place before the last, and one of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.out = (nn.Linear(6, 6, bias=False) for _ in range(4))

    def forward(self, x, attention_mask=None):
        found = self.query(x) + self.key(x)
        x += 1
        return self.out(found * self.value(x))


MODES = {"no gradients": torch.no_grad, "inference mode": torch.inference_mode, "gradients": torch.enable_grad}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_products_of_one_input_are_computed_once(monkeypatch, dtype, mode):
    products, real = [], torch.Tensor.addmm_

    def counted(self, *args, **settings):
        products.append(self)
        return real(self, *args, **settings)

    monkeypatch.setattr(torch.Tensor, "addmm_", counted)
    model, batches = Attention().to(dtype), torch.randn(3, 2, 5, 6).to(dtype)
    seen = {}
    for name in ("query", "key", "value", "out"):
        getattr(model, name).register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, []).append(
                args[0].detach().float().flatten(0, 1).clone()
            )
        )

    def run(model):
        with MODES[mode]():
            for batch in batches:
                model(batch.clone())

    sparsifier = ow.sparsify(model, ow.SparseGPT(ow.OneShot(0.5)), calibrate=run)
    kept = sparsifier.state_dict()["evidence"]
    for name, rows in seen.items():
        x = torch.cat(rows)
        torch.testing.assert_close(kept[f"{name}.weight"]["products"], x.T @ x)
        assert int(kept[f"{name}.weight"]["rows"]) == 30
    assert len(products) == 3 * (4 if mode == "inference mode" else 3)


def test_products_of_a_batch_are_gone_with_it():
    rows = torch.randn(4, 3)
    InputProducts().input({}, rows)
    known = len(input_products._LATEST)
    del rows
    assert len(input_products._LATEST) == known - 1
