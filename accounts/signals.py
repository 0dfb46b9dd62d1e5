"""What other parts of the site may want to hear about accounts."""

from django.dispatch import Signal

token_revoked = Signal()  # kwargs: token (ApiToken). Sent in the process that revoked it.
