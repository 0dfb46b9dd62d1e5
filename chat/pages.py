from __future__ import annotations

from typing import cast
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.errors import sentence
from inference.pages import targets

from .assistants import problem_of, talk_again
from .flows import branch
from .forms import ICONS, AssistantForm
from .models import Assistant, Conversation
from .transfer import whole_json

LISTED = 100  # at first; as static/js/lib/sidebar.js fetches more


@login_required
@require_safe
@never_cache
def chat(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    """One's conversations, and one of them; without an id a new one begins with the first message."""
    own = Conversation.objects.of(request.user).select_related("assistant")
    conversation = get_object_or_404(own.prefetch_related("messages"), pk=pk) if pk is not None else None
    wanted = conversation.target if conversation else request.GET.get("model", "")[:200]
    choice = targets(request, [wanted])
    known = {one.slug for one in choice["choices"].all}
    return render(
        request,
        "chat/chat.html",
        {
            **choice,
            "wanted": wanted,
            "unknown": wanted if wanted not in known else "",
            "conversations": own[:LISTED],
            "folders": own.folders(),
            "more_conversations": own.count() > LISTED,
            "assistant": conversation.assistant if conversation else None,
            "conversation": conversation,
            "data": whole_json(conversation) if conversation else None,
            "messages_shown": branch(conversation, conversation.leaf_id) if conversation else [],
            "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
            "max_prompt_chars": settings.MAX_PROMPT_CHARS,
        },
    )


@login_required
@require_safe
@never_cache
def shared(request: HttpRequest, share: UUID) -> HttpResponse:
    """What somebody shares by a link: the branch that its owner sees, to read. Nothing of its settings."""
    conversation = get_object_or_404(Conversation.objects.shared().select_related("user"), share=share)
    said = [message for message in branch(conversation, conversation.leaf_id) if message.content]
    return render(request, "chat/shared.html", {"conversation": conversation, "said": said})


@login_required
@require_safe
@never_cache
def assistants(request: HttpRequest) -> HttpResponse:
    """One's own assistants and the shared ones, each with what keeps its model from answering."""
    found = list(Assistant.objects.visible_to(request.user.pk or 0).select_related("owner"))
    problems = {target: problem_of(target) for target in {assistant.target for assistant in found}}
    shown = [
        (assistant, problems[assistant.target], sentence(problems[assistant.target], {"name": assistant.target}))
        for assistant in found
    ]
    return render(request, "chat/assistants.html", {"assistants": shown})


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def edit_assistant(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    """Make an assistant, or change one of one's own."""
    user = cast(User, request.user)
    own = Assistant.objects.filter(owner=user)
    assistant = get_object_or_404(own, pk=pk) if pk is not None else Assistant(owner=user)
    form = AssistantForm(request.POST or None, instance=assistant)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Assistant “%(name)s” saved.") % {"name": assistant.name})
        return redirect("assistants")
    wanted = str(form["target"].value() or "")[:200]
    choice = targets(request, [wanted])
    context = {
        **choice,
        "form": form,
        "assistant": assistant,
        "wanted": wanted,
        "absent": wanted if wanted not in {one.slug for one in choice["choices"].all} else "",
        "icons": ICONS,
        "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
        "max_prompt_chars": settings.MAX_PROMPT_CHARS,
    }
    return render(request, "chat/assistant.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def delete_assistant(request: HttpRequest, pk: int) -> HttpResponse:
    assistant = get_object_or_404(Assistant, pk=pk, owner=request.user)
    assistant.delete()
    messages.success(request, _("Assistant “%(name)s” deleted.") % {"name": assistant.name})
    return redirect("assistants")


@login_required
@require_POST
def talk_to_assistant(request: HttpRequest, pk: int) -> HttpResponse:
    assistant = get_object_or_404(Assistant.objects.visible_to(request.user.pk or 0), pk=pk)
    return redirect("conversation", talk_again(assistant, request.user).pk)
