"""The run as a whole: it learns, it can be killed anywhere, it refuses what does not belong together."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.pretrain import loop
from benchmarks.pretrain.batches import Batches
from benchmarks.pretrain.checkpoint import checkpoints, latest_checkpoint
from benchmarks.pretrain.loop import Progress, read_log, train
from benchmarks.pretrain.model import new_model, token_losses
from benchmarks.settings import SettingsError

from .tiny import tiny_settings, tiny_shards

CPU = torch.device("cpu")
TIMES = ("seconds", "tokens_per_second")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop catches it."""


def rows(run, kind="train"):
    return [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_log(run / "log.jsonl")
        if row["kind"] == kind
    ]


def weights(run):
    return load_file(latest_checkpoint(run) / "model.safetensors")


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A run that nothing interrupted; dropout makes torch's random numbers matter."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    settings = tiny_settings(dropout=0.1, evaluate_every=5)
    return run, settings, train(shards, settings, run, device=CPU)


def test_the_log_says_what_happened(whole, shards):
    run, settings, progress = whole
    log = rows(run)
    batches = Batches(shards.train, settings, shards.vocab_size)
    tokens = [batches(step).tokens for step in range(progress.step)]
    assert [row["tokens"] for row in log] == [sum(tokens[: i + 1]) for i in range(len(tokens))]
    assert sum(tokens[:-1]) < settings.max_tokens <= sum(tokens)
    assert [row["step"] for row in log] == list(range(1, progress.step + 1))
    assert [row["step"] for row in rows(run, "heldout")] == [*range(5, progress.step, 5), progress.step]
    assert all(0 <= row["copied_tokens"] <= 1 and row["span_loss"] > 0 for row in rows(run, "heldout"))
    timed = list(read_log(run / "log.jsonl"))
    assert all(row["tokens_per_second"] > 0 for row in timed if row["kind"] == "train")
    assert json.loads((run / "run.json").read_text())["settings"] == settings.as_dict()
    assert [path.name for path in checkpoints(run)] == [f"checkpoint-{progress.step:08d}"]
    names = {path.name for path in latest_checkpoint(run).iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "progress.json"}


