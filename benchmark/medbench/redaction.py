"""Secrets in texts that are printed or kept.

An error of somebody else's library may hold the address that it asked, with a password in it, or a token. Errors are
printed, and those of failed cells are kept in records, which are sent around.
"""

import re
from typing import Final

_SECRETS: Final = re.compile(
    r"(?P<before>:/{1,2}[^/\s:@]*:)[^@/\s]+(?=@)"  # of a user of an address
    r"|(?P<name>[?&;](?:access_?token|token|api_?key|key|sig|signature|password|secret)=)[^&\s'\"]+"  # in its query
    r"|(?P<header>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|\b(?:hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|AKIA[A-Z0-9]{12,}|sk-[\w-]{16,})",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """The text with passwords of addresses, tokens of hubs and keys as `***`."""
    return _SECRETS.sub(
        lambda found: (found["before"] or found["name"] or found["header"] or "") + "***", text
    )
