from __future__ import annotations

from common.routes import both

from . import api, assistant_api, pages

urlpatterns = [
    *both("chat", pages.chat, "chat"),
    *both("chat/<int:pk>", pages.chat, "conversation"),
    *both("assistants", pages.assistants, "assistants"),
    *both("assistants/new", pages.edit_assistant, "assistant-new"),
    *both("assistants/<int:pk>", pages.edit_assistant, "assistant"),
    *both("assistants/<int:pk>/delete", pages.delete_assistant, "assistant-delete"),
    *both("assistants/<int:pk>/talk", pages.talk_to_assistant, "assistant-talk"),
    *both("api/assistants", assistant_api.Assistants.as_view(), "api_assistants"),
    *both("api/assistants/<int:pk>", assistant_api.AssistantView.as_view(), "api_assistant"),
    *both("api/assistants/<int:pk>/chat", assistant_api.AssistantChat.as_view(), "api_assistant_chat"),
    *both("api/chat/conversations", api.Conversations.as_view(), "api_conversations"),
    *both("api/chat/import", api.Import.as_view(), "api_conversation_import"),
    *both("api/chat/conversations/<int:pk>", api.ConversationView.as_view(), "api_conversation"),
    *both(
        "api/chat/conversations/<int:pk>/export.json", api.Export.as_view(), "api_conversation_json", {"kind": "json"}
    ),
    *both("api/chat/conversations/<int:pk>/export.md", api.Export.as_view(), "api_conversation_md", {"kind": "md"}),
]
