"""Small tokenizers with chat templates that behave as those of the well-known families do, written anew."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Which fruit is red? An apple is red. I do not know. Hello there, hi! Be brief. Why? Because of the weather in town 7.",
    "user assistant system model USER: ASSISTANT: ### Instruction: ### Response: Think about it first, then answer: 1, 2, 3.",
    '{"name": "weather", "arguments": {"town": 0}} tool_call tools \n\n  \n   spaces \n- one\n- two',
    " ".join(map(chr, range(33, 127))) + " Été: naïve café 漢字 🙂.",
] * 4


def byte_level(special: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE whose pre-tokenizer lets line breaks and blanks melt, as GPT-4's does."""
    core = Tokenizer(models.BPE())
    split = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    core.add_tokens(list(added))
    return core


def sentence_piece(special: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """A BPE with `▁` for blanks, put before the first word and, as in the older ones, behind every special token."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *special, *bytes_], show_progress=False)
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for its training alone
    core.train_from_iterator(TEXTS, trainer)
    core.pre_tokenizer = None
    core = Tokenizer.from_str(core.to_str())
    core.add_tokens(list(added))
    return core


def unigram(special: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """A unigram model whose `▁` stands before the first word alone."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({letter for text in TEXTS for letter in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", *special], unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    core.add_tokens(list(added))
    return core


KINDS = {"byte_level": byte_level, "sentence_piece": sentence_piece, "unigram": unigram}


@dataclass(frozen=True)
class Family:
    """A tokenizer and its template.

    ends      how every answer ends, in text
    refuses   what the template says to a conversation with a system turn; "" where it takes one
    omits     what of a conversation with a system turn is not written
    """

    template: str | dict[str, str]
    ends: str
    kind: str = "byte_level"
    eos: str = "</s>"
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    refuses: str = ""
    omits: tuple[str, ...] = ()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        core = KINDS[self.kind](["<s>", self.eos, *self.special], self.added)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token=self.eos)
        if self.special:
            tokenizer.add_special_tokens({"additional_special_tokens": list(self.special)})
        tokenizer.chat_template = self.template
        return tokenizer


