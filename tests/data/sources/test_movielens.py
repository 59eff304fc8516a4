import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import import_set, load
from tests.data import miniatures


@pytest.mark.parametrize("release", ["100k", "1m", "25m"])
def test_each_release_comes_out_in_one_form(tmp_path, release):
    archive, ratings = miniatures.movielens(tmp_path / f"ml-{release}.zip", release)
    stored = import_set(f"movielens-{release}", archive, any_checksum=True)
    table = stored.table("rows")
    assert table.column_names == ["user", "movie", "rating", "timestamp"]
    scale = 2 if release == "25m" else 1
    expected = [(user, movie, rating / scale, time) for user, movie, rating, time in ratings]
    assert list(zip(*table.to_pydict().values(), strict=True)) == expected
    assert stored.manifest["parts"] == {"all": 60}
    film = stored.table("movies").to_pylist()[0]
    title, genres = ("American President, The (1995)", "Comedy|Drama") if release == "25m" else ("Amélie (2001)", None)
    assert film["title"] == title
    assert film["genres"] == genres or release != "25m"
    if release != "25m":
        first = stored.table("users").to_pylist()[0]
        assert (first["user"], first["gender"], first["age"], first["zip_code"]) == (1, "M", 24, "85711")


def test_genres_of_100k_are_named(tmp_path):
    archive, _ = miniatures.movielens(tmp_path / "ml-100k.zip", "100k")
    stored = import_set("movielens-100k", archive, any_checksum=True)
    assert stored.table("movies")["genres"].to_pylist() == ["War|Western"]


