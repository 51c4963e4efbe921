"""Invariant 8: examples, losses and scores that cannot be used are refused, and nothing has changed then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..support.models import (
    base_bits,
    bert_classifier,
    bert_tagger,
    classifier_examples,
    flat_of,
    ignoring_unscored_mask,
    llama,
    lm_examples,
    num_updates,
    padded,
    random_scores,
    randomise,
    seq2seq_examples,
    tied_t5,
    train,
    tuned,
)


def state_of(model: Any) -> list[Any]:
    """All that an update could change."""
    mask = [positions.tolist() for positions in model.base_model.mask().values()]
    delta = [values.tolist() for _, values in model.base_model.delta().values()]
    base = [found.tolist() for found in base_bits(model).values()]
    flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    return [mask, delta, base, flags, modes, num_updates(model)]


def prepared(build: Callable[[], Any] = tied_t5, **settings: Any) -> tuple[Any, Any]:
    """A model in the middle of its training, and its optimizer."""
    model = tuned(build(), density=0.02, **settings)
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.01)
    with ignoring_unscored_mask():
        examples = classifier_examples() if build is bert_classifier else seq2seq_examples()
        train(model, examples, 2, optimizer)
    model.train()
    return model, optimizer


def assert_refused(model: Any, optimizer: Any, error: type[Exception], message: str, *args: Any, **kwargs: Any) -> None:
    before, moments = state_of(model), [v.clone() for v in optimizer.state[flat_of(model)].values()]
    with pytest.raises(error, match=message):
        model.base_model.update_mask(*args, optimizer=optimizer, **kwargs)
    assert state_of(model) == before
    assert all(torch.equal(a, b) for a, b in zip(moments, optimizer.state[flat_of(model)].values(), strict=True))


class Stream(IterableDataset):
    """Examples without numbers, but with a length."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return iter(seq2seq_examples(4))


class Tuples(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter([(1, 2)])


NO_LABELS = [{"input_ids": [3, 4]}] * 4
EMPTY = [*seq2seq_examples(4), {"input_ids": [5, 6], "labels": [-100, -100]}]

CASES: dict[str, tuple[Any, type[Exception], str]] = {
    "no example": ([], ValueError, "there is no example to score; pass at least one"),
    "no batch": (iter([]), ValueError, "there is no example to score"),
    "all labels -100": (EMPTY, ValueError, r"example 4: all labels of the example .* are -100; leave such"),
    "no labels": (
        NO_LABELS,
        ValueError,
        r"a batch has no 'labels', only attention_mask, input_ids; the data_coll",
    ),
    "a single batch": (
        padded(seq2seq_examples(4)),
        TypeError,
        r"examples is a dict, a single batch; .* such as iter\(\[batch\]\)",
    ),
    "splits": (
        datasets.DatasetDict(train=datasets.Dataset.from_list(seq2seq_examples(4))),
        TypeError,
        r"examples is a DatasetDict of the splits train; choose one, such as dataset\['train'\]",
    ),
    "splits as lists": ({"a": seq2seq_examples(2), "b": []}, TypeError, "a dict of the splits a, b; choose one"),
    "batches as a list": ([padded(seq2seq_examples(4))], (TypeError, ValueError), "example 0 looks like a batch"),
    "tuples": ([(1, 2), (3, 4), (5, 6)], TypeError, "example 0 is a tuple, not a dict of features"),
    "tuples as batches": (iter([(1, 2)]), TypeError, "a batch is a tuple, not a dict of tensors"),
    "a stream of tuples": (Tuples(), TypeError, "a batch is a tuple, not a dict of tensors"),
    "a stream of examples": (
        Stream(),
        ValueError,
        "input_ids of a batch has one dimension: an iterable must give ready",
    ),
    "a stream of tensors": (
        iter([{"input_ids": torch.ones(4).long(), "labels": torch.ones(4).long()}]),
        ValueError,
        "input_ids of a batch has one dimension",
    ),
    "batches of lists": (
        iter([{"input_ids": [[1, 2]], "labels": [[1]]}]),
        ValueError,
        r"a batch holds no tensor, only input_ids \(list\), labels \(list\)",
    ),
    "labels as lists": (
        iter([{"input_ids": torch.ones(2, 4).long(), "labels": [[1], [2]]}]),
        ValueError,
        "'labels' of a batch is a list, not a tensor",
    ),
    "text": ([{"text": "a", "labels": [1]}] * 3, ValueError, "the feature 'text' of an example is no tensor"),
}


@pytest.mark.parametrize("case", CASES)
def test_examples_that_cannot_be_scored_are_refused(case: str) -> None:
    examples, error, message = CASES[case]
    model, optimizer = prepared()
    assert_refused(model, optimizer, error, message, examples)


LABELS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "no class": (bert_classifier, [], r"example 3 has no label, labels=\[\]; give it one, or leave it out"),
    "no token": (tied_t5, [], r"example 3 has no label, labels=\[\]"),
    "an unknown class": (
        bert_classifier,
        3,
        "example 3: the label 3 is none of the model's 3 classes, 0 to 2; correct it",
    ),
    "a negative class": (bert_classifier, -1, "example 3: the label -1 is none of the model's 3 classes"),
    "an unknown token": (tied_t5, [4, 48], "example 3: the label 48 is none of the model's 48 classes, 0 to 47"),
    "an unknown tag": (bert_tagger, [0, 1, 9], "example 3: the label 9 is none of the model's 3 classes, 0 to 2"),
}


