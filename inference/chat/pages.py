from __future__ import annotations

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..pages import targets
from .flows import branch
from .models import Conversation
from .present import whole_json

LISTED = 100


@login_required
@require_safe
@never_cache
def chat(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    """One's conversations, and one of them; without an id a new one begins with the first message."""
    own = Conversation.objects.of(request.user)
    conversation = get_object_or_404(own, pk=pk) if pk is not None else None
    wanted = conversation.target if conversation else request.GET.get("model", "")[:200]
    return render(
        request,
        "inference/chat.html",
        {
            **targets(wanted),
            "wanted": wanted,
            "conversations": own[:LISTED],
            "conversation": conversation,
            "data": whole_json(conversation) if conversation else None,
            "messages_shown": branch(conversation, conversation.leaf_id) if conversation else [],
            "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
            "max_prompt_chars": settings.MAX_PROMPT_CHARS,
        },
    )
