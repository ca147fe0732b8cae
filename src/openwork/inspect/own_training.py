"""Random weights in the state of a model that openwork trains: what evaluation computes from them."""

import torch

from openwork.core.parameters.technique import Reparameterization
from openwork.core.schedules import Constant
from openwork.formats.held import Held, State, UnreadableLayoutError
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.l0 import L0
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.variational_dropout import VariationalDropout


def random_weight(name: str, state: State) -> Held | None:
    """The weight that is the mean of a random variable, as evaluation computes it with the technique's defaults.

    Raises:
        UnreadableLayoutError: If it belongs to a technique that openwork does not have.
    """
    module, _, leaf = name.rpartition(".")
    prefix = f"{module}.reparam.{leaf}." if module else f"reparam.{leaf}."
    parts = list(state.under(prefix))
    if not parts:
        return None
    learned = {part.removeprefix(prefix): state[part] for part in parts}
    technique, assumed = _technique(set(learned), name, state, prefix)

    def value() -> torch.Tensor:
        mean = state[name]
        distribution = technique.distribution(mean.detach(), torch.Generator())
        try:
            distribution.load_state_dict(learned)
        except RuntimeError as error:
            raise UnreadableLayoutError(
                f"{name} and its {prefix}* do not fit each other; copy the file again from its source"
            ) from error
        return distribution.effective(mean).detach()

    return Held(name, (name, *parts), value, f"openwork's {type(technique).__name__}, as it is evaluated{assumed}")


def _technique(learned: set[str], name: str, state: State, prefix: str) -> tuple[Reparameterization, str]:
    """The technique whose parameters these are, and which settings are assumed, as the state has none."""
    none = Constant(0.0)
    if learned == {"log_sigma2"}:
        drops = VariationalDropout(none)
        return drops, f" at threshold {drops.threshold:g}"
    if learned == {"log_alpha"}:
        whole = state[f"{prefix}log_alpha"].shape == state[name].shape
        return (L0(none) if whole else GroupL0(none)), ""
    if learned == {"mixture.scaled_means", "mixture.scaled_precisions", "mixture.scaled_proportions"}:
        shares = SoftWeightSharing(none, components=len(state[f"{prefix}mixture.scaled_precisions"]))
        return shares, f" with zero_proportion {shares.zero_proportion:g}"
    raise UnreadableLayoutError(
        f"{name} is a random variable of a technique that openwork does not have ({', '.join(sorted(learned))}); "
        "load it into its model and report on the sparsifier"
    )
