"""Generative perplexity under another checkpoint, against transformers' own loss on the same tokens."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlmbench import InputError
from dlmbench.bench.judge import ROWS, Judge
from dlmbench.bench.quality import _under_ar
from dlmbench.models.backbone import Backbone
from dlmbench.models.catalog import Context, NetworkSource
from dlmbench.models.checkpoints import save_checkpoint
from dlmbench.models.config import BackboneConfig
from dlmbench.models.source import embedded_source
from dlmbench.models.tokenizer import TEXT_FOLDER, Tokenizer, embedded_tokenizer
from dlmbench.models.weights import random_network
from dlmbench.profiles.quality import Texts, gen_ppl
from dlmbench.profiles.record import Cell

EOS = 4094
Loss = Callable[[Sequence[int], int], float]


def shape(**fields: Any) -> BackboneConfig:
    sizes = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    return BackboneConfig.model_validate(sizes | heads | {"eos_token_id": EOS, "mask_token_id": 4095} | fields)


def network(config: BackboneConfig) -> Backbone:
    made = random_network(config, 3, torch.float32, "cpu")
    assert isinstance(made, Backbone)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.mul_(8)  # or every token would be about as likely
    return made


def save(folder: Path, **fields: Any) -> Path:
    save_checkpoint(network(shape(**fields)), folder)
    (folder / "tokenizer.json").write_bytes((TEXT_FOLDER / "tokenizer.json").read_bytes())
    return folder


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-like judge with the tokenizer of the embedded texts; never changed."""
    return save(tmp_path_factory.mktemp("judges") / "llama", qk_norm=True)


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    return Judge.load(str(folder), "cpu")


