"""Training and generating with Houlsby adapters and Compacter; the base stays as it is."""

import pytest
import torch
from peft import get_peft_model

from .bottlenecked import METHODS, batch, fill, filled, layers, logits, same_state, tiny_t5, train
from .fixed_weights import GEOMETRY


@METHODS
def test_disabled_and_unloaded_adapters_leave_the_base(config_class):
    base, model = tiny_t5(), filled(config_class())
    assert not torch.allclose(logits(model), logits(base))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    adapted = logits(model)
    assert not torch.equal(adapted, logits(base))
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), logits(base))
    assert same_state(unloaded.state_dict(), base.state_dict())
    assert [type(m) for m in unloaded.modules()] == [type(m) for m in base.modules()]


@METHODS
@pytest.mark.parametrize("modules_to_save", [None, ["layer_norm"]])
def test_training_lowers_the_loss_and_changes_what_is_trainable(config_class, modules_to_save):
    model = get_peft_model(tiny_t5(dropout_rate=0.1), config_class(modules_to_save=modules_to_save)).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = train(model, steps=30)
    assert losses[-1] < losses[0] - 0.5
    for name, parameter in model.named_parameters():
        new = ".houlsby_" in name or ".compacter_" in name or ".modules_to_save." in name
        assert torch.equal(parameter, before[name]) == (not new), name


@METHODS
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(config_class, reentrant):
    def gradients(checkpointing):
        model, calls = filled(config_class(), use_cache=False).train(), []
        layers(model)[0][1].register_forward_hook(lambda *_: calls.append(1))
        if checkpointing:
            model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch()).loss.backward()
        assert len(calls) == 1 + checkpointing
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    found, expected = gradients(True), gradients(False)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@METHODS
def test_greedy_generation_with_cache_follows_the_teacher_forced_logits(config_class):
    model = filled(config_class(task_type="SEQ_2_SEQ_LM"))
    inputs = {name: tensor for name, tensor in batch().items() if name != "labels"}
    generated = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    with torch.no_grad():
        forced = model(**inputs, decoder_input_ids=generated[:, :-1]).logits
    forced[..., GEOMETRY["eos_token_id"]] = -torch.inf  # as min_new_tokens does
    assert generated.shape == (2, 7)
    assert torch.equal(generated[:, 1:], forced.argmax(-1))
    with model.disable_adapter():
        assert not torch.equal(generated, model.generate(**inputs, max_new_tokens=6, min_new_tokens=6))


@METHODS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_base_in_half_precision(config_class, dtype, autocast):
    model = get_peft_model(tiny_t5().to(dtype), config_class(), autocast_adapter_dtype=autocast)
    fill(model)
    kept = torch.float32 if autocast else dtype
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {kept}
    result = model(**batch())
    result.loss.backward()
    assert result.logits.dtype == dtype
    assert layers(model)[0][1](torch.ones(1, 128, dtype=dtype)).dtype == dtype
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(result.logits.float(), logits(filled(config_class())), rtol=0, atol=0.1)


@METHODS
def test_autocast_keeps_the_adapter_and_the_sum_in_float32(config_class):
    model = filled(config_class())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch()).loss
    loss.backward()
    assert {p.grad.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert loss.item() == pytest.approx(filled(config_class())(**batch()).loss.item(), abs=0.05)
