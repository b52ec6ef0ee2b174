"""What the REST API does with prompt sets, answers, endpoints, comparisons, votes and chats, the command line does too."""

import pytest
from typer.main import get_command

from app.cli import cli

NOUNS = {"prompt-sets", "answers", "endpoints", "comparisons", "chats"}
COMMANDS = {
    "create_prompt_set": "prompt-sets create",
    "upload_prompt_set": "prompt-sets create",
    "list_prompt_sets": "prompt-sets list",
    "get_prompt_set": "prompt-sets show",
    "list_prompts": "prompt-sets prompts",
    "change_prompt_set": "prompt-sets rename",
    "delete_prompt_set": "prompt-sets delete",
    "request_answers": "answers create",
    "upload_answers": "answers upload",
    "list_answers": "answers list",
    "get_answers": "answers show",
    "read_answers": "answers read",
    "read_tokens": "answers tokens",
    "judge_answers": "answers judge",
    "preview_farm": "farm",
    "farm_answers": "farm",
    "change_answers": "answers rename",
    "delete_answers": "answers delete",
    "list_endpoints": "endpoints list",
    "add_endpoint": "endpoints add",
    "get_endpoint": "endpoints show",
    "change_endpoint": "endpoints change",
    "remove_endpoint": "endpoints remove",
    "try_endpoint": "endpoints test",
    "create_comparison": "compare",
    "list_comparisons": "comparisons list",
    "get_comparison": "compare",
    "list_compared_prompts": "comparisons prompts",
    "judge_comparison": "comparisons judge",
    "change_comparison": "comparisons rename",
    "delete_comparison": "comparisons delete",
    "download_votes": "votes download",
    "create_preference_dataset": "votes dataset",
    "list_voters": "votes voters",
    "delete_voter": "votes remove",
    "create_vote_link": "vote-links create",
    "list_vote_links": "vote-links list",
    "revoke_vote_link": "vote-links revoke",
    "chat": "chat",
    "stream_chat": "chat",
    "list_chats": "chats list",
    "get_chat": "chats show",
    "stop_chat": "chats stop",
    "delete_chat": "chats delete",
}
ON_THE_PAGE_ALONE = dict.fromkeys(
    ("get_ballot", "cast_vote", "undo_vote"),
    "two answers are judged side by side, with their lines broken as the page breaks them",
)
OPTIONS = {
    "answers create": {
        "--model", "--run", "--step", "--endpoint", "--n", "--max-new-tokens", "--temperature", "--top-p", "--seed", "--judge",
        "--pattern", "--llm", "--against", "--prompt-format", "--dtype", "--name", "--private",
    },
    "answers judge": {"--judge", "--pattern", "--llm", "--against"},
    "comparisons judge": {"--judge", "--pattern", "--llm", "--against"},
    "prompt-sets create": {"--run", "--dataset", "--part", "--num-prompts", "--seed", "--name", "--private"},
    "farm": {"--judge", "--shape", "--margin", "--name", "--preview"},
    "votes dataset": {"--judge", "--margin", "--name"},
}  # fmt: skip


def find(command: str):
    """Return the command of these words."""
    found = get_command(cli)
    for word in command.split():
        found = found.commands[word]
    return found


def test_every_operation_has_a_command_or_a_reason(client):
    paths = client.get("/openapi.json").json()["paths"]
    operations = {
        operation["operationId"]
        for path, methods in paths.items()
        for operation in methods.values()
        if path.removeprefix("/api/v1/").split("/")[0] in NOUNS and isinstance(operation, dict)
    }
    assert operations == COMMANDS.keys() | ON_THE_PAGE_ALONE.keys()


@pytest.mark.parametrize("command", sorted({*COMMANDS.values(), "answers cancel"}))
def test_each_command_is_there_and_tells_what_it_does(command):
    found = find(command)
    assert found.help
    assert found.help.rstrip().endswith((".", ".)"))
    assert all(
        getattr(one, "help", None) for one in found.params if one.param_type_name == "option" and one.name not in {"limit"}
    )


@pytest.mark.parametrize(("command", "options"), OPTIONS.items(), ids=OPTIONS)
def test_what_can_be_asked_over_rest_has_an_option(command, options):
    assert options <= {flag for one in find(command).params for flag in one.opts}
