"""Parameters that are one number, such as a learned temperature, where `all_parameters` selects them."""

import pytest
import torch
from torch import nn

import openwork as ow

SHARED = {
    "STR": ow.STR(-2.0),
    "SoftMovement": ow.SoftMovement(ow.Constant(1.0)),
    "DynamicSurgery": ow.DynamicSurgery(ow.Splicing(1000, gamma=0.0)),
    "PruneRetrain": ow.PruneRetrain(ow.OneShot(0.5)),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_all_weights_of_a_tensor_share_fits_a_parameter_that_is_one_number(kind):
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(8, 4)
            self.scale = nn.Parameter(torch.tensor(0.7))

        def forward(self, x):
            return self.scale * super().forward(x)

    sparsifier = ow.sparsify(model := Scaled(), SHARED[kind], select=ow.all_parameters)
    optimizer = torch.optim.SGD(sparsifier.parameter_groups(1e-2), lr=1e-3)
    sparsifier.attach(optimizer)
    for _ in range(3):
        (model(torch.randn(5, 8)).square().mean() + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier.finalize().scale.shape == ()
