"""Numbers in sentences."""

from openwork.words import count, decimal, number


def test_one_is_singular_and_all_else_plural():
    assert [count(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert [count(n, "matrix", "matrices") for n in (1, 2)] == ["1 matrix", "2 matrices"]


def test_a_number_has_six_digits_unless_these_are_another_number():
    assert [number(n) for n in (3, 3.0, 0.1, 1e-5, 3.0000001, 1 / 3)] == [
        "3", "3", "0.1", "1e-05", "3.0000001", "0.3333333333333333"
    ]  # fmt: skip


def test_a_number_with_digits_after_the_point_has_no_hundreds_before_it():
    assert [decimal(n, 2) for n in (0.0, 1.255, -12345.678, 1e6, -1.5e299)] == [
        "0.00", "1.25", "-12345.68", "1e+06", "-1.5e+299"
    ]  # fmt: skip