def theirs(folder: Path) -> Loss:
    """`loss(ids, given)`: nats of all but the first `given` ids, by transformers' own loss."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def loss(ids: Sequence[int], given: int) -> float:
        inputs = torch.tensor([list(ids)])
        labels = inputs.clone()
        labels[:, :given] = -100
        with torch.inference_mode():
            return float(model(input_ids=inputs, labels=labels).loss) * (len(ids) - given)

    return loss


@pytest.fixture(scope="module")
def loss(folder: Path) -> Loss:
    return theirs(folder)


def some_ids(rows: int, length: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, 4000, (rows, length))


def test_the_same_tokenizer_scores_ids_as_they_are(judge: Judge, loss: Loss) -> None:
    """Three texts of 9, 4 and 1 tokens behind five of prompt: 14 judged tokens; the second ends with its EOS."""
    ids, emitted = some_ids(3, 14), np.array([9, 4, 1])
    ids[1, 8] = EOS
    nats = [loss([EOS, *row[: 5 + count]], 6) for row, count in zip(ids.tolist(), emitted.tolist(), strict=True)]
    found = judge.perplexity(Texts(ids, 5, emitted), embedded_tokenizer())
    assert found.value == pytest.approx(math.exp(sum(nats) / 14), rel=1e-4)
    assert found.value != pytest.approx(4096, rel=0.1), "the weights say something"
    assert (found.n, found.level) == (3, 0.95)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_another_tokenizer_reads_the_text_that_stands_behind_its_prompt(judge: Judge, loss: Loss) -> None:
    source, mine = embedded_source(), embedded_tokenizer()
    first, second = source.tokenizer.encode("the tall clouds need one telescope."), source.tokenizer.encode("the tall")
    ids = np.array([[*second, source.tokenizer.eos_id, *first, source.tokenizer.eos_id, *second]])
    # What the prompt does not hold, with the space before it; a document's end is the judge's own.
    given = [EOS, *mine.encode("the tall"), EOS, *mine.encode("the tall clouds")]
    text = [*mine.encode(" need one telescope."), EOS, *mine.encode("the tall")]
    found = judge.perplexity(Texts(ids, 6, np.array([ids.shape[1] - 6])), source.tokenizer)
    assert found.value == pytest.approx(math.exp(loss(given + text, len(given)) / len(text)), rel=1e-4)


def test_a_character_split_between_prompt_and_text_is_read_in_both_halves(judge: Judge, loss: Loss) -> None:
    mine = embedded_tokenizer()
    other = Tokenizer("other", "0", mine.vocab_size, EOS, mine.mask_id, mine._backend, mine._control_ids)
    ids = mine.encode("a ∮ b")
    cut = next(at for at in range(1, len(ids)) if "�" in mine.decode(ids[:at]))
    given, text = ([*mine.encode(mine.decode(part))] for part in (ids[:cut], ids[cut:]))
    found = judge.perplexity(Texts(np.array([ids]), cut, np.array([len(ids) - cut])), other)
    assert found.value == pytest.approx(math.exp(loss([EOS, *given, *text], 1 + len(given)) / len(text)), rel=1e-4)


def test_neither_padding_nor_the_batch_has_an_effect(judge: Judge) -> None:
    """Together the texts cost what they cost one by one, over two batches, whatever stands behind their ends."""
    rows = ROWS + 5
    ids, emitted = some_ids(rows, 16), np.arange(rows) % 12 + 1
    together = judge.perplexity(Texts(ids, 4, emitted), embedded_tokenizer()).value
    nats = 0.0
    for row, count in zip(ids, emitted.tolist(), strict=True):
        alone = judge.perplexity(Texts(row[None, : 4 + count], 4, np.array([count])), embedded_tokenizer()).value
        assert alone is not None
        nats += math.log(alone) * count
    assert together == pytest.approx(math.exp(nats / emitted.sum()), rel=1e-4)
    spoiled = np.where(np.arange(16)[None] < 4 + emitted[:, None], ids, 7)
    assert judge.perplexity(Texts(spoiled, 4, emitted), embedded_tokenizer()).value == pytest.approx(together)


def test_a_text_that_emitted_nothing_weighs_nothing(judge: Judge) -> None:
    ids = some_ids(3, 8)
    both = judge.perplexity(Texts(ids, 4, np.array([4, 0, 3])), embedded_tokenizer())
    without = judge.perplexity(Texts(ids[[0, 2]], 4, np.array([4, 3])), embedded_tokenizer())
    assert both.value == pytest.approx(without.value)
    none = judge.perplexity(Texts(ids, 4, np.array([0, 0, 0])), embedded_tokenizer())
    assert (none.value, none.why) == (None, "no token was emitted")


def test_the_pairs_own_ar_as_judge_says_what_gen_ppl_says(judge: Judge, folder: Path) -> None:
    config = shape(qk_norm=True)
    context = Context(config, str(folder), torch.float32, "cpu", 0, partner=NetworkSource(config, str(folder)))
    context._networks[NetworkSource(config, str(folder))] = network(config)
    cell = Cell(pair="small", side="ar", generator="ar", length=8, prompt_length=4)
    ids = some_ids(5, 12)
    texts = Texts(ids, 4, np.full(5, 8))
    log_prob = _under_ar(cell, context, ids, EOS)
    assert log_prob is not None
    expected, found = gen_ppl(texts, log_prob), judge.perplexity(texts, embedded_tokenizer())
    assert (found.value, found.low) == (pytest.approx(expected.value), pytest.approx(expected.low))


def test_a_prompt_too_long_loses_its_beginning_and_a_text_too_long_is_refused(tmp_path: Path) -> None:
    """Context 10, text 6: start token and the prompt's last four are given, 10 positions are read."""
    path = save(tmp_path, max_position_embeddings=10)
    judge, ids = Judge.load(str(path), "cpu"), some_ids(1, 14)
    found = judge.perplexity(Texts(ids, 8, np.array([6])), embedded_tokenizer())
    nats = theirs(path)([EOS, *ids[0, 4:].tolist()], 5)
    assert found.value == pytest.approx(math.exp(nats / 6), rel=1e-4)
    whole = judge.perplexity(Texts(ids, 4, np.array([10])), embedded_tokenizer())
    assert whole.value == pytest.approx(math.exp(theirs(path)([EOS, *ids[0, 4:].tolist()], 1) / 10), rel=1e-4)
    refused = judge.perplexity(Texts(ids, 3, np.array([11])), embedded_tokenizer())
    assert (refused.value, refused.why) == (None, "text 0 has 11 of the judge's tokens, its context only 10")


