"""ResNet on ImageNet, trained as by Gale, Elsen & Hooker 2019 (arXiv 1902.09574, appendix; their code)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.sparsifier import Sparsifier
from openwork.study.data import imagenet
from openwork.study.data.loader import ImageBatch, evaluation_batches, training_batches
from openwork.study.data.order import share
from openwork.study.data.reader import IGNORED
from openwork.study.data.record import Records
from openwork.study.data.records import open_records
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.models.resnet import ResNet, from_hugging_face
from openwork.study.processes import rank, sum_over_processes, world_size
from openwork.study.tasks.classification import channels_last, decayed, kernels
from openwork.study.tasks.parts import Parts
from openwork.study.tasks.task import Task

BATCH, STEPS = 1024, 128_000
EPOCHS = STEPS * BATCH / imagenet.IMAGES  # 102.3


@dataclass(frozen=True)
class ImageNetResNet(Task):
    """SGD with Nesterov momentum 0.9, on one device or many; on a GPU layers compute in bfloat16, else in float32.

    Over ``epochs`` the learning rate rises for ``warm_up`` epochs on a straight line from 0 and falls to a tenth at
    each of the ``milestones``. A run of fewer steps has the same shape in fewer epochs.

    Args:
        source: A folder, relative to OPENWORK_DATA, or a name on the hub; see `image_records`.
        validation: The split to evaluate on.
        depth: Layers of the network.
        width: Factor of its channels.
        classes: How many classes the images have.
        size: Height and width of the images that the network sees.
        batch_size: Images of an optimizer step.
        part_size: Images that go through the network, and its norms, at once: a step's batch is divided into parts of
            this size, which any number of processes share. The paper's is 128.
        rate: The learning rate for a batch of 256, scaled with batch_size.
        epochs: The length of the schedule, in epochs.
        warm_up: Epochs of the rise; 0 is none.
        milestones: Epochs after which the rate falls.
        weight_decay: The decay of the weights of convolutions and ``fc``, not of norms and biases.
        decay_random: Decay the means of random weights, too, as the paper has it for variational dropout; L0 has its
            own weight decay.
        label_smoothing: The smoothing of the labels, in [0, 1).
        same_pool: Whether the network pads its first pooling as TensorFlow does, as `ResNet` has it.
        filtered: Whether resizing images filters where it shrinks; TensorFlow 1's, and so the paper's, does not.

    Raises:
        ValueError: If batch_size is no multiple of part_size, or a value is out of its range.
    """

    source: str = imagenet.HUB_NAME
    validation: str = "validation"
    depth: int = field(default=50, kw_only=True)
    width: float = field(default=1.0, kw_only=True)
    classes: int = field(default=1000, kw_only=True)
    size: int = field(default=224, kw_only=True)
    batch_size: int = field(default=BATCH, kw_only=True)
    part_size: int = field(default=128, kw_only=True)
    rate: float = field(default=0.1, kw_only=True)
    epochs: float = field(default=EPOCHS, kw_only=True)
    warm_up: float = field(default=5.0, kw_only=True)
    milestones: tuple[float, ...] = field(default=(30.0, 60.0, 80.0), kw_only=True)
    weight_decay: float = field(default=1e-4, kw_only=True)
    decay_random: bool = field(default=False, kw_only=True)
    label_smoothing: float = field(default=0.1, kw_only=True)
    same_pool: bool = field(default=False, kw_only=True)
    filtered: bool = field(default=True, kw_only=True)

    metric = ACCURACY

    def __post_init__(self) -> None:
        if self.part_size < 1 or self.batch_size < 1 or self.batch_size % self.part_size:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of part_size, got {self.part_size}")
        for name, fits, right in (
            ("size", self.size >= 1, "at least 1; the paper's is 224"),
            ("epochs", self.epochs > 0, "more than 0; the paper's are 102.3"),
            ("warm_up", self.warm_up >= 0, "at least 0, which is none; the paper's is 5 epochs"),
            ("weight_decay", self.weight_decay >= 0, "at least 0, which is none; the paper's is 1e-4"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1), where 0 is none; the paper's is 0.1"),
        ):
            if not fits:
                raise ValueError(f"task.{name} must be {right}; got {getattr(self, name)}")

    @property
    def title(self) -> str:
        """The network with its width, and the name of the source."""
        width = "" if self.width == 1 else f" x {self.width:g}"
        return f"ResNet-{self.depth}{width}, {self.source.rpartition('/')[2]}"

    def model(self) -> nn.Module:
        """25,557,032 parameters for depth 50."""
        return channels_last(ResNet(self.depth, self.width, self.classes, same_pool=self.same_pool))

    def weights_from(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of torchvision's or Hugging Face's ResNet, with the names of `model`."""
        return from_hugging_face(state)

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum."""
        groups = decayed(model, sparsifier, self.weight_decay, among=kernels, means=self.decay_random)
        return torch.optim.SGD(groups, lr=self.learning_rate(0), momentum=0.9, nesterov=True, fused=True)

    def learning_rate(self, progress: float) -> float:
        """Peak * min(epoch / warm_up, 1) * 0.1 to the power of the number of milestones passed; 1 if warm_up is 0."""
        epoch = progress * self.epochs
        peak = self.rate * self.batch_size / 256
        passed = sum(epoch >= milestone for milestone in self.milestones)
        warmth = min(epoch / self.warm_up, 1.0) if self.warm_up else 1.0
        return float(peak * warmth * 0.1**passed)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Parts]:
        """Randomly cropped images in parts, in an order drawn for each epoch from the seed; see `training_batches`.

        Raises:
            ValueError: If the processes cannot share the parts of a batch equally.
        """
        count, processes = self.batch_size // self.part_size, world_size()
        if count % processes:
            raise ValueError(
                f"a batch has {count} parts of {self.part_size} images, which {processes} processes cannot share "
                "equally; start a number of processes that divides it, or choose another task.part_size"
            )
        train, validation = self._images("train"), self._images(self.validation)
        imagenet.check_same_classes(train, validation)
        for batch in training_batches(
            train,
            self.batch_size,
            size=self.size,
            classes=self.classes,
            seed=seed,
            start=start,
            device=device,
            rank=rank(),
            processes=processes,
            filtered=self.filtered,
        ):
            yield Parts(batch.parts(count // processes), count // processes * rank(), count)

    def loss(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Mean cross-entropy in nats with smoothed labels, of the images that could be decoded."""
        logits = self._logits(model, batch)
        losses = F.cross_entropy(
            logits, batch.labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return losses / (batch.labels != IGNORED).sum().clamp(min=1)

    def example(self, device: torch.device) -> Tensor:
        """A black image, (1, 3, size, size)."""
        return torch.zeros(1, 3, self.size, self.size, device=device)

    @property
    def evaluates_quickly(self) -> bool:
        """No: it decodes 50,000 images."""
        return False

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics over all validation images in evaluation mode, each counted once by however many processes.

        Needs no training images.

        Returns:
            accuracy and top5: the fraction of images whose label is the first, or among the first five, 0-1; loss: mean
            cross-entropy in nats, without smoothing, of the readable images; unreadable: how many could not be decoded,
            which count as wrong; images: how many there are.

        Raises:
            ValueError: If images were lost or counted twice.
        """
        training = model.training
        model.eval()
        validation = self._images(self.validation)
        size = int(validation.blocks.sum())
        numbers = range(*share(size, rank(), world_size()))
        totals = torch.zeros(5, dtype=torch.float64, device=device)
        batches = evaluation_batches(
            validation,
            numbers,
            self.part_size,
            size=self.size,
            classes=self.classes,
            device=device,
            filtered=self.filtered,
        )
        for batch in batches:
            totals += self._counts(model, batch)
        sum_over_processes([totals])
        model.train(training)
        images, correct, among_five, loss, unreadable = totals.tolist()
        if images != size:
            raise ValueError(f"{images:g} of {size:,} validation images were counted; this is a fault of openwork")
        return {
            "accuracy": correct / size,
            "top5": among_five / size,
            "loss": loss / max(size - unreadable, 1),
            "unreadable": int(unreadable),
            "images": size,
        }

    def with_images(self, source: str) -> Self:
        """The task with the images of another source.

        Raises:
            ValueError: As `check_same_classes` does.
        """
        other = replace(self, source=source)
        self.check_same_classes(other)
        return other

    def check_same_classes(self, other: "ImageNetResNet") -> None:
        """Checks that the other task's validation images name the same classes as this one's.

        Does so only if this task's images are in a folder, and name classes in the same form: the hub's "tench, Tinca
        tinca" is the folder n01440764. Downloads nothing for this task's images.

        Raises:
            ValueError: If a class differs.
        """
        try:
            mine = open_records(imagenet.local_folder(self.source), self.validation)
        except FileNotFoundError:
            return
        theirs = other._images(other.validation)
        if mine.classes is None or theirs.classes is None or type(mine) is not type(theirs):
            return
        for label, (expected, found) in enumerate(itertools.zip_longest(mine.classes, theirs.classes)):
            if expected != found:
                raise ValueError(
                    f"class {label} is {found!r} in {other.source} and {expected!r} in {self.source}, whose classes "
                    "the model knows; both must have the same classes in the same order"
                )

    def _counts(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Images, first right, among the first five, sum of losses and unreadable images of a batch, (5,) float64."""
        logits = self._logits(model, batch)
        loss = F.cross_entropy(logits, batch.labels, ignore_index=IGNORED, reduction="sum")
        best = logits.topk(min(5, self.classes)).indices == batch.labels[:, None]
        found = [batch.labels.numel(), best[:, 0].sum(), best.any(1).sum(), loss, (batch.labels == IGNORED).sum()]
        return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=loss.device) for value in found])

    def _logits(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        images = imagenet.normalized(batch.images, batch.mirrored)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            logits: Tensor = model(images)
        return logits.float()

    def _images(self, split: str) -> Records:
        records = imagenet.image_records(self.source, split)
        imagenet.check_class_count(records, "training" if split == "train" else "validation", self.classes)
        return records
