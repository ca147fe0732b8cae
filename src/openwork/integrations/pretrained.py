"""A model that transformers loads from a folder, and its weights under the names that the folder's files have."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

try:
    import transformers
except ImportError as error:
    raise ImportError('transformers is missing; pip install "openwork[transformers]"') from error


def load_pretrained(folder: Path) -> tuple[nn.Module, frozenset[str]]:
    """The model of a Hugging Face folder in evaluation mode and the dtype of its files, and its weights without values.

    No code of the folder runs, and no pickle is read.

    Args:
        folder: One with config.json and safetensors files.

    Returns:
        The model, of the class that the configuration names, and the names of its parameters that the files lack.

    Raises:
        ValueError: If transformers does not know the model, or cannot load it.
    """
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if getattr(config, "quantization_config", None):
                raise ValueError("its weights are quantised, and codes cannot be pruned; give those from before that")
            names = [name for name in config.architectures or () if hasattr(transformers, name)]
            kind: Any = getattr(transformers, names[0]) if names else transformers.AutoModel
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype="auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the sentence below says more
            )
    except Exception as error:  # whatever the library's checks raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"transformers {transformers.__version__} cannot load {folder}: {reason.rstrip('.')}; give a folder that "
            "it knows, or for pruning without a text the .safetensors file alone"
        ) from error
    if info["mismatched_keys"]:
        raise ValueError(f"{folder} has weights of other shapes than its config.json says; copy it again")
    model.config.use_cache = False
    return model.eval(), frozenset(info["missing_keys"])


def names_in_files(model: nn.Module, names: Iterable[str]) -> Callable[[], dict[str, Tensor]]:
    """A function that gives the model's weights, as they are then, by the names that they have in its files.

    Args:
        model: What `load_pretrained` returned.
        names: The names of the tensors in its files.
    """
    prefix, wanted = f"{getattr(model, 'base_model_prefix', '')}.", tuple(names)

    def by_files_names() -> dict[str, Tensor]:
        found = _as_saved(model)
        aliases = {name: (name, prefix + name, name.removeprefix(prefix)) for name in wanted}
        chosen = {name: next((one for one in several if one in found), None) for name, several in aliases.items()}
        return {name: found[one] for name, one in chosen.items() if one is not None}

    return by_files_names


def usually_dense(model: nn.Module) -> dict[str, str]:
    """Matrices that hardly anybody prunes, by name, and what they are: embeddings, the output's matrix, routers."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore
    found: dict[int, str] = {}
    for module in model.modules():
        router = type(module).__name__.endswith("Router")
        if router or module is head or isinstance(module, nn.Embedding):
            what = "a router of experts" if router else "an embedding or the output's matrix"
            found |= {id(parameter): what for parameter in module.parameters(recurse=False)}
    named = model.named_parameters(remove_duplicate=False)
    return {name: found[id(parameter)] for name, parameter in named if id(parameter) in found}


def vocabulary_size(model: nn.Module) -> int | None:
    """How many ids the model's embedding knows; None where it takes no tokens."""
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def longest_text(model: nn.Module) -> int | None:
    """How many tokens a text may have; None where the configuration does not say."""
    config: Any = model.config
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def takes_pairs(model: nn.Module) -> bool:
    """Whether the model is an encoder and a decoder, each with a text of its own."""
    config: Any = model.config
    return bool(config.is_encoder_decoder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's progress bars and advice meanwhile."""
    logging: Any = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _as_saved(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict as transformers would save it: experts apart again, older names back."""
    state = model.state_dict()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 loads weights as they are
        return state
    reverted: dict[str, Tensor] = revert_weight_conversion(model, state)  # type: ignore[arg-type]
    return reverted
