"""A word-level tokenizer of the help desk's language: one entry per word or mark, so a sequence reads like the text.

A space belongs to the word behind it ("▁kettle", "."), which makes decoding exact. `<|end|>` closes every turn and is the end of
a text; the padding is another token, so that the end is learned.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, END, CUSTOMER, DESK = "<|pad|>", "<|unknown|>", "<|end|>", "<|customer|>", "<|desk|>"
SPECIAL = (PAD, UNKNOWN, END, CUSTOMER, DESK)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{DESK}' if message['role'] == 'assistant' else '{CUSTOMER}' }}}}"
    f"{{{{ message['content'] }}}}{END}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{DESK}{{% endif %}}"
)


def build_tokenizer(texts: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows every word of `texts`; others become `<|unknown|>`. `context`: longest sequence, in
    tokens.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(r"▁?[\w']+|▁?[^\w\s▁]"), behavior="isolated"),
        ]
    )
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens=[CUSTOMER, DESK],
        model_max_length=context,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
