"""Records as JSON files."""

import pytest

from bncourse.results import files


def test_what_was_written_is_read_and_the_folder_is_made(tmp_path):
    path = tmp_path / "new" / "record.json"
    files.write(path, {"way": "ß", "rows": [1, None]})
    with files.reading(path, "record") as record:
        assert record == {"way": "ß", "rows": [1, None]}
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "record.json"
    files.write(path, {"rows": []})
    with pytest.raises(TypeError):
        files.write(path, {"rows": [object()]})
    with files.reading(path, "record") as record:
        assert record == {"rows": []}


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"{", "JSONDecodeError"), (b"\xff", "UnicodeDecodeError"), (b"{}", r"KeyError\('rows'\)"), (b"[]", "TypeError")],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content, kind):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"record\.json is no table: {kind}"), files.reading(path, "table") as record:
        record["rows"]


def test_another_form_is_refused():
    files.check_form("record.json", 2, 2, "make results")
    with pytest.raises(ValueError, match=r"record\.json has form 1; expected 2\. Make it again with: make results"):
        files.check_form("record.json", 1, 2, "make results")


def test_the_processor_has_a_name(monkeypatch):
    assert files.processor()
    monkeypatch.setattr(files, "cpuinfo", lambda _: "")
    assert files.processor()
