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
from itertools import accumulate, pairwise, takewhile


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


def character_ranges(words: Sequence[str], output: Sequence[str]) -> list[tuple[int, int] | None]:
    """For each word of `output`, the characters of the joined `words` that it stands for, or None.

    Where the texts, or their parts between two words that `align` finds equal, are the same but for spaces, characters
    match characters. Any other word stands for the whole word that it is aligned to.
    """
    if "".join(words) == "".join(output):
        return [*pairwise(accumulate(map(len, output), initial=0))]
    starts = [*accumulate(map(len, words), initial=0)]
    matching = align(words, output)
    ranges = [None if i is None else (starts[i], starts[i + 1]) for i in matching]
    equal = [(i, j) for j, i in enumerate(matching) if i is not None and words[i] == output[j]]
    first_i, first_j = 0, 0
    for i, j in [*equal, (len(words), len(output))]:
        if i - first_i and j - first_j and (i - first_i, j - first_j) != (1, 1):
            inside = _respaced(words[first_i:i], output[first_j:j])
            ranges[first_j:j] = [r and (r[0] + starts[first_i], r[1] + starts[first_i]) for r in inside]
        first_i, first_j = i + 1, j + 1
    return ranges


def _respaced(words: Sequence[str], output: Sequence[str]) -> list[tuple[int, int] | None]:
    """`character_ranges` where no word is equal: what is the same but for spaces at both ends, `align` between."""
    ends, output_ends = ([*accumulate(map(len, side), initial=0)] for side in (words, output))
    joined, joined_output = "".join(words), "".join(output)
    same = _common(joined, joined_output)
    prefix = max(end for end in {*ends} & {*output_ends} if end <= same)
    shift = len(joined) - len(joined_output)
    same = _common(joined[prefix:][::-1], joined_output[prefix:][::-1])
    suffix = min(end for end in {*ends} & {end + shift for end in output_ends} if end >= len(joined) - same)
    first, last = ends.index(prefix), ends.index(suffix)
    output_first, output_last = output_ends.index(prefix), output_ends.index(suffix - shift)
    ranges: list[tuple[int, int] | None] = [
        (start, end) if end <= prefix else (start + shift, end + shift) for start, end in pairwise(output_ends)
    ]
    ranges[output_first:output_last] = [
        None if i is None else (ends[first + i], ends[first + i + 1])
        for i in align(words[first:last], output[output_first:output_last])
    ]
    return ranges


def _common(one: str, other: str) -> int:
    """Number of equal characters at the beginning of both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
