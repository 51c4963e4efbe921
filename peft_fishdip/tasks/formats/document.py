"""A text with annotations on its characters: what all formats of annotation tools have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from ..base import Decoded, Problem
from ..checks import check_items, check_records, shown
from ..places import ranges_in
from ..records import JointExample, NerExample, Relation, Span, as_records
from ..splitting import Range, tokens_and_spans


@dataclass(frozen=True)
class Document:
    """A text, spans of its characters, and relations between these.

    Here `Span(start, end, label)` counts characters, that is Unicode code points, with `end` exclusive; a span neither
    begins nor ends with white space, and spans may overlap. `token_ranges` are the tokens of a format that has any, as
    (start, end). `problems` name what a reader changed ("trimmed_span", "offsets_converted") or left out, and those of
    a prediction, which also has `scores`, probabilities of spans and relations, and the text that was generated.
    `metadata` is what else a file says of the text, as JSON has it. Two documents are equal if they have the same text,
    spans and relations.
    """

    text: str
    spans: tuple[Span, ...] = ()
    relations: tuple[Relation, ...] = ()
    id: str = field(default="", compare=False)
    token_ranges: tuple[Range, ...] | None = field(default=None, compare=False)
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    scores: Mapping[Span | Relation, float] = field(default_factory=dict, compare=False)
    generated_text: str = field(default="", compare=False, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"text={shown(self.text)}: give the raw text")
        spans = as_records(self.spans, Span, "spans", "; positions are those of characters")
        object.__setattr__(self, "spans", tuple(sorted(set(spans), key=_span_key)))
        relations = sorted(
            set(as_records(self.relations, Relation, "relations")),
            key=lambda r: (*_span_key(r.head), *_span_key(r.tail), r.label),
        )
        object.__setattr__(self, "relations", tuple(relations))
        for span in self.spans:
            covered = self.text[span.start : span.end]
            if span.end > len(self.text):
                raise ValueError(f"{span} ends after the last of the {len(self.text)} characters of the text")
            if covered != covered.strip():
                raise ValueError(f"{span} on {covered!r} begins or ends with white space; move its ends to the words")
        known = set(self.spans)
        for relation in self.relations:
            for span in (relation.head, relation.tail):
                if span not in known:
                    raise ValueError(f"relation {relation.label!r} uses {span}, which is not among the spans")
        object.__setattr__(self, "scores", dict(self.scores))
        for answer, score in self.scores.items():
            if answer not in known and answer not in self.relations:
                raise ValueError(f"scores: {answer} is neither among the spans nor among the relations")
            if not 0 <= score <= 1:
                raise ValueError(f"scores: {answer} has {score!r}; a score is a probability, from 0 to 1")
        if self.token_ranges is not None:
            object.__setattr__(self, "token_ranges", tuple((start, end) for start, end in self.token_ranges))
            _check_tokens(self.text, self.token_ranges)

    def to_example(self) -> JointExample:
        """The document as a record of tokens, split where a span begins or ends inside a token."""
        tokens, _, spans = tokens_and_spans(self.text, self.spans, self.token_ranges)
        moved = dict(zip(self.spans, spans, strict=True))
        relations = [Relation(moved[r.head], moved[r.tail], r.label) for r in self.relations]
        return JointExample(tokens, tuple(spans), tuple(relations), self.id, self.text)


def _span_key(span: Span) -> tuple[int, int, str]:
    return (span.start, -span.end, span.label)


def _check_tokens(text: str, ranges: tuple[Range, ...]) -> None:
    done = 0
    for start, end in (*ranges, (len(text), len(text))):
        if not done <= start <= end <= len(text):
            raise ValueError(f"token_ranges: ({start}, {end}) needs {done} <= start <= end <= {len(text)}, in order")
        if text[done:start].strip():
            raise ValueError(f"token_ranges: no token holds {text[done:start].strip()!r} at {done}")
        done = end


@overload
def to_examples(documents: Iterable[Document], kind: type[NerExample]) -> list[NerExample]: ...
@overload
def to_examples(documents: Iterable[Document], kind: type[JointExample]) -> list[JointExample]: ...
@overload
def to_examples(documents: Iterable[Document], kind: None = None) -> list[NerExample] | list[JointExample]: ...
def to_examples(
    documents: Iterable[Document], kind: type[NerExample] | type[JointExample] | None = None
) -> list[NerExample] | list[JointExample]:
    """Records of tokens: `JointExample` where any of the documents has a relation, else `NerExample`.

    `kind` says which of the two, whatever there is; as `NerExample`, relations are left out.
    """
    check_items("documents", documents, "a list of Document")
    documents = [*documents]
    check_records("documents", documents, Document)
    examples = [document.to_example() for document in documents]
    if kind is None:
        kind = JointExample if any(example.relations for example in examples) else NerExample
    if kind is JointExample:
        return examples
    return [NerExample(example.tokens, example.spans, example.id, example.text) for example in examples]


def to_document(example: Document | NerExample | JointExample | Decoded[Any]) -> Document:
    """A record, or a prediction, as a document: of its raw text, or else of its tokens with one space between them.

    Raises ValueError for a span that begins or ends with a token of white space or without characters.
    """
    if isinstance(example, Document):
        return example
    decoded = example if isinstance(example, Decoded) else None
    if isinstance(example, Decoded):
        example = example.prediction
    if not isinstance(example, NerExample | JointExample):
        raise TypeError(f"Document, NerExample or JointExample expected, got {type(example).__name__}")
    if blank := _blank_end(example.tokens, example.spans):
        name = f"the record {example.id!r}" if example.id else shown(example)
        raise ValueError(
            f"{name}: a span begins or ends at token {blank[0]}, {blank[1]!r}, which is blank; leave it out of the span"
        )
    text = example.text or " ".join(example.tokens)
    ranges = ranges_in(text, example.tokens)
    spans = [Span(ranges[span.start][0], ranges[span.end - 1][1], span.label) for span in example.spans]
    moved = dict(zip(example.spans, spans, strict=True))
    given = example.relations if isinstance(example, JointExample) else ()
    relations = [Relation(moved[r.head], moved[r.tail], r.label) for r in given]
    document = Document(text, tuple(spans), tuple(relations), example.id, tuple(ranges))
    if decoded is None:
        return document
    answers: list[Span | Relation] = [*spans, *relations]  # in the order of the scores
    scores = dict(zip(answers, decoded.scores, strict=True)) if len(decoded.scores) == len(answers) else {}
    return replace(document, problems=decoded.problems, scores=scores, generated_text=decoded.text)


def _blank_end(tokens: Sequence[str], spans: Iterable[Span]) -> tuple[int, str] | None:
    """Position and text of the first token without visible characters at which a span begins or ends, if any does."""
    ends = sorted(end for span in spans for end in (span.start, span.end - 1))
    return next(((end, tokens[end]) for end in ends if not tokens[end].strip()), None)