@pytest.mark.parametrize("case", LABELS)
def test_the_example_of_a_label_that_cannot_be_is_named(case: str) -> None:
    build, labels, message = LABELS[case]
    whole = 0 if build is bert_classifier else [0, 1, 2]
    examples = [{"input_ids": [3, 4, 5], "labels": whole} for _ in range(3)] + [
        {"input_ids": [6, 7, 8], "labels": labels}
    ]
    model = tuned(build(), density=0.02)
    with pytest.raises(ValueError, match=message):
        model.base_model.update_mask(examples)
    assert num_updates(model) == 0


@pytest.mark.parametrize(
    ("build", "labels", "message"),
    [
        (
            bert_tagger,
            [0, 1],
            r"'labels' of a batch have the shape \(4, 2\).* for each token, shape \(4, 3\), and -100",
        ),
        (bert_tagger, 1, r"'labels' of a batch have the shape \(4,\).* shape \(4, 3\)"),
        (bert_tagger, [0.0, 1.0, 1.0], r"the dtype torch\.float32; this model needs one whole number"),
        (
            bert_classifier,
            [0, 1],
            r"'labels' .* \(4, 2\); 4 examples need one label each, shape \(4,\), or, .* \(4, 3\)",
        ),
        (bert_classifier, [0.0, 1.0], r"'labels' .* \(4, 2\); 4 examples need one label each"),
    ],
)
def test_labels_of_another_shape_are_refused(build: Callable[[], Any], labels: Any, message: str) -> None:
    model = tuned(build(), density=0.02)
    with pytest.raises(ValueError, match=message):
        model.base_model.update_mask([{"input_ids": [3, 4, 5], "labels": labels}] * 4)
    assert num_updates(model) == 0


@pytest.mark.parametrize("selection", ["highest_loss", "random", "all"])
def test_an_example_without_a_target_is_named_however_examples_are_selected(selection: str) -> None:
    model, optimizer = prepared(sample_selection=selection, num_samples=5)
    assert_refused(model, optimizer, ValueError, "example 4: all labels", EMPTY)


@pytest.mark.parametrize("count", [1, 2])
def test_a_share_of_very_few_examples_takes_all_of_them(count: int) -> None:
    model, _ = prepared(num_samples=0.1)
    assert sorted(model.base_model.update_mask(seq2seq_examples(count)).example_ids) == list(range(count))


def test_more_samples_than_examples_are_refused() -> None:
    model, optimizer = prepared(num_samples=9)
    message = "there are 4 examples, too few to pick from: num_samples=9 asks for 9; lower it"
    assert_refused(model, optimizer, ValueError, message, seq2seq_examples(4))


