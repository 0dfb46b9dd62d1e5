"""Chat templates as Transformers renders them, without Transformers: importing it takes longer than everything else
that `template_child.py` does, which alone imports this.

Follows `transformers/utils/chat_template_utils.py` of release 5 (Apache-2.0): the same sandbox, filters, globals and
way to continue a last message. A test compares the two. What the engine never passes (tools, documents, reasoning,
contents in parts, marks of generated parts) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks parts for training; here it only has to be understood."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_passed_on"), [], [], body).set_lineno(line)

    def _passed_on(self, caller: Callable[[], str]) -> str:
        return caller()


class Dict:
    """`dict` without what could be reached by its attributes."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class Namespace(jinja2.utils.Namespace):
    """Takes no attribute that begins with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:  # noqa: N805  (so that `namespace(self=...)` works, as in Jinja)
        self, rest = args[0], args[1:]
        given = dict(*rest, **values)
        for name in given:
            check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no attribute named {name!r}")


def raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=64)
def compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(  # noqa: S701  (a prompt, no HTML)
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=Namespace
    )
    return environment.from_string(template)


def render(
    template: str, messages: list[dict[str, str]], tokens: dict[str, Any], continue_last: bool, ask: bool
) -> str:
    """The text of a conversation. `tokens`: the special ones by name; `ask`: an answer is to follow (Transformers'
    `add_generation_prompt`). Raises whatever the template raises."""
    made = compiled(template)
    chat = [dict(message) for message in messages]
    last = chat[-1]["content"] if chat else ""
    if continue_last:
        if "content" not in template:
            raise ValueError("the template writes no content that could be continued")
        chat[-1]["content"] = last + TAG
    text = made.render(messages=chat, tools=None, documents=None, add_generation_prompt=ask, **tokens)
    return until_tag(text, last) if continue_last else text


def until_tag(text: str, last: str) -> str:
    if last.strip() not in text or TAG.strip() not in text:
        raise ValueError("the template does not write the last message, so it cannot be continued")
    at = text.rindex(TAG.strip())
    # A template that trims its messages has trimmed the space that ends the tag.
    return text[:at] if text[at : at + len(TAG)] == TAG else text[:at].rstrip()
