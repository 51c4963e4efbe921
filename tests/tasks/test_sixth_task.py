"""A new task is one file: a subclass of `Task` with a record; everything else works with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft_fishdip.tasks import Decoded, Problem, Task, evaluate, from_dataset, predict, to_dataset
from peft_fishdip.tasks.roundtrip import round_trip

from .tiny import fit, tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Review:
    words: tuple[str, ...]
    stars: int | None = None
    id: str = field(default="", compare=False)


class StarsTask(Task[Review]):
    name = "stars"
    example_type = Review

    def from_text(self, text):
        return Review(tuple(text.split()))

    def source(self, example):
        return " ".join(example.words)

    def target(self, example):
        return f"stars = {example.stars}", []

    def decode(self, example, text):
        example = self.as_example(example)
        number = text.rpartition("= ")[2]
        problems = () if number.isdigit() else (Problem("format_error", f"{number!r} is no number"),)
        return Decoded(Review(example.words, int(number) if number.isdigit() else None), problems, text)

    def score(self, gold, predicted, *, reference=False):
        right = sum(g.stars == p.prediction.stars for g, p in zip(gold, predicted, strict=True))
        return {"accuracy": right / len(gold)}


REVIEWS = [Review(("so", "good"), 5, "1"), Review(("so", "bad", "!"), 1, "2"), Review(("fine",), 3, "3")]


def test_a_sixth_task():
    task = StarsTask()
    assert round_trip(task, REVIEWS).num_equal == 3
    assert from_dataset(to_dataset(REVIEWS), Review) == REVIEWS
    pairs = [task.encode(review)[:2] for review in REVIEWS]
    tokenizer = tiny_tokenizer([text for pair in pairs for text in pair])
    model = tiny_model(len(tokenizer))
    fit(model, tokenizer, pairs, steps=60)
    assert evaluate(model, tokenizer, task, REVIEWS, max_new_tokens=8) == {"accuracy": 1.0}
    (result,) = predict(model, tokenizer, task, ["so bad !"], max_new_tokens=8)
    assert result.prediction == Review(("so", "bad", "!"), 1)
