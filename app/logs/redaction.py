"""Removes from logs what readers must not see: keys and passwords that a library printed, and the server's paths."""

import re
from collections.abc import Mapping
from typing import Final

#: Patterns of secrets, each with its replacement.
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


def redacted(text: str, folders: Mapping[str, str]) -> str:
    """The text without secrets; `folders` maps folders of the server to the names that readers know."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, folders[folder])
    return text
