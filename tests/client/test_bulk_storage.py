"""Where bulk results are kept: every picture in one file, whatever is done twice; what is not ours is refused."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sparseinst_client.bulk.storage import SCHEMA, Folder, Results

SETTINGS = {"model": "m", "classes": ["bear"], "category_ids": [1], "score_threshold": None, "max_instances": None}


@pytest.fixture
def out(tmp_path):
    return Folder.at(str(tmp_path / "found"))


def results(out, **changes):
    return Results.at(out, {**SETTINGS, **changes}, pictures=10, share=4)


def row(name, error=None):
    return {"file_name": name, "width": 4, "height": 3, "instances": [], "error": error}


@pytest.mark.parametrize(
    ("place", "wanted"),
    [("ftp://zoo/pictures", "wanted a folder of this machine, or s3://"), ("s3://", "names no bucket; wanted s3://bu")],
)
def test_places_that_are_none(place, wanted):
    with pytest.raises(ValueError, match=wanted):
        Folder.at(place)


def test_a_bucket_is_understood_and_travels_to_workers():
    folder = pickle.loads(pickle.dumps(Folder.at("s3://zoo/pictures/?endpoint_override=127.0.0.1:9&scheme=http")))
    assert (folder.path, folder.filesystem.type_name) == ("zoo/pictures", "s3")


def test_pictures_are_found_in_folders_in_order(tmp_path):
    for name in ("b.JPG", "a/c.png", "notes.txt", "a/d/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    folder = Folder.at(str(tmp_path))
    assert folder.pictures() == ["a/c.png", "a/d/e.webp", "b.JPG"]
    assert folder.read("a/d/e.webp") == b"a/d/e.webp"
    with pytest.raises(ValueError, match=r"none holds no pictures; wanted files that end in one of \.jpg"):
        Folder.at(str(tmp_path / "none")).pictures()


@given(st.lists(st.text(min_size=1), max_size=20), st.integers(1, 50))
def test_a_picture_belongs_to_one_part_whatever_else_there_is(names, parts):
    one = Results(Folder.at("anywhere"), SETTINGS, parts)
    assert all(0 <= one.part_of(name) < parts for name in names)
    assert [one.part_of(name) for name in names] == [Results(one.out, {}, parts).part_of(name) for name in names]


def test_what_is_done_twice_is_there_once(out):
    first = results(out)
    assert first.parts == 3
    first.add(0, [row("b.jpg"), row("a.jpg")])
    results(out).add(0, [row("c.jpg"), row("a.jpg")])  # as a worker that takes over, or that its command has left alone
    first.add(2, [row("d.jpg", "no picture")])
    assert results(out).done() == {"a.jpg": None, "b.jpg": None, "c.jpg": None, "d.jpg": "no picture"}
    table = parquet.read_table(out.path)
    assert table["file_name"].to_pylist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert table.schema.equals(SCHEMA)


def test_more_pictures_go_into_the_parts_that_are_there(out):
    results(out).add(1, [row("a.jpg")])
    assert Results.at(out, SETTINGS, pictures=1000, share=4).parts == 3


def test_other_settings_and_other_files_are_refused(out, tmp_path):
    results(out).add(1, [row("a.jpg")])
    with pytest.raises(ValueError, match=r"was made with score_threshold None, now 0\.5; go on with the same"):
        results(out, score_threshold=0.5).done()
    with pytest.raises(ValueError, match=r"was made with score_threshold None, now 0\.5; go on with the same"):
        results(out, score_threshold=0.5).add(1, [row("b.jpg")])
    (tmp_path / "found" / "part-00000-of-00003.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(ValueError, match=r"part-00000-of-00003\.parquet is no result of this command"):
        results(out).done()
    parquet.write_table(pa.table({"file_name": ["a.jpg"]}), tmp_path / "found" / "part-00000-of-00003.parquet")
    with pytest.raises(ValueError, match=r"part-00000-of-00003\.parquet is no result of this command"):
        results(out).done()
    (tmp_path / "found" / "part-00000-of-00007.parquet").touch()
    with pytest.raises(ValueError, match="holds results in 3 and in 7 parts"):
        results(out)
    (tmp_path / "found" / "zoo.parquet").touch()
    with pytest.raises(ValueError, match=r"zoo\.parquet is no result"):
        results(out)
