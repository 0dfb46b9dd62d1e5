"""Small things that every page draws: icons, status badges, navigation state, numbers."""

from __future__ import annotations

import functools
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from common.scripts import modules_of

register = template.Library()

SHELL = "js/app.js"  # the script that every page has
SPRITE = "vendor/fontawesome/icons.svg"
NAME_START, NAME_END = 8, 16  # characters: what is left of a cut name at least, and the end that always shows
STATUS_LABELS = {"discovered": _("Discovered"), "active": _("Active"), "failed": _("Failed")}


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """A Font Awesome icon of `frontend/icons.txt`, hidden from screen readers: a word must stand beside it."""
    return format_html(
        '<svg class="icon fa fa-{} {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        name,
        extra,
        static(SPRITE),
        name,
    )


@register.simple_tag
def icon_sprite() -> str:
    return static(SPRITE)


@register.simple_tag
@functools.cache
def page_script(name: str) -> SafeString:
    """A page's script, with links to all modules that it imports: else a browser learns of each of them from the one
    before, and waits for the network each time. Made once in a process: scripts do not change under a portal."""
    known = () if name == SHELL else (SHELL, *modules_of(SHELL))
    return format_html(
        '{}<script type="module" src="{}"></script>',
        format_html_join(
            "",
            '<link rel="modulepreload" href="{}">',
            ((static(module),) for module in modules_of(name) if module not in known),
        ),
        static(name),
    )


@register.simple_tag
def status_badge(status: str) -> SafeString:
    label = STATUS_LABELS.get(status, status)
    return format_html('<span class="badge badge-{}" data-testid="status-badge">{}</span>', status, label)


@register.filter
def cut(name: str) -> SafeString:
    """A name that gives way in its middle where it has no room: often it is the end that tells names apart.

    `cutName` in `static/js/lib/dom.js` makes the same.
    """
    if len(name) <= NAME_END + NAME_START:
        return format_html('<span class="cut" title="{}"><span>{}</span></span>', name, name)
    start, end = name[:-NAME_END], name[-NAME_END:]
    return format_html('<span class="cut" title="{}"><span>{}</span><span>{}</span></span>', name, start, end)


@register.filter
def middle(name: str, most: int) -> str:
    """At most so many characters of a name, where the page cannot cut by its width: beginning and end."""
    if len(name) <= most:
        return name
    return f"{name[: most - most // 2 - 1]}…{name[-(most // 2) :]}"


@register.filter
def with_code(text: str) -> SafeString:
    """What stands between backticks, as code."""
    parts = text.split("`")
    pieces = [(part, index % 2 == 1 and index < len(parts) - 1) for index, part in enumerate(parts)]
    return format_html_join(
        "", "{}", ((format_html('<code class="code">{}</code>', part) if code else part,) for part, code in pieces)
    )


@register.simple_tag(takes_context=True)
def current(context: dict[str, Any], *names: str) -> SafeString:
    """`aria-current="page"` where the request's route has one of these names."""
    request = context.get("request")
    match = getattr(request, "resolver_match", None)
    return SafeString('aria-current="page"' if match and match.url_name in names else "")


@register.filter
def compact(value: float | int | None) -> str:
    """1500 -> 1.5K, 134515008 -> 134.5M: counts that need no last digit."""
    number = float(value or 0)
    for unit in ("", "K", "M", "B", "T"):
        if abs(number) < 1000 or unit == "T":
            break
        number /= 1000
    return f"{number:.4g}{unit}" if abs(number) < 100 else f"{number:.1f}".rstrip("0").rstrip(".") + unit


@register.filter
def percent(value: float | None) -> str:
    """A share 0..1 in per cent."""
    return "" if value is None else f"{value * 100:.0f}%"


@register.filter
def svg_share(value: float) -> str:
    """A share 0..1 as a coordinate of a picture that is 100 wide; the point is a point in every language."""
    return f"{value * 100:.2f}"
