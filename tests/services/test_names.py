"""Names: given again by their owners, and told apart where nobody gave one."""

import pytest

from app.domain.errors import InvalidInput
from app.services import names, runs
from app.store.database import Database
from app.store.tables import Dataset, Model, Run, Sweep
from tests.conftest import Library


def test_unnamed_runs_of_the_same_things_are_told_apart(database: Database, library: Library) -> None:
    with database.writing() as session:
        made = [runs.launch(session, library.user.id, library.recipe(name="")).name for _ in range(3)]
    assert made == [made[0], f"{made[0]} (2)", f"{made[0]} (3)"]


def test_a_name_that_somebody_gave_stays_as_it_is(database: Database, library: Library) -> None:
    with database.writing() as session:
        assert [runs.launch(session, library.user.id, library.recipe(name="Mine")).name for _ in range(2)] == ["Mine", "Mine"]


def test_the_next_number_follows_the_largest_of_the_newest(database: Database, library: Library) -> None:
    with database.writing() as session:
        for name in ("Pairs (7)", "Pairs (3)", "Pairs (8) of others", "Pears"):
            runs.launch(session, library.user.id, library.recipe(name=name))
        assert names.tell_apart(session, Run, library.user.id, "Pairs") == "Pairs (8)"
        assert names.tell_apart(session, Run, library.user.id, "Other") == "Other"
        assert names.tell_apart(session, Run, "user_nobody", "Pairs") == "Pairs"
        long = "x" * 120
        runs.launch(session, library.user.id, library.recipe(name=long))
        assert names.tell_apart(session, Run, library.user.id, long) == f"{'x' * 111} (2)"


@pytest.mark.parametrize("table", [Dataset, Model, Run, Sweep])
def test_a_name_is_a_line_of_some_length(table: type[names.Named]) -> None:
    row = table(name="Old")
    names.rename(row, "  New name ")
    assert row.name == "New name"
    for bad in ("", "   ", "x" * (names.length_of(table) + 1), "a\nb", "a\0b"):
        with pytest.raises(InvalidInput, match="A name has 1 to"):
            names.rename(row, bad)
    assert row.name == "New name"
