"""Weights of pseudo-labels: against finite differences, and what they come to."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from peft_fishdip.tasks import NerExample, Span, TaskCollator, task_type, to_features
from peft_fishdip.tasks.self_training import alignments, batch_weights
from peft_fishdip.tasks.self_training.losses import distillation_losses, example_losses
from peft_fishdip.tasks.self_training.options import SelfTrainingOptions
from peft_fishdip.tasks.self_training.training import Learner

from .cases import FAMILIES, LABELLED, TASK, adapted, config_of


def covered(example, position):
    return any(span.start <= position < span.end for span in example.spans)


WRONG = [
    NerExample(x.tokens, tuple(Span(i, i + 1, "PER") for i in range(len(x.tokens)) if not covered(x, i)))
    for x in LABELLED
]
"""All words are labelled that should not be, and no other."""


def batches(model, tokenizer, examples):
    """One batch of each example, and one of all of them."""
    features = to_features(TASK, tokenizer, examples, model=model)
    collator = TaskCollator(tokenizer, model)
    return [collator([feature]) for feature in features], collator(features)


def mean_loss(model, batch):
    """The mean over examples of the mean over targets, computed anew, in double precision."""
    with torch.no_grad():
        logits = model(**batch).logits.double()
    labels = batch["labels"]
    logits = logits[:, logits.shape[1] - labels.shape[1] :]
    if task_type(model) == "CAUSAL_LM":
        logits, labels = logits[:, :-1], labels[:, 1:]
    rows = [cross_entropy(x[y != -100], y[y != -100]) for x, y in zip(logits, labels, strict=True)]
    return float(torch.stack(rows).mean())


def moved_by(parameters, vector, loss, step):
    """The loss with `step` times a vector added to all parameters together."""
    with torch.no_grad():
        parts = vector.split([p.numel() for p in parameters])
        before = [p.clone() for p in parameters]
        for p, part in zip(parameters, parts, strict=True):
            p += step * part.view_as(p)
        found = loss()
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    return found


def dense_gradient(parameters, loss, step):
    size = sum(p.numel() for p in parameters)
    found = []
    for unit in torch.eye(size, dtype=torch.float64):
        pair = [moved_by(parameters, unit, loss, sign * step) for sign in (1, -1)]
        found.append((pair[0] - pair[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


def learn(model, tokenizer, steps):
    learner = Learner(model, tokenizer, SelfTrainingOptions(learning_rate=2e-2), steps, 0, "", False)
    learner.learn(to_features(TASK, tokenizer, LABELLED[:4], model=model), steps)
    learner.close()


@pytest.mark.parametrize(
    ("family", "method", "step", "tolerance"),
    [
        ("bert", "lora", 1e-5, 1e-4),
        ("t5", "ia3", 1e-3, 5e-3),  # whose norms are float32
        ("llama", "ia3", 1e-3, 5e-3),
        ("bert", "fishdip", 1e-2, 3e-2),  # whose deltas are float32
    ],
)
def test_weights_are_those_of_one_step_of_gradient_descent(family, method, step, tolerance):
    base, tokenizer = FAMILIES[family]()
    config = config_of(method, family, base)
    if method == "fishdip":
        config.density = 0.01
    model = get_peft_model(base, config)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad and method != "fishdip":
            torch.nn.init.normal_(parameter, 1.0 if method == "ia3" else 0.0, 0.3)
    if method == "fishdip":
        model.eval()
    else:
        learn(model, tokenizer, 60 if family == "bert" else 5)
        model.double()
    pseudo = [LABELLED[0], WRONG[0], WRONG[2]]
    singles, _ = batches(model, tokenizer, pseudo)
    _, held_out = batches(model, tokenizer, [LABELLED[3], LABELLED[1]])
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = []
    for batch in singles:
        own = dense_gradient(parameters, lambda batch=batch: mean_loss(model, batch), step)
        length = float(own.norm())
        losses = [moved_by(parameters, own / length, lambda: mean_loss(model, held_out), s * step) for s in (1, -1)]
        expected.append(length * (losses[0] - losses[1]) / (2 * step))  # -dL/de_i after p - e_i * own
    expected = torch.tensor(expected)
    model.train()
    found = alignments(model, singles, held_out)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    scale = expected.abs().max()
    assert (found - expected).abs().max() < tolerance * scale
    assert expected.abs().min() > tolerance * scale  # so that signs are told apart
    if method == "lora":
        assert {bool(x > 0) for x in expected} == {True, False}
    wanted = expected.clamp(min=0) / expected.clamp(min=0).sum()
    assert torch.allclose(batch_weights(found), wanted.float(), atol=2 * tolerance)


def test_weights_of_a_batch_have_the_sum_1_or_are_all_0():
    assert batch_weights(torch.tensor([3.0, -1.0, 1.0])).tolist() == [0.75, 0.0, 0.25]
    assert batch_weights(torch.tensor([-3.0, 0.0])).tolist() == [0.0, 0.0]


def test_right_labels_weigh_more_than_wrong_ones():
    model, tokenizer = adapted("bert", "lora")
    learn(model, tokenizer, 60)
    right, _ = batches(model, tokenizer, [LABELLED[0], LABELLED[2]])
    wrong, _ = batches(model, tokenizer, [WRONG[0], WRONG[2]])
    _, held_out = batches(model, tokenizer, [LABELLED[3]])
    weights = batch_weights(alignments(model, [*right, *wrong], held_out))
    assert weights[:2].sum() > 0.9


def test_what_has_no_weight_does_not_go_through_the_model_in_training(monkeypatch):
    model, tokenizer = adapted("bert", "lora")
    features = to_features(TASK, tokenizer, LABELLED[:4], model=model)
    products = iter([torch.tensor([1.0, -1.0, 3.0, -2.0]), torch.tensor([-1.0, -1.0, -1.0, -1.0])])
    monkeypatch.setattr("peft_fishdip.tasks.self_training.training.alignments", lambda *_: next(products))
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["labels"])), with_kwargs=True
    )
    learner = Learner(model, tokenizer, SelfTrainingOptions(), 2, 0, "", False)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    weights, skipped = learner.learn_weighted(features, features[:1], 2)
    learner.close()
    handle.remove()
    assert seen == [2]
    assert skipped == 1
    assert sorted(weights) == [0.0, 0.0, 0.5, 1.5]
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("reweight", [True, False])
def test_a_student_learns_from_weighted_labels(reweight):
    model, tokenizer = adapted("bert", "lora")
    features = to_features(TASK, tokenizer, LABELLED[:4], model=model)
    _, whole = batches(model, tokenizer, LABELLED[:4])
    model.eval()
    before = mean_loss(model, whole)
    options = SelfTrainingOptions(learning_rate=2e-2, reweight=reweight)
    learner = Learner(model, tokenizer, options, 30, 0, "", False)
    learner.learn_weighted(features, features, 30)
    learner.close()
    assert mean_loss(model, whole) < 0.5 * before


def test_a_student_that_distils_comes_near_its_teacher():
    model, tokenizer = adapted("bert", "lora")
    features = to_features(TASK, tokenizer, LABELLED[:4], model=model)
    learn(model, tokenizer, 60)
    _, whole = batches(model, tokenizer, LABELLED[:4])
    with torch.no_grad():
        wanted = model(**whole).logits.softmax(-1)
    model.add_adapter("student", LoraConfig(task_type="TOKEN_CLS", r=2, target_modules=["query", "value"]))
    model.set_adapter("student")

    def distance():
        with torch.no_grad():
            found = (model(**whole).logits.softmax(-1) - wanted).abs()
        return float(found[whole["labels"] != -100].max())

    before = distance()
    learner = Learner(model, tokenizer, SelfTrainingOptions(learning_rate=2e-2), 60, 0, "", False)
    learner.distil(features, "default", "student", 60)
    learner.close()
    assert model.active_adapters == ["student"]
    assert distance() < 0.3 * before
    model.set_adapter("default")
    with torch.no_grad():
        assert torch.equal(model(**whole).logits.softmax(-1), wanted)  # the teacher stays


def test_a_gradient_that_is_not_finite_is_named():
    model, tokenizer = adapted("bert", "lora")
    singles, whole = batches(model, tokenizer, LABELLED[:2])
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("inf"))
    with pytest.raises(ValueError, match="the meta-gradient of example 0 of a batch is not finite"):
        alignments(model, singles, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_means_over_the_targets_of_each_example(family):
    model, tokenizer = adapted(family, "lora")
    model.eval()
    singles, whole = batches(model, tokenizer, LABELLED[:4])
    with torch.no_grad():
        found = example_losses(model, whole)
    assert found.shape == (4,)
    assert found.tolist() == pytest.approx([mean_loss(model, batch) for batch in singles], rel=1e-4)


def test_distillation_is_the_divergence_from_the_teacher():
    logits, teacher = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    p, q = teacher.softmax(-1), logits.softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    expected = [float(each[0, [0, 2]].mean()), float(each[1, 2])]
    assert distillation_losses(logits, teacher, labels).tolist() == pytest.approx(expected, rel=1e-4)
    assert distillation_losses(teacher, teacher, labels).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
