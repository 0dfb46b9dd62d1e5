from __future__ import annotations

from common.routes import optional_slash

from . import api, assistant_api, pages

urlpatterns = [
    *optional_slash("chat", pages.chat, "chat"),
    *optional_slash("chat/<int:pk>", pages.chat, "conversation"),
    *optional_slash("chat/shared/<uuid:share>", pages.shared, "shared-conversation"),
    *optional_slash("assistants", pages.assistants, "assistants"),
    *optional_slash("assistants/new", pages.edit_assistant, "assistant-new"),
    *optional_slash("assistants/<int:pk>", pages.edit_assistant, "assistant"),
    *optional_slash("assistants/<int:pk>/delete", pages.delete_assistant, "assistant-delete"),
    *optional_slash("assistants/<int:pk>/talk", pages.talk_to_assistant, "assistant-talk"),
    *optional_slash("api/assistants", assistant_api.AssistantsView.as_view(), "api_assistants"),
    *optional_slash("api/assistants/<int:pk>", assistant_api.AssistantView.as_view(), "api_assistant"),
    *optional_slash("api/assistants/<int:pk>/chat", assistant_api.AssistantChatView.as_view(), "api_assistant_chat"),
    *optional_slash("api/chat/conversations", api.ConversationsView.as_view(), "api_conversations"),
    *optional_slash(
        "api/chat/conversations/delete", api.ConversationDeletionView.as_view(), "api_conversations_delete"
    ),
    *optional_slash("api/chat/folders", api.FoldersView.as_view(), "api_folders"),
    *optional_slash("api/chat/import", api.ConversationImportView.as_view(), "api_conversation_import"),
    *optional_slash("api/chat/conversations/<int:pk>", api.ConversationView.as_view(), "api_conversation"),
    *optional_slash("api/chat/conversations/<int:pk>/share", api.ConversationShareView.as_view(), "api_share"),
    *optional_slash("api/chat/conversations/<int:pk>/versions", api.VersionsView.as_view(), "api_versions"),
    *optional_slash(
        "api/chat/conversations/<int:pk>/export.json",
        api.ConversationExportView.as_view(),
        "api_conversation_json",
        {"kind": "json"},
    ),
    *optional_slash(
        "api/chat/conversations/<int:pk>/export.md",
        api.ConversationExportView.as_view(),
        "api_conversation_md",
        {"kind": "md"},
    ),
]
