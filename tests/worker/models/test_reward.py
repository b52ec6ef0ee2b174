import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from app.domain.errors import ModelInvalid
from tests.worker.workshop import ask, make_tokenizer
from worker.models.load import load_classifier
from worker.models.reward import RewardModel, common_length

TURNS = "my lamp is broken"
OTHER = "the printer makes a noise and then stops"
ANSWERS = [
    "Read the manual",
    "I am sorry about that, let us fix it together",
    "No",
    "Not my problem, please do not write again " * 3,
]
PAIRS = [ask(turns, answer) for turns in (TURNS, OTHER) for answer in ANSWERS]


def score_singly(folder: Path, model: RewardModel) -> list[float]:
    """Each conversation alone and unpadded through the classifier: what its score is by definition."""
    network = load_classifier(folder, dtype="float32", device="cpu")
    texts = model.format.write_conversations(PAIRS)
    with torch.inference_mode():
        return [network(torch.tensor([model.tokenizer(text)["input_ids"]])).logits.item() for text in texts]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("pad", [True, False])
def test_batched_scores_equal_single_ones_with_and_without_a_pad_token(workshop, kind, pad):
    folder = workshop.reward(kind, pad=pad)
    model = RewardModel(folder, dtype="float32", device="cpu")
    assert model.shares_prefix
    want = score_singly(folder, model)
    assert model.score(PAIRS) == pytest.approx(want, abs=1e-4)
    model.shares_prefix = False
    assert model.score(PAIRS) == pytest.approx(want, abs=1e-4)


def test_a_pad_token_that_is_the_end_token_garbles_nothing(workshop, tmp_path):
    folder = Path(shutil.copytree(workshop.reward(), tmp_path / "reward"))
    tokenizer = make_tokenizer(pad=False)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"  # every text ends with it
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.eos_token_id}))
    model = RewardModel(folder, dtype="float32", device="cpu")
    assert model.score(PAIRS) == pytest.approx(score_singly(folder, model), abs=1e-4)


def test_a_model_without_a_pad_token_is_told_of(workshop):
    with_pad, without = (RewardModel(workshop.reward(pad=pad), dtype="float32", device="cpu").remark for pad in (True, False))
    assert with_pad == ""
    assert without.startswith("The reward model in reward-llama-no-pad names no pad token. Rows are filled up with an id that")


def test_a_tokenizer_with_more_entries_than_the_model_is_refused(workshop, tmp_path):
    folder = Path(shutil.copytree(workshop.reward(), tmp_path / "reward"))
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelInvalid, match=r"has \d+ entries, the reward model only \d+ embeddings: they don't belong together"):
        RewardModel(folder, dtype="float32", device="cpu")


def test_an_encoder_is_scored_without_shared_prefixes(tmp_path):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=1, pad_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = RewardModel(tmp_path, dtype="float32", device="cpu")
    assert not model.shares_prefix
    assert model.score(PAIRS) == pytest.approx(score_singly(tmp_path, model), abs=1e-4)


def test_a_model_whose_scores_depend_on_the_batch_is_refused(workshop):
    model = RewardModel(workshop.reward(), dtype="float32", device="cpu")
    forward = model.network.forward

    def read_last_column(input_ids, attention_mask):
        return forward(input_ids=input_ids.flip(1), attention_mask=attention_mask)  # padding now stands in front, unmasked

    model.network.forward = read_last_column
    with pytest.raises(ModelInvalid, match="another score when it stands in a batch"):
        model._check_batch_invariance()


def test_damaged_weights_are_not_taken_for_wrong_padding(workshop):
    model = RewardModel(workshop.reward(), dtype="float32", device="cpu")
    model.network.score.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelInvalid, match=r"numbers that are not finite \(score.weight\).*another copy"):
        model._check_batch_invariance()


def test_long_conversations_lose_their_start(workshop):
    model = RewardModel(workshop.reward(), dtype="float32", device="cpu")
    scores = model.score([ask("word " * 400, "yes"), ask("word " * 400, "no")])
    assert scores[0] != scores[1]


def test_conversations_that_lose_their_start_are_counted(workshop):
    model = RewardModel(workshop.reward(), dtype="float32", device="cpu")
    model.score(PAIRS)
    assert model.cut_remark == ""
    model.score([ask("word " * 400, "yes")])
    told = f"The reward model reads at most 256 tokens: 1 of {len(PAIRS) + 1} conversations loses its beginning."
    assert model.cut_remark == told
    model.score([ask("word " * 400, "no")])
    assert model.cut_remark.endswith(f"2 of {len(PAIRS) + 2} conversations lose their beginning.")


def test_the_common_beginning_leaves_each_row_a_token():
    assert common_length([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 9]]) == 2
    assert common_length([[1, 2], [1, 2, 3]]) == 1
    assert common_length([[1, 2, 3]]) == 2
    assert common_length([[1], [2]]) == 0
