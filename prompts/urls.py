from __future__ import annotations

from common.routes import optional_slash

from . import api, pages

urlpatterns = [
    *optional_slash("prompts", pages.prompts, "prompts"),
    *optional_slash("prompts/new", pages.prompt, "prompt-new"),
    *optional_slash("prompts/<int:pk>", pages.prompt, "prompt"),
    *optional_slash("api/prompts", api.PromptsView.as_view(), "api_prompts"),
    *optional_slash("api/prompts/<int:pk>", api.PromptView.as_view(), "api_prompt"),
]
