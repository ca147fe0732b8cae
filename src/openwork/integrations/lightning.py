"""Lightning: a callback that follows the optimizers and puts the sparsifier's state into checkpoints."""

from typing import Any

from openwork.core.sparsifier import Sparsifier

try:
    import lightning
except ImportError as error:
    raise ImportError('Lightning is missing; pip install "openwork[lightning]"') from error


class SparsifyCallback(lightning.Callback):
    """Follows the optimizers of the module's ``configure_optimizers`` while ``trainer.fit`` runs.

    The callback adds the penalty's gradient, so leave ``sparsifier.penalty()`` out of ``training_step``. It logs the
    metric ``sparsity`` after each epoch. It does not finalize: call ``sparsifier.finalize()`` when training is over.

    Args:
        sparsifier: The sparsifier of the LightningModule or a part of it, made before ``fit``.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Follows the optimizers."""
        self.sparsifier.detach()  # from those of an earlier fit, which may have failed
        self.sparsifier.attach(*trainer.optimizers, penalty_gradient=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stops following the optimizers."""
        self.sparsifier.detach()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Logs the sparsity of the selected weights, 0-1."""
        pl_module.log("sparsity", self.sparsifier.sparsity())

    def state_dict(self) -> dict[str, Any]:
        """The sparsifier's state, for Lightning's checkpoints."""
        return self.sparsifier.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a checkpoint's state, after Lightning has loaded the weights and before the optimizers'."""
        self.sparsifier.load_state_dict(state_dict)
