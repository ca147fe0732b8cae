"""The best assignment of columns to rows: Kuhn's Hungarian method (1955), with shortest paths as Jonker & Volgenant."""

import numpy as np
from numpy.typing import NDArray


def best_assignment(value: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row the column that it gets, each column once, so that the sum of values is the largest.

    Args:
        value: (n, n).
    """
    cost, n = value.max(initial=0.0) - value, len(value)
    rows, columns = np.zeros(n + 1), np.zeros(n + 1)  # prices; the last column stands for "not assigned yet"
    owner = np.full(n + 1, -1)
    for row in range(n):
        owner[n], column = row, n
        distance, before, done = np.full(n, np.inf), np.full(n, n), np.zeros(n + 1, dtype=bool)
        while owner[column] >= 0:
            done[column] = True
            open_ = ~done[:n]
            reduced = cost[owner[column]] - rows[owner[column]] - columns[:n]
            nearer = open_ & (reduced < distance)
            distance[nearer], before[nearer] = reduced[nearer], column
            following = int(np.where(open_, distance, np.inf).argmin())
            step = distance[following]
            rows[owner[done]] += step
            columns[done] -= step
            distance[open_] -= step
            column = following
        while column < n:
            owner[column], column = owner[before[column]], before[column]
    found = np.empty(n, dtype=np.int64)
    found[owner[:n]] = np.arange(n)
    return found
