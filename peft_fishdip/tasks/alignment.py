"""Needleman-Wunsch alignment of generated tokens to the tokens of the sentence.

Costs are those of TANL (Paolini et al., 2021) and Fish-Dip: 0 for equal tokens, 1 for a substitution, a
skipped input token or a skipped output token. Among equally cheap alignments the trace from the end
prefers the diagonal, then skipping an input token, then skipping an output token.

The table of the plain dynamic programme is never built. Neighbouring cells differ by -1, 0 or 1, so a
column fits into the bits of a few integers (Myers, 1999; Hyyrö, 2003) and costs a dozen integer
operations. The tie rule needs only two bits of a cell: whether it equals its diagonal neighbour, and
whether it is one more than the cell above.
"""

from __future__ import annotations

from collections.abc import Sequence


def align(tokens: Sequence[str], output: Sequence[str]) -> list[int | None]:
    """For each token of `output`, the position in `tokens` that it is aligned to, or None.

    Positions increase. The result is exactly that of the plain O(n*m) dynamic programme, ties included;
    sequences that share a long beginning and end take linear time.
    """
    matching: list[int | None] = [None] * len(output)
    i, j = len(tokens), len(output)
    # Equal last tokens are always aligned: the diagonal costs nothing and is preferred.
    while i and j and tokens[i - 1] == output[j - 1]:
        i, j = i - 1, j - 1
        matching[j] = i
    prefix = 0
    while prefix < min(i, j) and tokens[prefix] == output[prefix]:
        prefix += 1
    if not min(i, j):
        return matching

    # With a common prefix of this length the cells up to its column are |i - j|.
    same_as_diagonal, one_above = _columns(tokens[:i], output[:j], prefix)
    while i and j:
        if j <= prefix and i == j:
            matching[:j] = range(j)
            break
        if tokens[i - 1] == output[j - 1]:
            diagonal = True
        elif j <= prefix:
            diagonal = False
        else:
            diagonal = not same_as_diagonal[j - prefix] >> (i - 1) & 1
        if diagonal:
            i, j = i - 1, j - 1
            matching[j] = i
        elif i > j if j <= prefix else one_above[j - prefix] >> (i - 1) & 1:
            i -= 1
        else:
            j -= 1
    return matching


def _columns(tokens: Sequence[str], output: Sequence[str], first: int) -> tuple[list[int], list[int]]:
    """Bit i-1 of entry j-first: does cell (i, j) equal cell (i-1, j-1); is it one more than cell (i-1, j)?"""
    mask = (1 << len(tokens)) - 1
    occurrences: dict[str, int] = {}
    for position, token in enumerate(tokens):
        occurrences[token] = occurrences.get(token, 0) | 1 << position
    minus = (1 << first) - 1  # column `first` falls to 0 at row `first` ...
    plus = mask ^ minus  # ... and rises by one per row below it
    same_as_diagonal, one_above = [mask], [plus]
    for token in output[first:]:
        equal = occurrences.get(token, 0)
        same = (((equal & plus) + plus) ^ plus) | equal | minus
        right_plus = minus | (mask & ~(same | plus))
        right_minus = plus & same
        right_plus = right_plus << 1 | 1
        right_minus <<= 1
        plus = mask & (right_minus | ~(same | right_plus))
        minus = mask & right_plus & same
        same_as_diagonal.append(same)
        one_above.append(plus)
    return same_as_diagonal, one_above