def test_a_label_beyond_the_shift_of_a_causal_lm_is_no_target() -> None:
    model = tuned(llama())
    examples = [*lm_examples(3), {"input_ids": [4, 5], "labels": [4, -100]}]  # the first token is never predicted
    with pytest.raises(ValueError, match="example 3: all labels"):
        model.base_model.update_mask(examples)


@pytest.mark.parametrize("selection", ["highest_loss", "random", "all"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_names_its_example(selection: str, value: float) -> None:
    model, optimizer = prepared(bert_classifier, sample_selection=selection, num_samples=6)

    examples = classifier_examples(6)
    examples[4]["labels"] = 7

    def loss_fn(module: nn.Module, batch: Any) -> Tensor:
        inputs = {key: tensor for key, tensor in batch.items() if key != "labels"}
        losses = module(**inputs).logits.sum(-1) * 0
        return losses.masked_fill(batch["labels"] == 7, value)

    message = rf"the loss of example 4 is {value}; losses must be finite"
    assert_refused(model, optimizer, ValueError, message, examples, loss_fn=loss_fn)


class Spoilt(torch.autograd.Function):
    """Passes on NaN as the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("nan")


def test_a_gradient_that_is_not_finite_names_the_tensor() -> None:
    model, optimizer = prepared(bert_classifier)

    def loss_fn(module: nn.Module, batch: Any) -> Tensor:
        return Spoilt.apply(module(batch["input_ids"]).logits).sum(-1)

    message = (
        r"the score of 'bert\.embeddings\.word_embeddings\.weight' at flat position \d+ is nan; scores must be finite"
    )
    assert_refused(model, optimizer, ValueError, message, classifier_examples(4), loss_fn=loss_fn)


def test_a_loss_function_of_the_wrong_shape_is_refused() -> None:
    model, optimizer = prepared(bert_classifier)
    message = r"loss_fn must return a tensor of shape \(4,\), one loss per example, not \(\)"
    assert_refused(
        model, optimizer, ValueError, message, classifier_examples(4), loss_fn=lambda module, batch: torch.zeros(())
    )
    message = r"one loss per example, not float"
    assert_refused(model, optimizer, ValueError, message, classifier_examples(4), loss_fn=lambda module, batch: 1.0)


@pytest.mark.parametrize("selection", ["highest_loss", "all"])
def test_losses_without_a_gradient_are_refused(selection: str) -> None:
    model, optimizer = prepared(bert_classifier, sample_selection=selection)

    @torch.no_grad()
    def loss_fn(module: Any, batch: Any) -> Tensor:
        logits = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return nn.functional.cross_entropy(logits, batch["labels"].view(-1), reduction="none")

    message = r"no targeted parameter has a gradient .* \(not under torch\.no_grad\)"
    assert_refused(model, optimizer, ValueError, message, classifier_examples(4), loss_fn=loss_fn)


def test_deltas_that_are_not_finite_are_not_blamed_on_an_example() -> None:
    model, optimizer = prepared()
    with torch.no_grad():
        flat_of(model)[3] = float("inf")
    message = "deltas of adapter 'default' are not finite: training has diverged; lower the learning rate"
    assert_refused(model, optimizer, ValueError, message, seq2seq_examples(4))


@pytest.mark.parametrize("step", ["a", -1, 2.5, True])
def test_a_step_that_is_no_count_is_refused(step: Any) -> None:
    model, optimizer = prepared()
    message = f"step={step!r} must be an int >= 0"
    assert_refused(model, optimizer, ValueError, message, seq2seq_examples(4), step=step)
    with pytest.raises(ValueError, match=message):
        model.base_model.set_mask(random_scores(model), step=step)


def test_an_adapter_that_is_not_trained_is_not_blamed_on_the_optimizer() -> None:
    model, optimizer = prepared()
    model.add_adapter("other", type(model.peft_config["default"])(density=0.1))
    message = r"AdamW does not train .* it needs no gradient: activate it, set_adapter"
    assert_refused(model, optimizer, ValueError, message, seq2seq_examples(4), adapter_name="other")


def test_a_model_of_an_unknown_kind_asks_for_a_loss_function() -> None:
    model = tuned(nn.Sequential(nn.Linear(8, 8)), density=0.2)
    with pytest.raises(ValueError, match="loss of single examples is not known for Sequential; pass loss_fn"):
        model.base_model.update_mask([{"x": [1.0]}] * 3)


def test_merged_disabled_or_ambiguous_adapters_are_refused() -> None:
    model, optimizer = prepared()
    model.merge_adapter()
    assert_refused(model, optimizer, ValueError, r"merged; call unmerge_adapter\(\)", seq2seq_examples(4))
    model.unmerge_adapter()
    with model.disable_adapter():
        assert_refused(model, optimizer, ValueError, "are disabled; enable them", seq2seq_examples(4))
    assert_refused(model, optimizer, ValueError, "there is no adapter 'x'; there are 'default'", [], adapter_name="x")
    assert_refused(model, optimizer, ValueError, "batch_size=0 must be an int", seq2seq_examples(4), batch_size=0)
    assert_refused(model, optimizer, ValueError, "batch_size='8' must be", seq2seq_examples(4), batch_size="8")
    model.add_adapter("other", type(model.peft_config["default"])(density=0.1))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="the active adapters are 'default', 'other'; name the one"):
        model.base_model.mask()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"one tensor for each targeted parameter: missing '0\.bias', unknown none"),
        (lambda s: s.update(x=torch.zeros(1)), "missing none, unknown 'x'"),
        (
            lambda s: s.update({"0.bias": torch.zeros(5)}),
            r"score of '0\.bias' must be a real tensor of shape \(4,\), not",
        ),
        (
            lambda s: s.update({"0.bias": [1, 2, 3, 4]}),
            r"score of '0\.bias' must be a real tensor of shape \(4,\), not a list",
        ),
        (lambda s: s.update({"0.bias": torch.zeros(4, dtype=torch.complex64)}), "not a Tensor torch.complex64 "),
        (
            lambda s: s.update({"0.bias": s["0.bias"].double() + 1e300}),
            r"the score of '0\.bias' at flat position 0 is 1e\+300; scores must be finite in float32: only their order",
        ),
        (lambda s: s["0.bias"].fill_(float("nan")), r"the score of '0\.bias' at flat position 0 is nan"),
        (
            lambda s: s["0.weight"].view(-1)[5:6].fill_(float("inf")),
            r"the score of '0\.weight' at flat position 5 is inf; .* only their order counts, so scale them down",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused(change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.3)
    randomise(model)
    before, scores = state_of(model), random_scores(model)
    change(scores)
    with pytest.raises(ValueError, match=message):
        model.base_model.set_mask(scores)
    assert state_of(model) == before


@pytest.mark.parametrize("selection", ["highest_loss", "random", "all"])
def test_examples_as_a_dataset_a_list_tensors_or_batches_give_the_same_scores(selection: str) -> None:
    examples = classifier_examples(6)
    tensors = [{key: torch.tensor(value) for key, value in example.items()} for example in examples]

    def mask(source: Any, **kwargs: Any) -> dict[str, Tensor]:
        model = tuned(bert_classifier(), sample_selection=selection, num_samples=6)
        assert model.base_model.update_mask(source, **kwargs).num_active == flat_of(model).numel()
        return model.base_model.mask()

    expected = mask(examples)
    loader = DataLoader(examples, batch_size=4, collate_fn=padded)
    sources: list[Any] = [tuple(examples), tensors, loader, iter([padded(examples[:1]), padded(examples[1:])])]
    for source in sources:
        found = mask(source)
        assert all(torch.equal(found[name], positions) for name, positions in expected.items())
    found = mask(examples, data_collator=padded, batch_size=1)
    assert all(torch.equal(found[name], positions) for name, positions in expected.items())
