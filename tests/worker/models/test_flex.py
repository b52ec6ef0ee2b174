import pytest
import torch

from worker.models.flex import label_tokens, run_flex
from worker.models.load import load_policy
from worker.models.packed import Packing

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@torch.inference_mode()
def test_a_packed_row_gives_each_response_the_states_it_has_behind_its_prompt(workshop, kind):
    model = load_policy(workshop.policy(kind), dtype="float32", device="cpu").language_model
    packing = Packing([[7, 5, 0, 9], [1, 3], [140, 2]])
    ids_N = torch.arange(sum(packing.sizes)) * 7919 % model.find_row_limit()
    have_ND = run_flex(model.body, ids_N, packing)
    parts, states = ids_N.split(packing.sizes), have_ND.split(packing.sizes)
    for prompt, response in ((0, 1), (0, 2), (0, 3), (4, 5), (6, 7)):
        ids_1T = torch.cat([parts[prompt], parts[response]])[None]
        want_TD = model.run(ids_1T, torch.ones_like(ids_1T)).last_hidden_state[0]
        have_TD = torch.cat([states[prompt], states[response]])
        torch.testing.assert_close(have_TD, want_TD, rtol=1e-4, atol=1e-4)
    assert model.network.config._attn_implementation != "var_studio_flex"


def test_tokens_know_their_family_and_their_part():
    family_N, part_N = label_tokens(Packing([[2, 1], [1, 0, 2]]), 2, torch.device("cpu"))
    assert family_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert part_N.tolist() == [0, 0, 1, 0, 2, 2, 0, 0]
