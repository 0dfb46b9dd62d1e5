"""Why an upload is refused, as errors of the API."""

from __future__ import annotations

import errno

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from common.api import ApiError
from common.numbers import grouped

FULL = (errno.ENOSPC, errno.EDQUOT)

REASONS: dict[str, Promise] = {
    "no_adapter": gettext_lazy(
        "It holds no adapter_config.json. Send the folder of an adapter, with adapter_config.json and "
        "adapter_model.safetensors."
    ),
    "pickle": gettext_lazy(
        "Its weights are a pickle file (.bin), which is not accepted from outside. Save the adapter as safetensors."
    ),
    "bad_name": gettext_lazy("“%(path)s” is not a name that a file here may have."),
    "escapes": gettext_lazy("“%(path)s” leads out of the folder."),
    "link": gettext_lazy("“%(path)s” is a link or a device; only files are accepted."),
    "twice": gettext_lazy("“%(path)s” occurs twice."),
    "encrypted": gettext_lazy("The archive is encrypted."),
    "compression": gettext_lazy("The archive uses a compression that is not supported."),
    "too_many": gettext_lazy("It holds more than %(limit)s files."),
    "too_large": gettext_lazy("Unpacked, it is larger than what may be uploaded."),
    "too_long": gettext_lazy("Unpacking the archive took too long."),
    "damaged": gettext_lazy("The archive is damaged or is not an archive."),
    "kind": gettext_lazy(
        "“%(path)s” is not accepted: only .safetensors, .json, .jsonl, .jinja, README.md, or one archive."
    ),
}


def refused(reason: str, path: str = "", limit: int = 0, param: str | None = None) -> ApiError:
    sentence = str(REASONS[reason]) % {"path": shown(path), "limit": grouped(limit)}
    return ApiError("upload_refused", sentence, 422, param, extra={"reason": reason})


def shown(path: str) -> str:
    """A path of the client as a sentence may repeat it."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in path)
    return text if len(text) <= 100 else f"{text[:40]}…{text[-40:]}"


def too_large(limit: int) -> ApiError:
    text = _("An upload may have at most %(limit)s bytes.") % {"limit": grouped(limit)}
    return ApiError("upload_too_large", text, 413)


def over_quota(used: int, quota: int) -> ApiError:
    text = _(
        "Your uploads may take %(quota)s bytes in all, of which %(used)s are in use. Delete adapters that you "
        "uploaded, with their files."
    ) % {"quota": grouped(quota), "used": grouped(used)}
    return ApiError("upload_quota", text, 413)


def no_space() -> ApiError:
    return ApiError("upload_no_space", _("The server's disk has no room for this upload."), 503, retry_after=60)


def wrong_offset(received: int) -> ApiError:
    text = _("The file continues at byte %(n)s.") % {"n": grouped(received)}
    return ApiError("upload_offset", text, 409, "offset", extra={"received": received})


def incomplete(path: str) -> ApiError:
    text = _("“%(path)s” has not arrived completely.") % {"path": shown(path)}
    return ApiError("upload_incomplete", text, 409)


def busy() -> ApiError:
    return ApiError("upload_busy", _("Another request is writing to this upload. Try again in a moment."), 409)
