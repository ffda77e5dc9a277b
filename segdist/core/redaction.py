"""What must not leave the process: passwords, tokens and keys, wherever in a text they stand.

The one function for it. Whatever is shown, logged or stored goes through it; see SECURITY.md.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

HIDDEN = "***"
"""Stands where a secret stood."""
_SHORTEST = 8
"""Characters; a shorter value of a variable would be found in innocent words."""
_SHORTEST_SECRET = 20
"""Characters of the shortest secret that is recognisable without a name in front of it."""
_SEPARATOR = re.compile(r"[=:\s]")
_NAMES = (
    r"pass(?:word|wd|phrase)|secret(?:[_-]?(?:access[_-]?)?key)?|token|credentials?|authorization"
    r"|(?:access|api|account|private|signing)[_-]?key(?:[_-]?id)?"
)
_VARIABLE = re.compile(rf"(?:{_NAMES})$", re.IGNORECASE)
_VALUE = r"(?!\*\*\*|(?:basic|bearer|token)\s)[^\s\"',;&)}\]]{4,}"
_AFTER_NAME = "\\1" + HIDDEN
# No pattern begins with a repetition, and what may fail late is bounded: time grows with the length of the text alone.
_IN_URIS = (
    # Userinfo of a URI. A password may hold slashes, as AWS secrets do; digits behind a colon are a port.
    (re.compile(r"(://)[^\s/?#\"'<>@:]{0,200}:[^\s/?#\"'<>]{0,2000}@"), _AFTER_NAME + "@"),
    (re.compile(r"(://)[^\s/?#\"'<>@:]{1,200}:(?!\d+(?:[/?#\s]|$))[^\s\"'<>@]{1,200}@"), _AFTER_NAME + "@"),
    (re.compile(r"(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)(://)[^\s/?#\"'<>@:]{20,2000}@"), _AFTER_NAME + "@"),
    # A parameter of a query.
    (
        re.compile(rf"([?&;](?:[\w.-]{{0,40}}(?:{_NAMES}|signature)|sig|key|pwd|auth)=)[^\s&;#\"'<>]+", re.IGNORECASE),
        _AFTER_NAME,
    ),
)
_PATTERNS = (
    *_IN_URIS,
    # A header.
    (
        re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token)\s+)[^\s\"',;]+", re.IGNORECASE),
        _AFTER_NAME,
    ),
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]{12,}", re.IGNORECASE), _AFTER_NAME),
    # NAME=value, "name": "value", `name: value` at the beginning of a line or mapping, --name value. In a sentence a
    # name and a colon are no secret, unless there are digits in what follows.
    (re.compile(rf"((?:{_NAMES})[\"']?\s?=\s{{0,4}}[\"']?){_VALUE}", re.IGNORECASE), _AFTER_NAME),
    (re.compile(rf"((?:{_NAMES})[\"']?\s?:\s{{0,4}}[\"']){_VALUE}", re.IGNORECASE), _AFTER_NAME),
    (
        re.compile(
            rf"((?:^[ \t-]{{0,40}}|[{{,]\s{{0,4}})[\w.\"'-]{{0,40}}(?:{_NAMES})[\"']?\s?:\s{{0,4}}){_VALUE}",
            re.IGNORECASE | re.MULTILINE,
        ),
        _AFTER_NAME,
    ),
    (re.compile(rf"((?:{_NAMES})\s?:\s{{0,4}})(?=\S{{0,60}}\d){_VALUE}", re.IGNORECASE), _AFTER_NAME),
    (re.compile(rf"(--[\w-]{{0,30}}(?:{_NAMES})\s+)(?![-*])\S{{{_SHORTEST},}}", re.IGNORECASE), _AFTER_NAME),
    # What is recognisable by its form: AWS, Hugging Face, GitHub, GitLab, Slack, OpenAI, Google, Databricks, JWT, PEM.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}(?::[A-Za-z0-9/+=]{40})?"), HIDDEN),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), HIDDEN),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}"), HIDDEN),
    (re.compile(r"\bxox[abprs]-[\w-]{10,}|\bsk-(?:proj-|ant-)?[A-Za-z0-9_]{20,}"), HIDDEN),
    (re.compile(r"\bAIza[\w-]{35}|\bdapi[0-9a-f]{32}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), HIDDEN),
)


def redact(text: str) -> str:
    """The text with every secret in it replaced by `***`.

    Secrets are the password in a URI, what stands behind names like `password` or `token`, signatures of queries,
    tokens that give themselves away by their form, and the values of this process's own environment variables that are
    named like secrets.
    """
    return _redacted(text, _values())


def redactor() -> Callable[[str], str]:
    """The same as a function for many texts, with the environment as it is now."""
    values = _values()
    return lambda text: _redacted(text, values)


def redact_all(content: object) -> Any:
    """JSON-like values with `redact` done to every string in them, keys of mappings included."""
    return _walked(content, _values())


def redacted_value(value: Any) -> object:
    """What a template shows of a value: strings, escaped ones too, without secrets; pictures as they are."""
    is_text = isinstance(value, str) and not value.startswith("data:image/")
    return type(value)(redact(value)) if is_text else value


def names_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_VARIABLE.search(name))


def holds_credentials(uri: str) -> bool:
    """Whether a URI brings a password, a key or a signature along."""
    return any(pattern.search(uri) for pattern, _ in _IN_URIS)


def without_credentials(uri: str) -> str:
    """The sentence that says how a service gets its credentials, if not in its URI."""
    if uri.startswith("s3"):
        return "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment instead."
    if uri.startswith("http"):
        return (
            "For an MLflow server set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
            "in the environment instead; download a file that lies behind a signed address."
        )
    if uri.startswith(("postgres", "mysql")):
        return "Set PGPASSWORD in the environment, or name a file with the password (`read_default_file` of MySQL)."
    return "Set it in the environment instead."


def _walked(content: object, values: tuple[str, ...]) -> object:
    if isinstance(content, str):
        return _redacted(content, values)
    if isinstance(content, Mapping):
        return {_walked(k, values): _entry(k, _walked(v, values)) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_walked(value, values) for value in content]
    return content


def _entry(name: object, value: object) -> object:
    """A value by the name it has, e.g. `{"password": "..."}`."""
    return HIDDEN if isinstance(value, str) and value and isinstance(name, str) and _VARIABLE.search(name) else value


def _redacted(text: str, values: Iterable[str]) -> str:
    for value in values:
        text = text.replace(value, HIDDEN)
    if len(text) < _SHORTEST_SECRET and not _SEPARATOR.search(text):
        return text  # a name, as most of what is shown
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _values() -> tuple[str, ...]:
    """Of environment variables that are named like secrets, longest first; paths and key ids are none."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and value[0] != "/" and names_secret(name) and not name.endswith("_ID")
    }
    return tuple(sorted(found, key=len, reverse=True))
