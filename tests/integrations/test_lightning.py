"""The callback in real Lightning trainings."""

import itertools

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

import openwork as ow
from openwork.integrations.lightning import SparsifyCallback
from tests.helpers import conv_net, image_batches

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),  # the ModelCheckpoint is left out
]
RAMP = ow.Cubic(0.8, begin=2, end=10, every=2)
TECHNIQUES = {
    "frozen": ow.GradualMagnitude(RAMP),
    "trained": ow.GradualMagnitude(RAMP, hidden="trained"),
    "RigL": ow.RigL(ow.Constant(0.8, every=2, stop=12)),
    "Movement": ow.Movement(RAMP),
    "VariationalDropout": ow.VariationalDropout(ow.Linear(1e-2, begin=1, end=5, every=1), log_sigma2=-5.0),
}
BATCHES = torch.utils.data.DataLoader(list(itertools.islice(image_batches(), 8)), batch_size=None)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = conv_net()
        self.zeros = []

    def on_train_batch_start(self, batch, _):
        torch.manual_seed(self.global_step)  # Lightning's checkpoints hold no random state

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.zeros.append(sum(int((p == 0).sum()) for p in self.net.parameters()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class TwoOptimizers(Classifier):
    automatic_optimization = False

    def training_step(self, batch, _):
        loss = super().training_step(batch, _)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[:3], self.net[3:])]


def started(technique, seed=0, module=Classifier):
    torch.manual_seed(seed)
    module = module()
    return module, ow.sparsify(module, technique)


def fit(module, sparsifier, folder, epochs, *, callbacks=(), resume=None, batches=BATCHES, **settings):
    trainer = lightning.Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False, enable_model_summary=False, callbacks=[SparsifyCallback(sparsifier), *callbacks],
        **settings,
    )  # fmt: skip
    trainer.fit(module, batches, BATCHES, ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(technique, tmp_path):
    whole, sparsifier = started(technique)
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    trainer = fit(whole, sparsifier, tmp_path, 2, callbacks=[checkpoints])
    assert sparsifier.steps == 16
    assert trainer.callback_metrics["sparsity"] == pytest.approx(sparsifier.sparsity())

    model, resumed = started(technique, seed=5)
    fit(model, resumed, tmp_path, 2, resume=tmp_path / "step=8.ckpt")
    assert resumed.steps == 16
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_accumulation_clipping_and_validation_see_the_sparse_model(tmp_path):
    module, sparsifier = started(TECHNIQUES["trained"])
    fit(module, sparsifier, tmp_path, 6, accumulate_grad_batches=4, gradient_clip_val=0.1, num_sanity_val_steps=0)
    assert sparsifier.steps == 12
    assert module.zeros[-1] == 58 + 512 + 40
    assert module.zeros == sorted(module.zeros)


def test_accumulation_gives_rigl_the_gradient_of_all_batches(tmp_path):
    def masks(batches, **settings):
        module, sparsifier = started(TECHNIQUES["RigL"])
        fit(module, sparsifier, tmp_path, 6, batches=batches, precision="64-true", **settings)
        return sparsifier

    x, y = (torch.cat(parts) for parts in zip(*BATCHES, strict=True))
    big = torch.utils.data.DataLoader(list(zip(x.split(32), y.split(32), strict=True)), batch_size=None)
    accumulated, whole = masks(BATCHES, accumulate_grad_batches=4), masks(big)
    assert accumulated.steps == whole.steps == 12
    for name, mask in whole.masks().items():
        assert torch.equal(accumulated.masks()[name], mask)


def test_the_callback_serves_a_second_fit_and_saving_changes_nothing(tmp_path):
    module, sparsifier = started(TECHNIQUES["frozen"])
    fit(module, sparsifier, tmp_path, 1)
    trainer = fit(module, sparsifier, tmp_path, 1)
    assert sparsifier.steps == 16
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    plain = Classifier()
    plain.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert ow.report(sparsifier.finalize()).sparsity == ow.report(plain).sparsity > 0.79


@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES)
def test_several_optimizers_count_one_step(technique, tmp_path):
    module, sparsifier = started(technique, module=TwoOptimizers)
    fit(module, sparsifier, tmp_path, 2)
    assert sparsifier.steps == 16


def test_the_penalty_is_added(tmp_path):
    def sparsity(coefficient):
        module, sparsifier = started(ow.L0(ow.Constant(coefficient), dropout=0.91))
        fit(module, sparsifier, tmp_path, 2)
        return sparsifier.sparsity()

    assert sparsity(1.0) > sparsity(0.0) + 0.3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_fine_tuning_keeps_the_zeros_of_a_pruned_model(accumulate):
    module = Classifier()
    ow.prune(module, ow.GradualMagnitude(ow.OneShot(0.8)))
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.dim() > 1}
    sparsifier = ow.sparsify(module, ow.GradualMagnitude(ow.Constant(0.0)), keep_zeros=True)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callback = SparsifyCallback(sparsifier)
    settings = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0, "callbacks": [callback]}
    trainer = lightning.Trainer(max_steps=6, **settings, **quiet)
    trainer.fit(module, BATCHES, BATCHES)
    sparsifier.finalize()
    for name, weight in before.items():
        now = module.get_parameter(name)
        assert torch.equal(now == 0, weight == 0)
        assert not torch.equal(now, weight)