def test_the_first_loss_is_that_of_transformers(shards, tmp_path):
    """A step's loss is the mean over all labels of the step, whichever part they are in."""
    settings = tiny_settings(max_tokens=1)
    train(shards, settings, tmp_path / "run", device=CPU)
    model = new_model(settings, shards.vocab_size).eval()
    batch = Batches(shards.train, settings, shards.vocab_size)(0)
    total = count = 0.0
    for part in batch.parts.values():
        with torch.no_grad():
            loss = model(
                input_ids=part.input_ids, attention_mask=(part.input_ids != 0).long(), labels=part.labels
            ).loss.item()
        number = int((part.labels != -100).sum())
        total, count = total + loss * number, count + number
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("at", [2, 4, 7, 10])
def test_a_killed_run_goes_on_to_the_same_losses(whole, shards, tmp_path, monkeypatch, at):
    run, settings, progress = whole
    real, calls = loop.token_losses, []

    def dying(*args):
        calls.append(0)
        if len(calls) > 2 * at:
            raise Killed
        return real(*args)

    monkeypatch.setattr(loop, "token_losses", dying)
    with pytest.raises(Killed):
        train(shards, settings, tmp_path / "run", device=CPU)
    monkeypatch.undo()
    assert len(rows(tmp_path / "run")) == at
    torch.manual_seed(12345)
    again = train(shards, settings, tmp_path / "run", device=CPU)
    assert (again.step, again.tokens) == (progress.step, progress.tokens)
    for kind in ("train", "heldout"):
        assert rows(tmp_path / "run", kind) == rows(run, kind)
    expected = weights(run)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "run").items())
    assert [session["step"] for session in again.sessions] == ([0] if at < 4 else [0, at // 4 * 4])


@pytest.mark.parametrize("function", ["save_file", "write_json", "sync"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_a_checkpoint_is_written_costs_that_checkpoint_alone(
    whole, shards, tmp_path, monkeypatch, function, call
):
    from benchmarks.pretrain import checkpoint

    run, settings, _ = whole
    real, calls = getattr(checkpoint, function), []
    begun = {"save_file": 2, "write_json": 1, "sync": 4}[function]  # calls of the first checkpoint

    def dying(*args):
        calls.append(0)
        if len(calls) == begun + min(call, begun):
            raise Killed
        return real(*args)

    monkeypatch.setattr(checkpoint, function, dying)
    with pytest.raises(Killed):
        train(shards, settings, tmp_path / "run", device=CPU)
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-00000004"]
    train(shards, settings, tmp_path / "run", device=CPU)
    assert rows(tmp_path / "run") == rows(run)
    assert not list((tmp_path / "run").glob("unfinished-*"))


@pytest.mark.parametrize("precision", [{}, {"bf16": True, "dropout": 0.1}], ids=["float32", "bfloat16"])
def test_a_session_can_end_early_between_two_reports(shards, tmp_path, precision):
    """The losses since the last report go along."""
    settings = tiny_settings(log_every=3, **precision)
    train(shards, settings, tmp_path / "one", device=CPU)
    first = train(shards, settings, tmp_path / "two", device=CPU, stop_after_minutes=0)
    assert first.step == 1
    last = Progress()
    while last.share(settings) < 1:
        last = train(shards, settings, tmp_path / "two", device=CPU, stop_after_minutes=0)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    finished = train(shards, settings, tmp_path / "two", device=CPU)
    assert asdict(finished) == asdict(last)


def test_the_clock_ends_a_run_and_moves_its_rate(shards, tmp_path, monkeypatch):
    now = iter(range(0, 10**6, 1))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(now) * 1.5)
    progress = train(shards, tiny_settings(max_tokens=10**9, max_minutes=1.0), tmp_path / "run", device=CPU)
    assert 60 <= progress.seconds < 75
    rates = [row["rate"] for row in rows(tmp_path / "run")]
    assert rates[-1] < 0.1 * max(rates)


def test_training_lowers_both_losses_and_learns_to_copy(shards, tmp_path):
    settings = tiny_settings(max_tokens=60_000, log_every=20, batch_size=16, checkpoint_every=1000)
    train(shards, settings, tmp_path / "run", device=CPU)
    log = rows(tmp_path / "run")
    assert log[-1]["spans_loss"] < log[0]["spans_loss"] - 1.5
    assert log[-1]["denoising_loss"] < log[0]["denoising_loss"] - 1.5


def test_compiled_and_plain_runs_agree(shards, tmp_path):
    settings = tiny_settings(max_tokens=1000, denoising_share=0.0)
    train(shards, settings, tmp_path / "plain", device=CPU)
    train(shards, settings, tmp_path / "compiled", device=CPU, backend="eager")
    assert [row["loss"] for row in rows(tmp_path / "compiled")] == pytest.approx(
        [row["loss"] for row in rows(tmp_path / "plain")], rel=1e-4
    )


def test_bfloat16_is_near_and_keeps_float32_weights(shards, tmp_path):
    model = new_model(tiny_settings(), shards.vocab_size)
    part = Batches(shards.train, tiny_settings(), shards.vocab_size)(0).parts["spans"]
    exact, rough = token_losses(model, part, False), token_losses(model, part, True)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    train(shards, tiny_settings(bf16=True, max_tokens=500), tmp_path / "run", device=CPU)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_the_embedding_is_one_and_the_seed_decides(shards):
    model = new_model(tiny_settings(), shards.vocab_size)
    names = dict(model.named_parameters())
    assert sum("embed" in name or "lm_head" in name or name == "shared.weight" for name in names) == 1
    assert names["shared.weight"].shape == (576, 32)  # 520 ids, up to a multiple of 64
    same, other = (new_model(tiny_settings(seed=seed), shards.vocab_size) for seed in (0, 1))
    assert torch.equal(same.shared.weight, model.shared.weight)
    assert not torch.equal(other.shared.weight, model.shared.weight)


def test_what_does_not_belong_together_is_refused(whole, shards, tmp_path):
    run, settings, _ = whole
    other = tiny_settings(**{**settings.as_dict(), "learning_rate": 0.5, "seed": 3})
    with pytest.raises(SettingsError, match=r"learning_rate was 0\.02, is 0\.5; seed was 0, is 3"):
        train(shards, other, run, device=CPU)
    elsewhere = tiny_shards(tmp_path, shard_tokens=5000)
    with pytest.raises(SettingsError, match="begun with other shards"):
        train(elsewhere, settings, run, device=CPU)


def test_while_the_rate_is_level_a_run_can_be_made_longer(shards, tmp_path):
    short, long = (tiny_settings(max_tokens=tokens, decay_share=0.5, checkpoint_every=1) for tokens in (2000, 3000))
    train(shards, short, tmp_path / "lengthened", device=CPU, stop_after_minutes=0)
    train(shards, long, tmp_path / "lengthened", device=CPU)
    train(shards, long, tmp_path / "long", device=CPU)
    assert rows(tmp_path / "lengthened") == rows(tmp_path / "long")
    for name, tensor in weights(tmp_path / "long").items():
        assert torch.equal(weights(tmp_path / "lengthened")[name], tensor)
    with pytest.raises(SettingsError, match=r"begun with other settings: max_tokens was 3000, is 4000"):
        train(
            shards, tiny_settings(max_tokens=4000, decay_share=0.5, checkpoint_every=1), tmp_path / "long", device=CPU
        )


def test_damaged_runs_are_refused(shards, tmp_path):
    run = tmp_path / "run"
    settings = tiny_settings(max_tokens=2000)
    train(shards, settings, run, device=CPU, stop_after_minutes=0)
    path = latest_checkpoint(run) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(SettingsError, match=r"model\.safetensors cannot be read"):
        train(shards, settings, run, device=CPU)
    path.write_bytes((latest_checkpoint(run) / "optimizer.safetensors").read_bytes())
    with pytest.raises(SettingsError, match=r"model\.safetensors is of another model"):
        train(shards, settings, run, device=CPU)
    path.write_bytes(content)
    (run / "run.json").write_text('{"settings": {"d_model": 3}}')
    with pytest.raises(SettingsError, match="has not the settings of a run"):
        train(shards, settings, run, device=CPU)
    (run / "run.json").unlink()
    with pytest.raises(SettingsError, match=r"has checkpoints but no run\.json"):
        train(shards, settings, run, device=CPU)


def test_a_loss_that_is_not_finite_stops_the_run(shards, tmp_path, monkeypatch):
    real = loop.token_losses
    monkeypatch.setattr(loop, "token_losses", lambda *args: real(*args) * float("nan"))
    with pytest.raises(SettingsError, match=r"step 1: a loss or the gradient is nan; .* lower than 0\.02"):
        train(shards, tiny_settings(), tmp_path / "run", device=CPU)


def test_no_checkpoint_is_replaced_by_one_that_is_not_finite(shards, tmp_path, monkeypatch):
    real, calls = loop.token_losses, []

    def bursting(*args):
        calls.append(0)
        return real(*args) * (float("inf") if len(calls) > 10 else 1.0)  # two parts a step: from the sixth step on

    monkeypatch.setattr(loop, "token_losses", bursting)
    settings = tiny_settings(log_every=1000, checkpoint_every=2)
    with pytest.raises(SettingsError, match="step 6: a loss or the gradient is"):
        train(shards, settings, tmp_path / "run", device=CPU)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-00000004"]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("batch_size", 0), ("learning_rate", -1.0), ("learning_rate", float("nan")), ("denoising_share", 1.5)],
        *[("noise_density", 1.0), ("mean_span", 0.5), ("length", 4), ("denoising_length", 30), ("beta2", 1.0)],
        *[("max_tokens", 0), ("max_minutes", -1.0), ("seed", -1), ("corruption", 1.0), ("decay_share", -0.1)],
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(SettingsError, match=f"{name}={value}"):
        tiny_settings(**{name: value})
