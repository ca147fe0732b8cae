"""Numbers in sentences; imports nothing, so that everything may import it."""


def count(n: int, noun: str, several: str = "") -> str:
    """``1 seed``, ``3 seeds``, ``1,200 matrices``.

    Args:
        n: How many.
        noun: What one is called.
        several: What several are called; "" for the noun with an s.
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {several or f'{noun}s'}"
