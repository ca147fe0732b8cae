"""Numbers in sentences."""

from openwork.words import count


def test_one_is_singular_and_all_else_plural():
    assert [count(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert [count(n, "matrix", "matrices") for n in (1, 2)] == ["1 matrix", "2 matrices"]
