"""Hugging Face Trainer: a callback that follows the optimizer and keeps the sparsifier's state beside checkpoints."""

import os
from pathlib import Path
from typing import Any

import torch

from openwork.core.sparsifier import Sparsifier
from openwork.formats.files import replacing

try:
    import transformers
except ImportError as error:
    raise ImportError('transformers is missing; pip install "openwork[transformers]"') from error

_FILE = "sparsifier.pt"


class SparsifyCallback(transformers.TrainerCallback):
    """Follows the Trainer's optimizer while ``trainer.train()`` runs.

    The callback adds the penalty's gradient, writes the sparsifier's state into each checkpoint folder, reads it when
    training resumes, and adds ``sparsity`` to the logs. With ``load_best_model_at_end`` the state at the end is that of
    the best checkpoint, too. It does not finalize: call ``sparsifier.finalize()`` when training is over, before
    ``save_pretrained``.

    Args:
        sparsifier: The sparsifier of the Trainer's model, made before the Trainer.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Takes over a checkpoint's state where training resumes, and follows the optimizer."""
        if state.global_step:
            folder = args.resume_from_checkpoint
            if not isinstance(folder, str) or not Path(folder).is_dir():
                folder = _folder(args, state)
            self._load(Path(folder))
        self.sparsifier.detach()  # from the optimizer of an earlier training, which may have failed
        optimizer = kwargs["optimizer"]
        # Accelerate wraps the optimizer, and its wrapper runs no step hooks.
        self.sparsifier.attach(getattr(optimizer, "optimizer", optimizer), penalty_gradient=True)

    def on_save(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Writes the state into the checkpoint that the Trainer has just written."""
        if args.should_save:
            folder = Path(_folder(args, state))
            with replacing(folder / _FILE) as temporary:
                torch.save(self.sparsifier.state_dict(), temporary)

    def on_log(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Adds the sparsity of the selected weights, 0-1, to what is printed and to ``state.log_history``."""
        if "loss" in kwargs["logs"]:
            kwargs["logs"]["sparsity"] = state.log_history[-1]["sparsity"] = self.sparsifier.sparsity()

    def on_train_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stops following the optimizer, and takes over the best model's state where its weights are loaded."""
        self.sparsifier.detach()
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self._load(Path(state.best_model_checkpoint))

    def _load(self, folder: Path) -> None:
        if not (folder / _FILE).is_file():
            raise ValueError(
                f"{folder} holds no {_FILE}; resume from a checkpoint that was saved with SparsifyCallback, in "
                "output_dir or TrainingArguments(resume_from_checkpoint=...)"
            )
        saved = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
        for weight in self.sparsifier.weights:
            mask = saved.get("masks", {}).get(weight.name)
            if mask is not None and bool((weight.parameter.detach().cpu()[~mask] != 0).any()):
                raise ValueError(
                    f"the masks in {folder} are not those of the weights that the Trainer has loaded; pass the folder "
                    "that you resume from as TrainingArguments(resume_from_checkpoint=...), too"
                )
        self.sparsifier.load_state_dict(saved)


def _folder(args: transformers.TrainingArguments, state: transformers.TrainerState) -> str:
    return os.path.join(args.output_dir or "", f"checkpoint-{state.global_step}")
