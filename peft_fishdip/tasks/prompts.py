"""How a decoder-only model is asked: the text before its answer, and the text that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .base import Task

E = TypeVar("E")
Template = str | Callable[[str], str]
"""A text with `{source}` in it, or a function from a source to the prompt."""
PLAIN: Template = "{source}\n"
_PLACE = "{source}"
_ANSWER = "ANSWER"  # stands for an answer while a chat template is applied


def plain_prompt(source: str, template: Template = PLAIN) -> str:
    """The prompt that a template makes of a source.

    Raises:
        ValueError: the template is a text without `{source}`.
    """
    if callable(template):
        return template(source)
    if not isinstance(template, str) or _PLACE not in template:
        raise ValueError(
            f"template={template!r}: give a text, and put {_PLACE} where the source is to stand, or pass a function"
        )
    return template.replace(_PLACE, source)


def chat_prompt(tokenizer: Any, source: str, template: Template = "{source}") -> tuple[str, str]:
    """What stands before and after an answer in the chat template of a tokenizer.

    The user's message is what `template` makes of the source. What the chat template writes before an answer of the
    assistant, such as an empty part for thoughts, belongs to the prompt.

    Raises:
        ValueError: the tokenizer has no chat template, or one whose conversations do not begin with their prompt.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"chat=True, but {type(tokenizer).__name__} has no chat template; use an instruction-tuned model, or leave "
            "chat=False"
        )
    question = [{"role": "user", "content": plain_prompt(source, template)}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    answered = [*question, {"role": "assistant", "content": _ANSWER}]
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    before, found, after = whole.rpartition(_ANSWER)
    if not found or not before.startswith(prompt):
        raise ValueError(
            "the chat template of the tokenizer writes a conversation that does not begin with its prompt, so training "
            f"would not prepare for generation: the prompt is {prompt!r}, the conversation {whole!r}; mend the "
            "template, or leave chat=False"
        )
    return before, after


def to_prompt_completion(
    task: Task[E], examples: Sequence[E], *, template: Template | None = None, chat: bool = False
) -> list[dict[str, Any]]:
    """`prompt` and `completion` of each example, as trl's SFTTrainer reads them; see `datasets.Dataset.from_list`.

    With `chat`, each is a list of one message with `role` and `content`, to which trl applies the chat template.
    What texts cannot carry is told by `task.encode`.
    """
    rows: list[dict[str, Any]] = []
    for source, target, _ in map(task.encode, examples):
        if chat:
            content = plain_prompt(source, template or _PLACE)
            prompt: Any = [{"role": "user", "content": content}]
            rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": target}]})
        else:
            rows.append({"prompt": plain_prompt(source, template or PLAIN), "completion": target})
    return rows
