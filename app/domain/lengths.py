"""How long prompts and responses may be for a model that reads a limited number of tokens."""


def fit_window(max_prompt: int, max_response: int, window: int | None) -> tuple[int, int]:
    """The limits of prompt and response, in tokens, shrunk until both fit the context window; None: it has no limit.

    The response keeps at least half of the window. The prompt's limit is 0 or less where the window leaves no room for one.
    """
    if window is None or max_prompt + max(max_response, 1) <= window:
        return max_prompt, max_response
    max_response = min(max_response, max(window - max_prompt, window // 2))
    return min(max_prompt, window - max_response), max_response