TURNS_OF_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = ("<|im_start|>", "<|im_end|>")
THINKS = """\
{%- set last = namespace(user=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- set inline = m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' -%}
{%- set thought = m.reasoning_content or inline -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if loop.index0 > last.user -%}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif -%}
{{- said + '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' + OPENED }}{%- endif -%}
"""
CALLS = """\
{%- if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content -}}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn, please') }}{% endif %}"
FAMILIES = {
    "chatml on a base model": Family(TURNS_OF_CHATML, "<|im_end|>", eos="<|endoftext|>", special=MARKED),
    "chatml with its tokens added": Family(TURNS_OF_CHATML, "<|im_end|>", eos="<|endoftext|>", added=MARKED),
    "chatml with tokens that nobody knows": Family(TURNS_OF_CHATML, "<|im_end|>\n", eos="<|endoftext|>"),
    "model for assistant, trims, refuses system": Family(
        "{{ bos_token }}" + NO_SYSTEM + "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ '<start_of_turn>' +"
        " ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<end_of_turn>", kind="unigram", eos="<eos>", special=("<start_of_turn>", "<end_of_turn>"),
        refuses="no system turn, please",
    ),
    "eos behind finished chats alone": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|end|>", kind="sentence_piece", eos="<|endoftext|>", special=("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    "headers, trims, writes the date": Family(
        "{{ bos_token }}{% if strftime_now is defined %}{% set today = strftime_now(\"%d %b %Y\") %}{% else %}"
        "{% set today = '?' %}{% endif %}{{ '<|begin_header|>system<|end_header|>\\n\\nToday: ' + today }}"
        "{% if messages[0].role == 'system' %}"
        "{{ '\\n' + messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}{{ '<|eot|>' }}"
        "{% for m in messages %}{{ '<|begin_header|>' + m.role + '<|end_header|>\\n\\n' + m.content | trim + '<|eot|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|begin_header|>assistant<|end_header|>\\n\\n' }}{% endif %}",
        "<|eot|>", eos="<|end_of_text|>", special=("<|begin_header|>", "<|end_header|>", "<|eot|>"),
    ),
    "brackets, system within the first user turn": Family(
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        " </s>", kind="sentence_piece",
    ),
    "brackets, no word of a generation prompt": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('Only user and assistant') }}"
        "{% endif %}{% endfor %}",
        "</s>", refuses="Only user and assistant",
    ),
    "an empty think block in finished turns": Family(
        THINKS.replace("OPENED", "''"), "<|im_end|>", eos="<|endoftext|>", special=MARKED, added=("<think>", "</think>")
    ),
    "a generation prompt that opens thinking": Family(
        THINKS.replace("OPENED", "'<think>\\n'"), "<|im_end|>", eos="<|endoftext|>", special=MARKED, added=("<think>", "</think>")
    ),
    "names and colons, no generation prompt": Family(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% else %}{{ ('USER: ' if m.role == 'user' else "
        "'ASSISTANT: ') + m.content + (eos_token if m.role == 'assistant' else ' ') }}{% endif %}{% endfor %}",
        "</s>", kind="sentence_piece",
    ),
    "eos behind every turn": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
        "</s>", kind="unigram",
    ),
    "role markers of three tokens": Family(
        "{% for m in messages %}{{ '<|start|>' + m.role + '<|role|>' + m.content + '<|end_of_text|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|role|>' }}{% endif %}",
        "<|end_of_text|>", eos="<|end_of_text|>", special=("<|start|>", "<|role|>"),
    ),
    "instructions and responses, ended by nothing": Family(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}{% elif m.role == 'user' %}"
        "{{ '### Instruction:\\n' + m.content + '\\n\\n' }}{% else %}{{ '### Response:\\n' + m.content + '\\n\\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
        "</s>",
    ),
    "turns that only the next header ends": Family(
        "[mask]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|endoftext|>", eos="<|endoftext|>", special=("[mask]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    "a generation prompt that closes thinking": Family(
        "{% set turn = namespace(asked=false) %}{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}{% set turn.asked = true %}{{ '<|user|>' + m.content }}{% else %}"
        "{{ ('<|assistant|></think>' if turn.asked else '') + m.content.split('</think>')[-1] + eos_token }}"
        "{% set turn.asked = false %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and turn.asked %}{{ '<|assistant|></think>' }}{% endif %}",
        "</s>", kind="sentence_piece", special=("<|user|>", "<|assistant|>"), added=("<think>", "</think>"),
    ),
    "ends before the next header, neighbours of a role merged": Family(
        "{% set turn = namespace(role='') %}{% for m in messages %}{% if m.role != turn.role %}"
        "{{ ('<|end|>' if turn.role else '') + '<|' + m.role + '|>' }}{% else %}{{ '\\n' }}{% endif %}{{ m.content }}"
        "{% set turn.role = m.role %}{% endfor %}{{ '<|end|>' }}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "<|end|>", kind="unigram", special=("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    "tools and tool calls": Family(CALLS, "<|im_end|>", eos="<|endoftext|>", special=MARKED),
    "named templates": Family({"default": TURNS_OF_CHATML, "tool_use": CALLS}, "<|im_end|>", eos="<|endoftext|>", special=MARKED),
    "leaves system turns out": Family(
        "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "<|im_end|>", eos="<|endoftext|>", special=MARKED, omits=("system turns",),
    ),
}  # fmt: skip
REFUSED = {
    "thinking that finished turns do not have": (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}",
        r'no beginning of the finished conversation: after "[^"]*<\|assistant\|>" the prompt goes on with "<think>\\n"',
    ),
    "eos behind every rendering": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{{ eos_token }}",
        "no beginning of the finished conversation",
    ),
    "answers in capitals": (
        "{% for m in messages %}{{ m.role + ': ' + m.content | upper + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "does not write answers as they are",
    ),
    "named templates without a default": ({"tool_use": CALLS, "rag": CALLS}, "multiple chat templates with no default"),
    "a template with a mistake": ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "the chat template refuses it"),
}
