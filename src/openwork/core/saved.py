"""The state that a sparsifier saves: its format, and whose it is."""

FORMAT = 3


def check_saved(state: object, technique: str) -> None:
    """Checks that a state is a sparsifier's, of this format and technique.

    Args:
        state: What was saved.
        technique: The name of the technique that is to take it over.

    Raises:
        ValueError: If it is another's.
    """
    if not isinstance(state, dict) or not {"format", "technique", "steps"} <= state.keys():
        raise ValueError("this is not a sparsifier's state_dict; pass what Sparsifier.state_dict() returned")
    if state["format"] != FORMAT:
        raise ValueError(
            f"the state has format {state['format']}, this version reads {FORMAT}; use the one that saved it"
        )
    if state["technique"] != technique:
        raise ValueError(
            f"the state was saved by {state['technique']} and this sparsifier runs {technique}; sparsify with the "
            "technique that saved it"
        )