def test_ratings_are_loaded_for_regression_with_users_and_films_as_categories(tmp_path):
    archive, _ = miniatures.movielens(tmp_path / "ml-1m.zip", "1m")
    import_set("movielens-1m", archive, any_checksum=True)
    data = load("movielens-1m", validation=10, test=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    (batch,) = data.train.batches(100)
    assert batch["labels"].dtype == torch.float32
    assert batch["categorical"].shape == (40, 2)
    assert "numeric" not in batch
    assert (batch["categorical"] < torch.tensor(data.train.sizes)).all()
    assert batch["categorical"].min() == 1  # all users and films of the training rows are in the vocabulary


def test_compact_files_keep_their_folds_and_lack_times(tmp_path):
    folder = tmp_path / "movielens"
    folder.mkdir()
    rows = {"user_id": [1, 2], "movie_id": [10, 20], "rating": [5, 3], "fold": [1, 2]}
    schema = pa.schema([("user_id", "uint16"), ("movie_id", "uint16"), ("rating", "uint8"), ("fold", "uint8")])
    pq.write_table(pa.table(rows, schema), folder / "ratings.parquet")
    pq.write_table(pa.table({"user_id": [1], "gender": ["F"]}), folder / "users.parquet")
    pq.write_table(pa.table({"movie_id": [10], "title": ["x"]}), folder / "movies.parquet")
    stored = import_set("movielens-1m", tmp_path)
    assert stored.table("rows").to_pylist()[1] == {"user": 2, "movie": 20, "rating": 3.0, "timestamp": None, "fold": 2}
    assert stored.table("users").column_names == ["user", "gender"]
    with pytest.raises(ValueError, match="expected movielens-1m from the compact files"):
        import_set("movielens-25m", tmp_path)


def test_a_malformed_line_is_refused_by_its_number_or_left_out_and_counted(tmp_path):
    members = {
        "ml-1m/ratings.dat": "1::2::3::4\n1::2::three::4\n1::2::3\n5::6::4::8\n",
        "ml-1m/movies.dat": "1::x::y\n",
        "ml-1m/users.dat": "1::M::24::10::85711\n",
    }
    archive = miniatures.write_zip(tmp_path / "x.zip", members)
    with pytest.raises(ValueError, match=r"line 3 of ml-1m/ratings.dat .*expected 7 fields, got 5; leave such"):
        import_set("movielens-1m", archive, any_checksum=True)
    stored = import_set("movielens-1m", archive, any_checksum=True, bad="skip")
    assert stored.table("rows")["user"].to_pylist() == [1, 5]
    assert stored.manifest["skipped"]["count"] == 2
    assert "expected rating as a finite number, got 'three'" in stored.manifest["skipped"]["first"][1]


def test_a_file_that_the_archive_lacks_and_a_wrong_header_are_named(tmp_path):
    lacking = miniatures.write_zip(tmp_path / "x.zip", {"ml-1m/movies.dat": "1::x::y\n"})
    with pytest.raises(ValueError, match=r"found no ratings.dat, users.dat"):
        import_set("movielens-1m", lacking, any_checksum=True)
    header = miniatures.write_zip(tmp_path / "y.zip", {"ml-25m/ratings.csv": "user,movie\n1,2\n"})
    with pytest.raises(ValueError, match="expected the header userId"):
        import_set("movielens-25m", header, any_checksum=True)


def written(tmp_path, release, **members):
    """Write the archive of a release with some files replaced, or removed if None."""
    import zipfile

    archive, _ = miniatures.movielens(tmp_path / "whole.zip", release)
    with zipfile.ZipFile(archive) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
    for name, data in members.items():
        found[f"ml-{release}/{name.replace('__', '.')}"] = data
    return miniatures.write_zip(tmp_path / "x.zip", found)


@pytest.mark.parametrize(
    ("release", "members", "message"),
    [
        ("1m", {"ratings__dat": "::2::3::4\n"}, "line 1 of ml-1m/ratings.dat .*: expected user as a number, got none"),
        ("1m", {"ratings__dat": "1::::3::4\n"}, "expected movie as a number, got none"),
        ("1m", {"ratings__dat": "1::2::::4\n"}, "expected rating as a number from 0.5 to 5, got none"),
        ("1m", {"ratings__dat": "1::2::nan::4\n"}, "expected rating as a finite number, got 'nan'"),
        ("1m", {"ratings__dat": "1::2::6::4\n"}, "expected rating as a number from 0.5 to 5, got 6.0"),
        ("1m", {"ratings__dat": "-1::2::3::4\n"}, "expected user as uint32, got '-1'"),
        ("1m", {"ratings__dat": "0x1::2::3::4\n"}, "expected user as uint32, got '0x1'"),
        ("1m", {"ratings__dat": ""}, "expected rows in .*x.zip, found none that could be imported"),
        ("1m", {"movies__dat": "1::x\n"}, "line 1 of ml-1m/movies.dat .*: expected 3 fields, got 2"),
        ("1m", {"movies__dat": "\none::x::y\n"}, "line 2 of ml-1m/movies.dat .*: expected a whole number, got 'one'"),
        ("1m", {"users__dat": "1::M::24::10\n"}, "line 1 of ml-1m/users.dat .*: expected 5 fields, got 4"),
        ("100k", {"u__item": "1|x|y\n"}, "line 1 of ml-100k/u.item .*: expected 24 fields, got 3"),
        ("100k", {"u__user": "1|old|M|x|y\n"}, "line 1 of ml-100k/u.user .*: expected a whole number, got 'old'"),
        ("100k", {"u__data": "1\t2\t3\n"}, "line 1 of ml-100k/u.data .*: expected 4 fields, got 3"),
        ("25m", {"movies__csv": "movieId,title\n"}, "expected the header movieId,title,genres"),
        ("25m", {"movies__csv": 'movieId,title,genres\n1,"x,y\n2,z,a\n'}, "line 2 of ml-25m/movies.csv"),
        ("25m", {"movies__csv": "movieId,title,genres\n1,\xe9,a\n".encode("latin-1")}, "line 2 of .*: expected UTF-8"),
        ("25m", {"ratings__csv": ""}, "expected the header userId"),
    ],
)
def test_what_the_files_must_not_hold_is_named_by_its_line(tmp_path, store_folder, release, members, message):
    with pytest.raises(ValueError, match=message):
        import_set(f"movielens-{release}", written(tmp_path, release, **members), any_checksum=True)
    assert not (store_folder / f"movielens-{release}").exists()


def test_signs_that_python_takes_for_line_ends_are_part_of_a_title(tmp_path):
    archive = written(tmp_path, "1m", movies__dat="1::A\x85\x1cB::C\r\n2::D::E\r\n".encode("latin-1"))
    stored = import_set("movielens-1m", archive, any_checksum=True)
    assert stored.table("movies")["title"].to_pylist() == ["A\x85\x1cB", "D"]
