"""The plain dynamic programme that `align` must reproduce, cell by cell and tie by tie."""

from __future__ import annotations

from collections.abc import Sequence


def plain_align(tokens: Sequence[str], output: Sequence[str]) -> list[int | None]:
    rows, columns = len(tokens) + 1, len(output) + 1
    cost = [[0] * columns for _ in range(rows)]
    choice = [[0] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            candidates = []
            if i and j:
                candidates.append((cost[i - 1][j - 1] + (tokens[i - 1] != output[j - 1]), 1))
            if i:
                candidates.append((cost[i - 1][j] + 1, 2))
            if j:
                candidates.append((cost[i][j - 1] + 1, 3))
            if candidates:
                cost[i][j], choice[i][j] = min(candidates)
    matching: list[int | None] = [None] * len(output)
    i, j = len(tokens), len(output)
    while i and j:
        if choice[i][j] == 1:
            i, j = i - 1, j - 1
            matching[j] = i
        elif choice[i][j] == 2:
            i -= 1
        else:
            j -= 1
    return matching
