"""What a select offers: data sets, models and runs, each by its name and, where two share one, by what tells them apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.dataset import Audit
from app.store.checkpoints import Reached
from app.store.tables import Dataset, Model, Run
from app.system.numbers import count


@dataclass(frozen=True)
class Choice:
    id: str
    label: str


def dataset_choices(datasets: Sequence[Dataset]) -> list[Choice]:
    """With their sizes; of one name also with the day of the upload and the end of the id."""
    return distinct(
        [(dataset.id, dataset.name, dataset_facts(dataset), f"uploaded {dataset.created_at:%Y-%m-%d}") for dataset in datasets]
    )


def dataset_facts(dataset: Dataset) -> str:
    rated = dataset.audit is not None and Audit.model_validate(dataset.audit).has_rating
    return f" ({count(dataset.num_examples)}{', rated' if rated else ''})"


def model_choices(models: Sequence[Model]) -> list[Choice]:
    """Of one name also with path, revision and the end of the id."""
    return distinct(
        [(model.id, model.name, "", model.path + (f" @ {model.revision}" if model.revision else "")) for model in models]
    )


def run_choices(runs: Sequence[Run]) -> list[Choice]:
    """Of one name also with the day of the launch and the end of the id."""
    return distinct([(run.id, run.name, "", f"launched {run.created_at:%Y-%m-%d}") for run in runs])


def checkpoint_choices(runs: Sequence[Run], kept: Mapping[str, Sequence[Reached]]) -> list[Choice]:
    """Of each run those that it keeps, the newest first."""
    return [
        Choice(f"{choice.id}@{one.step}", f"{choice.label} · step {one.step}")
        for choice in run_choices(runs)
        for one in kept.get(choice.id, ())
    ]


def distinct(found: Sequence[tuple[str, str, str, str]]) -> list[Choice]:
    """Choices of (id, name, facts, what tells apart); only a name that occurs twice says more than itself."""
    times = Counter(name for _, name, _, _ in found)
    return [
        Choice(id, f"{name}{facts}" + (f" · {apart} · …{id[-6:]}" if times[name] > 1 else "")) for id, name, facts, apart in found
    ]
