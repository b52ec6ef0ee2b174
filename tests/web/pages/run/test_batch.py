"""One batch with its texts, the lineage of one example, samples step to step, and the clock that charts go along."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.events import StepLogged
from app.store import metrics
from tests.web.test_runs import record, sample, step


@pytest.fixture
def run_id(studio) -> str:
    """A run of two epochs over two examples, in four batches."""
    id = record(studio, [step(number).model_copy(update={"batch": number - 1}) for number in (1, 2, 3, 4)])
    folder = studio.app.state.files.artifacts_dir(id)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"batch": batch, "example_id": batch % 2, "response": response, "preference": 1 - 2 * response,
         "num_tokens": 5 + response, "logprob_ref": -9.5 - response, "reward": 1.0 - response, "weight": weight}
        for batch, weights in enumerate(((0.75, 0.25), (0.6, 0.4), (0.9, 0.1), (0.5, 0.5)))
        for response, weight in enumerate(weights)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "weights.parquet")
    return id


def give_examples(studio) -> None:
    """Put two examples behind the data set that no file stands behind."""
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("fields", pa.string())])
    response = pa.struct([("content", pa.string()), ("rating", pa.float64()), ("preference", pa.int8()), ("fields", pa.string())])
    rows = [
        {"example_id": at, "line": at + 1, "meta": None, "tools": None,
         "prompt": [{"role": "user", "content": f"Question {at}?"}],
         "responses": [{"content": f"Kind answer {at}."}, {"content": f"Rude answer {at}."}]}
        for at in (0, 1)
    ]  # fmt: skip
    schema = pa.schema(
        [("example_id", pa.int64()), ("line", pa.int64()), ("meta", pa.string()), ("tools", pa.string()),
         ("prompt", pa.list_(message)), ("responses", pa.list_(response))]
    )  # fmt: skip
    folder = studio.app.state.files.dataset_dir("data_pairs")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "examples.parquet")


def test_one_batch_shows_weights_without_texts_and_texts_where_they_can_be_read(studio, client, run_id):
    page = client.get(f"/runs/{run_id}/weights", params={"step": "3"}).text
    assert "Step 3" in page
    assert 'data-weight="0.9" data-reward="1.0" data-tokens="5"' in page
    assert 'data-scatter="reward"' in page
    assert "Kind answer" not in page
    give_examples(studio)
    page = client.get(f"/runs/{run_id}/weights", params={"step": "3"}).text
    assert page.count("Kind answer 0.") == 2  # the summary and the whole text
    assert "Question 0?" in page


def test_the_lineage_of_an_example_goes_by_response_and_epoch(client, run_id):
    page = client.get(f"/runs/{run_id}/example", params={"number": "1"}).text
    cells = [re.sub(r"<[^>]+>|\s+", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)]
    rows = [tuple(cells[at : at + 7]) for at in range(0, len(cells), 8)]
    assert [row[1:3] + row[6:] for row in rows] == [
        ("1", "1", "0.600"),
        ("2", "3", "0.500"),
        ("1", "1", "0.400"),
        ("2", "3", "0.500"),
    ]
    assert rows[0][4:6] == ("−9.500", "1.00")


@pytest.mark.parametrize(
    ("number", "told"), [("7", "has not trained on example 7"), ("x", "a whole number from 0 on"), ("", "whole")]
)
def test_an_example_that_is_not_there_is_refused_in_a_sentence(client, run_id, number, told):
    assert told in client.get(f"/runs/{run_id}/example", params={"number": number}).text


def test_samples_stand_beside_the_reference_or_beside_the_step_before(studio, client):
    other = sample(1, 0).model_copy(update={"policy": "Go away!", "policy_reward": 1.0})
    newer = sample(2, 0).model_copy(update={"policy": "Hello there!", "policy_reward": 3.5, "reference_reward": 0.5})
    run_id = record(studio, [step(1), other, step(2), newer])
    plain = client.get(f"/runs/{run_id}/samples", params={"step": 2}).text
    assert 'data-gain="3.0"' in plain
    assert "Hm." in plain
    beside = client.get(f"/runs/{run_id}/samples", params={"step": 2, "before": 1}).text
    assert 'data-gain="2.5"' in beside
    assert "Policy at step 1" in beside
    assert "Hm." not in beside
    assert client.get(f"/runs/{run_id}/samples", params={"step": 9, "before": 1}).text.count("<article") == 0


def timed(number: int, rate: float) -> StepLogged:
    return step(number).model_copy(update={"metrics": {"tokens_per_second": rate, "step_seconds": 2.0}})


def test_the_clock_sums_tokens_and_seconds_by_step(studio, client):
    run_id = record(studio, [timed(number, 100.0 * number) for number in (1, 2, 3)])
    assert client.get(f"/runs/{run_id}/clock").json() == [[0, 0, 0], [1, 200, 2], [2, 600, 4], [3, 1200, 6]]
    with studio.database.reading() as session:
        assert metrics.list_clock(session, run_id, points=1) == [(3, 1200.0, 6.0)]
    assert client.get(f"/runs/{studio.launch()}/clock").json() == [[0, 0, 0]]
