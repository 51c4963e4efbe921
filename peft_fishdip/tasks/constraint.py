"""Generation that writes only what a grammar allows, with the probability of each choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp, log, log1p
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .coders import has_virtual_tokens
from .families import SEQ2SEQ, task_type
from .grammar import IMPOSSIBLE, Grammar, Option, Written
from .pieces import TokenizerPieces

_LOWEST = -1e30
"""In place of -inf for a token that is allowed where another rule of generation forbids all that are."""
_FREE = ("free",)


class _Trace(NamedTuple):
    """What was written up to a point: a text, its tokens and what stands before it."""

    earlier: _Trace | None
    text: str
    event: tuple[Any, ...]
    ids: tuple[int, ...]


class _Begun(NamedTuple):
    """A text of which the tokens `rest` are still to be written."""

    rest: tuple[int, ...]
    option: Option
    trace: _Trace | None


@dataclass(slots=True, eq=False)
class _Node:
    """The tokens so far, and how they may go on.

    Attributes:
        depth: how many tokens these are.
        logp: of the last one, among those that were allowed.
        begun: texts that go on with the next token; several with the same tokens and state are one.
        free: states in which free text may go on.
        done: what was written, once that is complete.
        left_out: tokens of choices that would not have fitted.
        limited: whether a model would rather have written one of these.
        logps: of each token that is allowed next, once a model has been asked.
        after: the nodes that follow.
    """

    depth: int
    logp: float = 0.0
    begun: dict[tuple[tuple[int, ...], Any], _Begun] = field(default_factory=dict)
    free: dict[Any, _Trace | None] = field(default_factory=dict)
    done: _Trace | None = None
    left_out: list[int] = field(default_factory=list)
    limited: bool = False
    logps: dict[int, float] = field(default_factory=dict)
    after: dict[int, _Node | None] = field(default_factory=dict)

    @property
    def allowed(self) -> list[int]:
        return [*dict.fromkeys(begun.rest[0] for begun in self.begun.values())]

    @property
    def default(self) -> int | None:
        """The token that stands for all that are not allowed."""
        return next((begun.rest[0] for begun in self.begun.values() if begun.option.is_default), None)


class Path:
    """All that may be written for one example, found as it is asked for.

    Args:
        grammar: of the example.
        pieces: of the tokenizer.
        limit: how many tokens may be written. What would leave too few to end with is not allowed.
    """

    def __init__(self, grammar: Grammar, pieces: TokenizerPieces, limit: int = IMPOSSIBLE) -> None:
        self.grammar, self.pieces, self.limit = grammar, pieces, limit
        self.root = _Node(0)
        if pieces.before:
            begun = _Begun(pieces.before, Option("", grammar.start), None)
            self.root.begun[pieces.before, grammar.start] = begun
        else:
            self._expand(self.root, grammar.start, None)

    def step(self, node: _Node, token: int, logp: float | None = None) -> _Node | None:
        """The node after one more token; None if that is not allowed."""
        if token not in node.after:
            logp = node.logps.get(token, 0.0) if logp is None else logp
            node.after[token] = self._made(node, token, min(logp, 0.0))
        return node.after[token]

    def _made(self, node: _Node, token: int, logp: float) -> _Node | None:
        made = _Node(node.depth + 1, logp)
        for begun in node.begun.values():
            if begun.rest[0] != token:
                continue
            if rest := begun.rest[1:]:
                made.begun.setdefault((rest, begun.option.next), begun._replace(rest=rest))
            elif begun.option.next is None:
                made.done = made.done or begun.trace
            else:
                self._expand(made, begun.option.next, begun.trace)
        if node.free and token < len(self.pieces.free) and self.pieces.free[token]:
            for state, trace in node.free.items():
                after = self.grammar.after_free(state, self.pieces.is_blank(token))
                self._expand(made, after, _Trace(trace, "", _FREE, (token,)))
        return made if made.begun or made.free or made.done else None

    def _expand(self, node: _Node, state: Any, trace: _Trace | None) -> None:
        first, left = node.depth == len(self.pieces.before), self.limit - node.depth
        choices = []
        for option in self.grammar.options(state):
            ends = option.next is None
            ids = (self.pieces.ids(option.text, first) if option.text else ()) + (self.pieces.after if ends else ())
            needed = len(ids) + (0 if ends else self.grammar.rest(option.next) + len(self.pieces.after))
            if needed < IMPOSSIBLE:
                choices.append((needed, option, ids))
        fitting = [choice for choice in choices if choice[0] <= left] or sorted(choices, key=lambda c: c[0])[:1]
        node.left_out += [ids[0] for needed, _, ids in choices if ids and needed > left]
        if self.grammar.is_free(state):
            if not choices or 1 + self.grammar.rest(state) + len(self.pieces.after) <= left:
                node.free.setdefault(state, trace)
            else:
                node.left_out += self.pieces.free.nonzero()[:, 0].tolist()
        for _, option, ids in fitting:
            after = _Trace(trace, option.text, option.event, ids)
            if ids:
                node.begun.setdefault((ids, option.next), _Begun(ids, option, after))
            else:
                self._expand(node, option.next, after)

    def read(self, ids: Sequence[int]) -> Reading | None:
        """What tokens say, up to their end; None if they are not allowed or have no end."""
        node, logps, limited = self.root, list[float](), self.root.limited
        for token in ids:
            following = self.step(node, token)
            if following is None:
                return None
            node = following
            logps.append(node.logp)
            limited |= node.limited
            if node.done:
                break
        if not node.done:
            return None
        parts: list[_Trace] = []
        trace: _Trace | None = node.done
        while trace is not None:
            parts.insert(0, trace)
            trace = trace.earlier
        ends = [*accumulate((len(part.ids) for part in parts), initial=len(self.pieces.before))]
        written = [
            Written(part.text, part.event, part.ids, sum(logps[start:end]))
            for part, start, end in zip(parts, ends, ends[1:], strict=False)
        ]
        return Reading(self.grammar, written, limited)

    def forced(self) -> list[int]:
        """The tokens that every text begins with."""
        ids: list[int] = []
        node: _Node | None = self.root
        while node and not node.free and not node.done and len(allowed := node.allowed) == 1:
            if (node := self.step(node, allowed[0])) and not node.done:
                ids.append(allowed[0])
        return ids


class Reading(NamedTuple):
    """A complete text by its parts, and whether a model would have written more, which would not have fitted."""

    grammar: Grammar
    written: list[Written]
    limited: bool

    @property
    def text(self) -> str:
        return self.grammar.text(self.written)

    @property
    def logp(self) -> float:
        """The logarithm of the probability of the whole text."""
        return sum(part.logp for part in self.written)

    def scores(self, prediction: Any) -> tuple[float, ...]:
        return self.grammar.scores(self.written, prediction)


class Constraint:
    """A logits processor of transformers: each example of a batch has its `Path`, and the same number of beams.

    Attributes:
        paths: of the examples, in the order of the batch.
        num_begun: how many tokens of each path are given to the model before it writes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.num_begun = 0
        self._before: int | None = None  # tokens of a row that belong to no path
        self._nodes: dict[tuple[int, bytes], _Node | None] = {}
        self._free: dict[tuple[int, bytes], int] = {}  # of rows with free text, their row in the next
        self._free_logps = torch.zeros(0)

    def begin(self, model: Any, batch: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
        """Arguments of `generate` that give a model up to `most` tokens with which all texts begin, at once."""
        forced = [path.forced() for path in self.paths]
        self.num_begun = min(most, *map(len, forced))
        start: Any = getattr(getattr(model, "generation_config", None), "decoder_start_token_id", None)
        cannot = has_virtual_tokens(model) or (task_type(model) == SEQ2SEQ and not isinstance(start, int))
        if self.num_begun < 1 or cannot:
            self.num_begun = 0
            return {}
        begun = torch.tensor([ids[: self.num_begun] for ids in forced])
        if task_type(model) == SEQ2SEQ:
            return {"decoder_input_ids": torch.cat([torch.full_like(begun[:, :1], start), begun], 1)}
        return {
            "input_ids": torch.cat([batch["input_ids"], begun], 1),
            "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(begun)], 1),
        }

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._before is None:
            self._before = input_ids.shape[1] - self.num_begun
        nodes = self._walk(input_ids[:, self._before :])
        end = self.paths[0].pieces.after[-1]
        allowed = [(node.allowed if node else []) or ([] if node and node.free else [end]) for _, node in nodes]
        places = [(row, token) for row, tokens in enumerate(allowed) for token in tokens]
        rows, columns = torch.tensor(places, dtype=torch.long, device=scores.device).reshape(-1, 2).T
        chosen = scores[rows, columns].clamp(min=_LOWEST).tolist()
        values, totals = iter(chosen), scores.logsumexp(-1).tolist()
        logits = [dict(zip(tokens, values, strict=False)) for tokens in allowed]
        for (_, node), some, total in zip(nodes, logits, totals, strict=True):
            if node and not node.free and (default := node.default) is not None:
                others = sum(exp(min(logit - total, 0.0)) for token, logit in some.items() if token != default)
                some[default] = max(some[default], total + log1p(-others) if others < 1 else _LOWEST)
        masked = torch.full_like(scores, -torch.inf)
        free = [row for row, (_, node) in enumerate(nodes) if node and node.free]
        if free:
            mask = self.paths[0].pieces.free.to(scores.device)[: scores.shape[1]]
            masked[free, : len(mask)] = scores[free, : len(mask)].masked_fill(~mask, -torch.inf)
        masked[rows, columns] = scores.new_tensor([logit for some in logits for logit in some.values()])
        self._keep(nodes, logits, free, masked)
        for row, (_, node) in enumerate(nodes):
            if node and node.left_out:
                # what is left out is counted with the default, from which it would have been taken
                share = 0.0 if node.default is None else log(2)
                node.limited |= bool(scores[row, node.left_out].max() + share > masked[row].max())
        return masked

    def _walk(self, ids: Tensor) -> list[tuple[tuple[int, bytes], _Node | None]]:
        """The node of each row, with its key, found from those of the step before."""
        table = ids.cpu().numpy()
        beams = len(table) // len(self.paths)
        logps: dict[int, float] = {}
        if self._free:
            parents = [(row, self._free.get((row // beams, ids[:-1].tobytes()))) for row, ids in enumerate(table)]
            known = [(row, place) for row, place in parents if place is not None]
            of_tokens = self._free_logps[[place for _, place in known], [int(table[row, -1]) for row, _ in known]]
            logps = dict(zip([row for row, _ in known], of_tokens.tolist(), strict=True))
        found = []
        for row, tokens in enumerate(table):
            example = row // beams
            path, parent = self.paths[example], (example, tokens[:-1].tobytes())
            if len(tokens) and parent in self._nodes:
                before = self._nodes[parent]
                node = path.step(before, int(tokens[-1]), logps.get(row)) if before else None
            else:
                node = path.root
                for token in tokens.tolist():
                    node = path.step(node, token) if node else None
            found.append(((example, tokens.tobytes()), node))
        self._nodes = dict(found)
        return found

    def _keep(
        self,
        nodes: Sequence[tuple[tuple[int, bytes], _Node | None]],
        logits: Sequence[Mapping[int, float]],
        free: Sequence[int],
        masked: Tensor,
    ) -> None:
        """Note the probabilities of what is allowed."""
        for (_, node), some in zip(nodes, logits, strict=True):
            if node and len(some) > 1 and not node.free and not node.logps:
                most = max(some.values())
                total = most + log(sum(exp(logit - most) for logit in some.values()))
                node.logps = {token: logit - total for token, logit in some.items()}
        self._free = {nodes[row][0]: number for number, row in enumerate(free)}
        if free:
            self._free_logps = masked[free].log_softmax(-1)
