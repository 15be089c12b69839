"""What must not be read in a log: keys and passwords that a library may print, and where things lie on the server."""

import re
from collections.abc import Mapping
from typing import Final

#: Each with what stays of it.
_SECRETS: Final = [
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        "[private key]",
    ),
    (re.compile(r"\b(pf_[a-z0-9]{8})_[0-9a-f]{16,}"), r"\1_***"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]{8,}"), "whsec_***"),
    (re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA)[A-Za-z0-9_-]{10,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1\2***"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^/\s:@]*:[^/\s@]+@"), r"\1***@"),
    (
        re.compile(
            r"(?i)\b([\w-]*(?:api_?-?key|secret|passw(?:or)?d|access_token|auth_token|credentials?)[\w-]*"
            r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]{6,}"
        ),
        r"\1***",
    ),
]


def redacted(text: str, places: Mapping[str, str]) -> str:
    """The text without secrets; `places` maps folders of the server to the names that readers know."""
    for pattern, rest in _SECRETS:
        text = pattern.sub(rest, text)
    for folder in sorted(places, key=len, reverse=True):
        text = text.replace(folder, places[folder])
    return text