def test_a_begin_of_text_token_comes_first_and_without_any_a_prompt_is_needed(tmp_path: Path) -> None:
    path, ids = save(tmp_path), some_ids(1, 6)
    edit(path, bos_token_id=17)
    found = Judge.load(str(path), "cpu").perplexity(Texts(ids, 0, np.array([6])), embedded_tokenizer())
    assert found.value == pytest.approx(math.exp(theirs(path)([17, *ids[0].tolist()], 1) / 6), rel=1e-4)
    edit(path, bos_token_id=None, eos_token_id=None)
    bare = Judge.load(str(path), "cpu")
    assert "no start token" in (bare.perplexity(Texts(ids, 0, np.array([6])), embedded_tokenizer()).why or "")
    found = bare.perplexity(Texts(ids, 2, np.array([4])), embedded_tokenizer())
    assert found.value == pytest.approx(math.exp(theirs(path)(ids[0].tolist(), 2) / 4), rel=1e-4)


def test_gpt2_judges_in_transformers_class(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=4096, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=EOS,
                        eos_token_id=EOS, initializer_range=0.3)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((TEXT_FOLDER / "tokenizer.json").read_bytes())
    ids = some_ids(2, 12)
    found = Judge.load(str(tmp_path), "cpu").perplexity(Texts(ids, 4, np.array([8, 5])), embedded_tokenizer())
    loss = theirs(tmp_path)
    nats = loss([EOS, *ids[0].tolist()], 5) + loss([EOS, *ids[1, :9].tolist()], 5)
    assert found.value == pytest.approx(math.exp(nats / 13), rel=1e-4)


def test_ids_that_the_judge_does_not_have_are_refused(judge: Judge) -> None:
    ids = np.array([[1, 2, 5000]])
    with pytest.raises(InputError, match="text 0 holds id 5000"):
        judge.perplexity(Texts(ids, 1, np.array([2])), embedded_tokenizer())
    assert judge.perplexity(Texts(ids, 1, np.array([1])), embedded_tokenizer()).value is not None


SEDD = {"tokens": 4095, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "model": {
    "hidden_size": 32, "cond_dim": 8, "length": 16, "n_blocks": 1, "n_heads": 1, "scale_by_sigma": True,
}}  # fmt: skip


def _unknown(path: Path) -> None:
    edit(path, model_type="bert")


def _sdar(path: Path) -> None:
    edit(path, model_type="sdar", architectures=["SDARForCausalLM"], block_size=4)


def _sedd(path: Path) -> None:
    (path / "config.json").write_text(json.dumps(SEDD))


def _card(path: Path) -> None:
    (path / "training.json").write_text('{"model": "mdlm"}')


def _no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def _start_outside(path: Path) -> None:
    edit(path, bos_token_id=4096)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_unknown, "model_type is 'bert', expected an autoregressive one of llama, qwen2, qwen3 or gpt2"),
        (_sdar, "model_type is 'sdar'"),
        (_sedd, "model_type is 'sedd'"),
        (_card, "trained as 'mdlm', expected 'ar'"),
        (_no_tokenizer, "tokenizer.json: no such file"),
        (_start_outside, "starts texts with 4096, its network has only 4096"),
    ],
)
def test_what_cannot_judge_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    path = save(tmp_path)
    spoil(path)
    with pytest.raises(InputError, match=message) as error:
        Judge.load(str(path), "cpu")
    assert str(error.value).startswith("judge: ")
    assert "\n" not in str(error.value)


def test_no_folder_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judge: .*no such"):
        Judge.load(str(tmp_path / "nothing"), "cpu")
