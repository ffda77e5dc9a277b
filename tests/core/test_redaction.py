"""No credential survives redaction, and nothing else is lost by it."""

import pytest

from segdist.core.errors import SegdistError
from segdist.core.redaction import redact, redact_all

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/x", [KEY, SECRET]),
        ("http://me:pa55word@host:5000/x", ["me:", "pa55word"]),
        ("http://me:p@ss:w0rd@host", ["p@ss", "w0rd"]),
        ("http://:pa55word@host", ["pa55word"]),
        ("mysql+pymysql://me:pa55@db/mlflow and postgresql://you:word@db", ["pa55", "word"]),
        ("https://ghp_0123456789abcdefghij@github.com/x", ["ghp_0123456789abcdefghij"]),
        ("https://0123456789abcdefghij@sentry/x", ["0123456789abcdefghij"]),
        ("https://b.s3.amazonaws.com/w?X-Amz-Credential=abcd&X-Amz-Signature=0f1e2d", ["abcd", "0f1e2d"]),
        ("https://a.blob.core.windows.net/c/w?sv=2024&sig=Zm9v%3D&se=1", ["Zm9v"]),
        ("s3://bucket/x?access_key=abcdef&secret_key=ghijkl&scheme=http", ["abcdef", "ghijkl"]),
        ("https://host/x?key=abc123", ["abc123"]),
        ("https://host/x?api_key=abc123#y", ["abc123"]),
        (f"AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET}", [KEY, SECRET]),
        (f"aws_secret_access_key = {SECRET}", [SECRET]),
        (f'{{"secret": "{SECRET}", "password": "hunter22"}}', [SECRET, "hunter22"]),
        ("MLFLOW_TRACKING_PASSWORD='hunter22'", ["hunter22"]),
        ("segdist serve x --token hunter2222", ["hunter2222"]),
        ("name: x\n  password: correcthorse\n", ["correcthorse"]),
        ("hub: {name: x, hub_token: correcthorse}", ["correcthorse"]),
        ("the service said: invalid token: a1b2c3d4e5", ["a1b2c3d4e5"]),
        ("Authorization: Bearer abcdefghijkl", ["abcdefghijkl"]),
        ("Authorization: Basic dXNlcjpwYXNz", ["dXNlcjpwYXNz"]),
        ("curl -H 'authorization: token abcdefgh'", ["abcdefgh"]),
        (f"key id {KEY} alone, and {TOKEN}", [KEY, TOKEN]),
        ("AccountName=me;AccountKey=Zm9vYmFyCg==;x", ["Zm9vYmFyCg"]),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", ["eyJzdWIiOiIxMjM0In0", "c2lnbmF0dXJl"]),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----", ["MIIB"]),
    ],
)
def test_a_secret_is_hidden(text: str, secrets: list[str]) -> None:
    shown = redact(text)
    assert "***" in shown
    for secret in secrets:
        assert secret not in shown
    assert redact(shown) == shown, "what is redacted stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix/data set/x@1.json",
        "http://127.0.0.1:5000/#/models/quickstart@champion",
        "http://host:5000/path@x and models:/quickstart@champion, quickstart@champion",
        "abfs://a-container-with-a-long-name@account.dfs.core.windows.net/x",
        "ssh://git@github.com/x, https://me@host/x",
        "sqlite:////home/me/segdist/mlflow.db",
        "https://host/x?page=2&sort=name",
        "max_new_tokens=64 image_seq_length=256, tokens: 16",
        "the token must be set; a password is missing",
        "a URI must not hold credentials: what stands here is stored; no token: draw one",
        "segdist run sweeps/quickstart.yaml search.trials=20 train.lr=3e-4",
        "0123456789abcdef0123456789abcdef",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "hf_objects and sk-learn",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_variables_named_like_secrets_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse")
    monkeypatch.setenv("SSH_PRIVATE_KEY", "/home/me/key")
    assert redact("folder correct-horse/x, /home/me/key") == "folder ***/x, /home/me/key"


def test_values_nested_in_json_are_hidden() -> None:
    content = {"a": [{"uri": "http://me:pa55@host"}], "password": "x", "n": 1.5, f"{KEY}": None}
    assert redact_all(content) == {"a": [{"uri": "http://***@host"}], "password": "***", "n": 1.5, "***": None}


def test_an_error_cannot_echo_a_secret() -> None:
    assert str(SegdistError(f"Cannot read s3://{KEY}:{SECRET}@bucket")) == "Cannot read s3://***@bucket"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    [
        "a",
        "token",
        "://a:",
        "password=",
        "token:",
        "password: ",
        "{token",
        "?",
        "-",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        "@",
    ],
)
def test_a_long_text_takes_no_longer_than_its_length_asks_for(part: str) -> None:
    redact(part * (200_000 // len(part)))  # quadratic would take many minutes
