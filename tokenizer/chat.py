"""A chat and a template -> its text, and where in it the assistant speaks."""

import re
from typing import Any

from utils.messages import UserError

# What tokenizers trained here are given. A turn of the assistant ends with EOS, so that it knows when to stop.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '' if loop.first else '\\n' }}{{ message['role'] + ': ' + message['content'] }}"
    "{{ (eos_token or '') if message['role'] == 'assistant' else '' }}"
    "{%- endfor -%}"
    "{{ '\\nassistant:' if add_generation_prompt else '' }}"
)


def render(template: str, messages: list[dict[str, Any]], strings: dict[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """The chat's text, and the spans [start, end) of characters that the assistant says.

    strings: eos_token and the like, for the template. Templates with {% generation %} say themselves what is the
    assistant's; of others it is what a turn adds to the text that asks for it.
    Raises UserError for messages or templates that do not work out.
    """
    from jinja2.exceptions import TemplateError
    from transformers.utils import chat_template_utils

    render_jinja_template: Any = chat_template_utils.render_jinja_template

    def text_of(turns: list[dict[str, Any]], ask: bool) -> str:
        return render_jinja_template([turns], chat_template=template, add_generation_prompt=ask, **strings)[0][0]

    try:
        if re.search(r"\{%-?\s*generation\s*-?%\}", template):
            texts, spans = render_jinja_template(
                [messages], chat_template=template, return_assistant_tokens_mask=True, **strings
            )
            return texts[0], [(int(start), int(end)) for start, end in spans[0]]
        whole = text_of(messages, ask=False)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked, answered = text_of(messages[:i], ask=True), text_of(messages[: i + 1], ask=False)
            if not (answered.startswith(asked) and whole.startswith(answered)):
                raise UserError(
                    f"the chat template lays out turn {i + 1} otherwise once it is answered or followed by others, so "
                    "what is the assistant's cannot be told; mark it in the template with {% generation %}"
                )
            spans.append((len(asked), len(answered)))
        return whole, spans
    except (TemplateError, KeyError, TypeError) as problem:
        raise UserError(f"the chat template refuses these messages: {problem}") from problem


def token_spans(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of characters -> spans of tokens. A token that reaches into a span belongs to it."""
    found = []
    for start, end in spans:
        inside = [i for i, (first, last) in enumerate(offsets) if last > start and first < end]
        if inside:
            found.append((inside[0], inside[-1] + 1))
    return found
