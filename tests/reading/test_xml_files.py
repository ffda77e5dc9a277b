"""XML of other tools is read within bounds, and without entities."""

from pathlib import Path

import pytest

from segdist.reading.xml_files import NotXmlError, read_xml


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "EntitiesForbidden"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "EntitiesForbidden"),
        (b'<!DOCTYPE a [<!ENTITY % b SYSTEM "http://localhost/b">%b;]><a/>', "EntitiesForbidden"),
        (b"<a>" + b"<b/>" * 2_000_000, "at most 2,000,000 tags"),
        (b"<a>", "it is no XML"),
        (b"", "it is no XML"),
        (b"<a>\x00</a>", "NUL"),
    ],
    ids=lambda value: str(value[:40]),
)
def test_xml_beyond_the_bounds_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_xml(str(tmp_path / "a.xml"), lambda _: None)
    assert isinstance(caught.value, NotXmlError) or said == "NUL"


def test_deep_xml_takes_no_stack(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<a>" * 100_000 + b"</a>" * 100_000)
    assert sum(1 for _ in read_xml(str(tmp_path / "a.xml"), lambda _: None).iter("a")) == 100_000
