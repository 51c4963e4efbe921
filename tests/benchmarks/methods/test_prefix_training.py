"""Training of prefixes."""

import pytest
import torch
from peft import get_peft_model

from benchmarks.methods import FullPrefixConfig

from .prefixed import D_MODEL, TOKENS, base_model, batch, prefixed, t5_config


def test_only_prefixes_train_and_the_base_comes_back_bitwise(bottleneck):
    model = prefixed(bottleneck_size=bottleneck).train()
    before = {name: tensor.clone() for name, tensor in base_model().state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.05)
    losses = []
    for _ in range(15):
        loss = model(**batch()).loss
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in trainable)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    unloaded = model.unload()
    assert unloaded.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in unloaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(unloaded.eval()(**batch()).logits, base_model()(**batch()).logits)


@torch.no_grad()
def test_the_models_own_dropout_follows_its_mode(attention):
    base = base_model(config=t5_config(dropout_rate=0.3), attention=attention)
    model = get_peft_model(base, FullPrefixConfig(num_virtual_tokens=TOKENS, bottleneck_size=None))
    assert torch.equal(model(**batch()).logits, model(**batch()).logits)
    attend = model.train().get_base_model().encoder.block[0].layer[0].SelfAttention
    states = torch.randn(2, 5, D_MODEL)
    assert not torch.equal(attend(states)[0], attend(states)[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, bottleneck):
    gradients = []
    for checkpointing in (False, True):
        base = base_model()
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": reentrant})
        model = prefixed(base, bottleneck_size=bottleneck).train()
        model(**batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_float32_prefixes(dtype, bottleneck):
    model = prefixed(base_model().to(dtype), bottleneck_size=bottleneck)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(**batch())
    output.loss.backward()
    assert output.logits.dtype == dtype
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
