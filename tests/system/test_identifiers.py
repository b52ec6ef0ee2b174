from app.system.identifiers import new_id


def test_identifiers_sort_in_the_order_they_were_made_and_never_repeat() -> None:
    made = [new_id("run") for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == 5000


def test_an_identifier_names_its_kind_and_fits_its_column() -> None:
    kind, _, rest = new_id("dataset").partition("_")
    assert (kind, len(rest)) == ("dataset", 26)
    assert rest == rest.lower()
    assert rest.isalnum()
