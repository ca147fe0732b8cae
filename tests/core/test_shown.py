"""What is kept of one input, as that of query, key and value, is computed once."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks.input_products import InputProducts


class Attention(nn.Module):
    """Three layers of one input, and one of its own; ``change`` comes before the third."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.change = change
        self.query, self.key, self.value, self.out = (nn.Linear(6, 6, bias=False) for _ in range(4))

    def forward(self, x):
        found = self.query(x) + self.key(x)
        return self.out(found * self.value(self.change(x)))


CHANGES = {  # and how many of 3 * 4 inputs are looked at
    "none": (lambda x: x, 6),
    "in place": (lambda x: x.add_(1), 9),
    "another tensor": (lambda x: x + 1, 9),
    "as a view": (lambda x: x.view(x.shape), 6),
    "only where it is positive": (lambda x: x if x[0, 0, 0] > 0 else x.clone(), 8),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_inputs_of_several_layers_are_looked_at_once_and_those_that_change_again(monkeypatch, change, dtype):
    looked, real = [], InputProducts.input
    monkeypatch.setattr(InputProducts, "input", lambda self, kept, rows: (looked.append(rows), real(self, kept, rows)))
    changed, number = CHANGES[change]
    model = Attention(changed).to(dtype)
    batches = torch.randn(3, 2, 5, 6).to(dtype)
    batches[:, 0, 0, 0] = torch.tensor([1.0, -1.0, 1.0])
    seen = {}
    for name in ("query", "key", "value", "out"):
        getattr(model, name).register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, []).append(
                args[0].detach().float().reshape(-1, 6).clone()
            )
        )

    def run(model):
        for batch in batches:
            model(batch.clone())

    sparsifier = ow.sparsify(model, ow.SparseGPT(ow.OneShot(0.5)), calibrate=run)
    kept = sparsifier.state_dict()["evidence"]
    assert len(looked) == number
    for name, rows in seen.items():
        x = torch.cat(rows)
        torch.testing.assert_close(kept[f"{name}.weight"]["products"], x.T @ x)
        assert int(kept[f"{name}.weight"]["rows"]) == len(x)
