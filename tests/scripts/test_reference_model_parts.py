"""The pieces of the reference model's build, each against its definition."""

import sys
from pathlib import Path

import pytest

import moecompress

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(moecompress.__file__).parents[1] / "scripts"))

import torch.nn.functional as F  # noqa: E402
from reference_model import arithmetic, assemble, evaluate, expert, router, settings, stage, texts, train, usage  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, MixtralForCausalLM  # noqa: E402

HIDDEN, INNER, LAYERS, VOCABULARY = 16, 24, 2, 40


@pytest.fixture
def dense():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tokens():
    return torch.randint(VOCABULARY, (640,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rows", [1, 7, 64, 200])
def test_the_sliced_loss_is_cross_entropy(dense, rows, monkeypatch):
    monkeypatch.setattr(train, "ROWS", rows)
    random = torch.Generator().manual_seed(2)
    sample = torch.randint(VOCABULARY, (3, 30), generator=random)
    hidden = torch.randn(3, 30, HIDDEN, generator=random, requires_grad=True)
    logits = hidden[:, :-1] @ dense.lm_head.weight.detach().T
    wanted = F.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten())
    found = train.next_token_loss(dense, hidden, sample)
    torch.testing.assert_close(found, wanted)
    slopes = [torch.autograd.grad(3 * loss, hidden)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*slopes)


def test_masters_keep_steps_that_bf16_would_lose():
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    masters = train.Masters([parameter], rate=1e-4)
    for _ in range(60):
        parameter.grad = torch.full_like(parameter, 0.1)
        masters.step(1.0)
    assert parameter[0].item() == pytest.approx(1 - 60e-4, abs=4e-3)
    assert parameter[0].item() < 1


def test_the_rate_warms_up_and_falls_to_a_tenth():
    rates = [train.course(step, 60, 6) for step in range(60)]
    assert rates[0] == pytest.approx(1 / 6, rel=1e-2)
    assert max(rates) == rates[5]
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def expert_settings(width: int, ridge: float = 1e-6) -> settings.ExpertSettings:
    return settings.ExpertSettings(width=width, ridge=ridge, window=32)


def test_narrowing_to_all_neurons_changes_nothing(dense, tokens):
    sample = tokens[:32][None]
    wanted = dense(sample).logits.detach()
    kept = expert.narrow(dense, tokens, expert_settings(INNER))
    assert kept.tolist() == [list(range(INNER))] * LAYERS
    torch.testing.assert_close(dense(sample).logits, wanted, rtol=1e-3, atol=1e-3)


def test_narrowing_drops_the_silent_neurons(dense, tokens):
    sample = tokens[:32][None]
    silent = [3, 5, 11, 20]
    with torch.no_grad():
        for layer in dense.model.layers:
            layer.mlp.up_proj.weight[silent] = 0
    wanted = dense(sample).logits.detach()
    kept = expert.narrow(dense, tokens, expert_settings(INNER - len(silent)))
    assert kept.tolist() == [[n for n in range(INNER) if n not in silent]] * LAYERS
    torch.testing.assert_close(dense(sample).logits, wanted, rtol=1e-3, atol=1e-3)


def test_the_refit_is_the_least_squares_solution():
    random = torch.Generator().manual_seed(3)
    inner, down = torch.randn(200, INNER, generator=random), torch.randn(HIDDEN, INNER, generator=random)
    inner = inner @ torch.randn(INNER, INNER, generator=random)
    neurons = torch.tensor([1, 4, 7, 8, 15, 23])
    found = expert.refit(inner.T @ inner, neurons, down, ridge=0.0)
    wanted = torch.linalg.lstsq(inner[:, neurons], inner @ down.T).solution.T
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_a_mixture_of_copies_is_the_dense_model(dense, tokens):
    sample = tokens[:32][None]
    names = ("gate_proj", "up_proj", "down_proj")
    stack = {name: torch.stack([getattr(layer.mlp, name).weight for layer in dense.model.layers]) for name in names}
    gates = torch.randn(LAYERS, 4, HIDDEN, generator=torch.Generator().manual_seed(4))
    mixture = MixtralForCausalLM(assemble.mixtral_config(dense.config, INNER, 4, 2)).eval()
    assemble.fill(mixture, dense, [stack] * 4, gates)
    torch.testing.assert_close(mixture(sample).logits, dense(sample).logits, rtol=1e-4, atol=1e-4)


def test_overlap_counts_shared_neurons():
    kept = torch.tensor([[[0, 1, 2, 3]], [[2, 3, 4, 5]], [[0, 1, 2, 3]]])
    assert assemble.overlap(kept) == {"min": 0.5, "mean": 0.667, "max": 1.0}


def test_the_regression_separates_what_can_be_separated():
    random = torch.Generator().manual_seed(5)
    centres = 3 * torch.randn(4, HIDDEN, generator=random)
    labels = torch.arange(4).repeat_interleave(100)
    inputs = (centres[labels] + torch.randn(400, HIDDEN, generator=random)) * torch.logspace(-1, 2, HIDDEN)
    weight, accuracy = router.regress(inputs, labels, 4, settings.RouterSettings(batch=64), random)
    assert accuracy > 0.98
    assert ((inputs @ weight.T).argmax(1) == labels).float().mean() == pytest.approx(accuracy)


def test_batches_take_every_window_before_any_comes_again():
    drawn = torch.cat(list(texts.batches(torch.arange(80), 8, 3, 10, seed=0, domain="prose")))
    starts = (drawn[:, 0] // 8).tolist()
    assert len(starts) == 30
    assert all(sorted(starts[first : first + 10]) == list(range(10)) for first in (0, 10, 20))
    assert starts[:10] != starts[10:20]


def test_the_mixture_takes_the_domains_in_turn_from_their_second_halves():
    domains = [torch.arange(64) + 1000 * index for index in range(3)]
    drawn = torch.cat(list(texts.mixture(domains, 8, 4, 6, seed=0)))
    assert (drawn[:, 0] // 1000).tolist() == [index % 3 for index in range(24)]
    assert int((drawn % 1000).min()) >= 32


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_stays_within_half_a_step(bits):
    weights = torch.randn(5, 32, generator=torch.Generator().manual_seed(6))
    rounded = evaluate.round_to_nearest(weights, bits, 16)
    groups, found = weights.view(5, 2, 16), rounded.view(5, 2, 16)
    step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
    assert ((found - groups).abs().amax(-1) <= step / 2 + 1e-5).all()
    assert all(len(group.unique()) <= 2**bits for group in found.flatten(0, 1))


def test_usage_names_shares_and_entropy():
    counts = torch.tensor([[[50, 50], [100, 0]], [[50, 50], [100, 0]]])
    found = usage.summarise(counts)
    assert found["own_share"] == [0.75, 0.25]
    assert found["entropy"] == [1.0, 0.0]
    assert found["share"] == [[0.5, 0.5], [1.0, 0.0]]


def test_an_argument_without_a_fingerprint_is_an_error():
    with pytest.raises(TypeError, match="has no fingerprint"):
        stage.identity((Path("somewhere"),))


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_the_build_computes_in_bf16_only_where_the_processor_does(monkeypatch, capabilities, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert arithmetic.compute_type() == wanted
