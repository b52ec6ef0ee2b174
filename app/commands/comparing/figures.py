"""What a comparison found, as the terminal prints it: the sentence, whose weights these are, and a table for each question."""

from typing import Any

from app.commands.terminal import out, table
from app.system.numbers import counted, number, percent, signed

COLUMNS = ("judge", "model", "against", "gain", "wins", "at equal length", "told apart")
DECIMALS = 12  # of a figure that count: what is smaller was left by sums that should be 0
HASH_LENGTH = 12  # characters of a hash that are shown


def tell(found: dict[str, Any]) -> None:
    """Print a ready comparison."""
    out.print(found["verdict"], markup=False)
    out.print(tell_identity(found), markup=False)
    for judge, unjudged in found["unjudged"].items():
        said = f"{judge} has not judged the answers of {' and '.join(unjudged)}, so it says nothing about them"
        out.print(f"{said}: varstudio comparisons judge {found['id']} asks it for all.", markup=False)
    names, votes = [model["name"] for model in found["models"]], found["votes"]
    judges = [*found["figures"]["judges"], *([votes["judge"]] if votes["num_votes"] else [])]
    tell_table(COLUMNS, [row_of(judge, pair, names) for judge in judges for pair in judge["pairs"]])
    tell_table(("judge", "model", "strength", "beats an average model", "may be the best"), list_strengths(judges, names))
    called = {judge["key"]: judge["name"] for judge in judges}
    agreements = [*votes["agreements"], *found["figures"]["agreements"]]
    tell_table(("judges", "pairs", "say the same", "Cohen’s κ"), [row_of_agreement(one, called) for one in agreements])
    if votes["num_votes"]:
        out.print(f"\n{tell_votes(votes)}", markup=False)
        for pair, wanted in zip(votes["judge"]["pairs"], votes["wanted"], strict=True):
            if wanted:
                both = f"{names[pair['first']]} and {names[pair['second']]}"
                out.print(
                    f"{both}: {counted(wanted, 'prompt')} more to vote on would give an interval of ± 5 points.", markup=False
                )


def tell_table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table below an empty line; nothing where it has no rows."""
    if rows:
        out.print()
        table(*columns, rows=rows)


def tell_identity(found: dict[str, Any]) -> str:
    """Return whether these are different models, by the hashes of their weights."""
    hashes = [model["model_sha256"] for model in found["models"]]
    known = [one for one in hashes if one]
    shown = ", ".join(
        f"{model['name']} {model['model_sha256'][:HASH_LENGTH] if model['model_sha256'] else '(weights not here)'}"
        for model in found["models"]
    )
    if len(set(known)) < len(known):
        return f"Not all of these are different models, by the hashes of their weights; none is ranked against itself: {shown}."
    if len(known) < len(hashes):
        return f"The weights of some of these models are not here, so that no hash proves whose their answers are: {shown}."
    return f"These are {len(hashes)} different models, by the hashes of their weights: {shown}."


def row_of(judge: dict[str, Any], pair: dict[str, Any], names: list[str]) -> list[str]:
    """Return the line of one judge and pair."""
    apart = "the same model" if pair["is_same_model"] else "yes" if pair["told_apart"] else needed(pair["needed_prompts"])
    return [
        judge["name"],
        names[pair["first"]],
        names[pair["second"]],
        estimate(pair["gain"], signed),
        estimate(pair["win_rate"], percent),
        percent(pair["length_controlled"][0]) if pair["length_controlled"] else number(None),
        "–" if judge["kind"] == "length" else apart,
    ]


def list_strengths(judges: list[dict[str, Any]], names: list[str]) -> list[list[str]]:
    """Return a line for each judge and model, where three models or more are ranked."""
    return [
        [judge["name"], name, estimate(value, signed), estimate(chance, percent), "yes" if may_be_best else "no"]
        for judge in judges
        for name, (value, chance, may_be_best) in zip(names, judge["strengths"] or [], strict=False)
    ]


def row_of_agreement(one: dict[str, Any], called: dict[str, str]) -> list[str]:
    """Return the line of two judges."""
    num, share, kappa = one["found"]
    return [f"{called[one['first']]} and {called[one['second']]}", str(num), estimate(share, percent), estimate(kappa, number)]


def tell_votes(votes: dict[str, Any]) -> str:
    """Return who voted, and how far they agree."""
    people = "one person" if votes["num_voters"] == 1 else f"{votes['num_voters']} people"
    ties = f"of them {votes['num_ties']} as good and {votes['num_both_bad']} both bad"
    told = f"{counted(votes['num_votes'], 'vote')} by {people}, {ties}."
    if votes["alpha"]:
        shared = counted(votes["num_shared"], "pair")
        told += f" On {shared} that several judged they agree with Krippendorff’s α = {estimate(votes['alpha'], number)}."
    return told


def estimate(found: list[float | None], write: Any) -> str:
    """Return a figure with its 95 % interval, where there is one."""
    value, low, high = (None if one is None else round(one, DECIMALS) for one in found[:3])
    return write(value) if low is None else f"{write(value)} ({write(low)} to {write(high)})"


def needed(num_prompts: int | None) -> str:
    return "no" if num_prompts is None else f"no: takes {num_prompts} prompts"
