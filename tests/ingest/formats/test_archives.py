"""Archives of shards: read in the order of their names, every row numbered; what is no data is said, what is no archive named."""

import errno
import gzip
import io
import json
import os
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.errors import DatasetInvalid, TooLarge
from app.ingest.formats.archives import Archive
from app.ingest.limits import MIB, Limits


def lines(*texts):
    return b"".join(json.dumps({"prompt": text, "chosen": "a", "rejected": "b"}).encode() + b"\n" for text in texts)


def parquet(*texts):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"prompt": text, "chosen": "a", "rejected": "b"} for text in texts]), buffer)
    return buffer.getvalue()


def arrow(*texts, kind=pa.ipc.new_stream):
    table = pa.Table.from_pylist([{"prompt": text, "chosen": "a", "rejected": "b"} for text in texts])
    buffer = io.BytesIO()
    with kind(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def zip_of(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(mode="w", **files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


SHARDS = {"data/part-10.jsonl": lines("c"), "data/part-2.jsonl": lines("a", "b"), "README.md": b"#", "data/.DS_Store": b"x"}


@pytest.mark.parametrize("pack", [zip_of, tar_of, lambda **files: gzip.compress(tar_of(**files))])
def test_shards_are_read_in_the_order_of_their_numbers(read_bytes, tmp_path, pack):
    read = read_bytes(pack(**SHARDS))
    assert [prompt[0][1] for prompt in read.prompts()] == ["a", "b", "c"]
    assert ([row["line"] for row in read.examples], read.audit.numbering) == ([1, 2, 3], "row")
    assert json.loads(read.examples[2]["meta"]) == {"file": "data/part-10.jsonl"}
    assert [note.note for note in read.audit.notes] == ['in the archive, and not read as rows: "README.md"']
    assert {path.name for path in tmp_path.iterdir()} == {"source", "preview.json", "examples.parquet"}


def test_files_of_several_formats_may_stand_in_one_archive(read_bytes):
    files = {"a.parquet": parquet("a"), "b.csv": b"prompt,chosen,rejected\nb,x,y\n", "c.jsonl.gz": gzip.compress(lines("c"))}
    assert [prompt[0][1] for prompt in read_bytes(zip_of(**files)).prompts()] == ["a", "b", "c"]


def test_a_saved_data_set_is_read_without_its_descriptions(read_bytes):
    files = {"train/data-00000-of-00001.arrow": arrow("a"), "train/state.json": b"{}", "dataset_dict.json": b'{"splits": []}'}
    read = read_bytes(zip_of(**files))
    assert read.audit.facts["format"] == "zip of 1 arrow"
    assert read.audit.num_examples == 1


@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("packed", [False, True])
def test_arrow_is_read_as_a_stream_and_as_a_file(read_bytes, kind, packed):
    content = arrow(*map(str, range(300)), kind=kind)
    read = read_bytes(gzip.compress(content) if packed else content)
    assert (read.audit.num_examples, read.audit.facts["format"]) == (300, "arrow.gz" if packed else "arrow")


OFFICE = {"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"}
REFUSED = {
    "a workbook": (zip_of(**OFFICE), "This is an Excel workbook. Save the sheet"),
    "a document": (zip_of(**{"word/document.xml": b"x"}), "This is a Word document"),
    "a model": (zip_of(**{"archive/data.pkl": b"x"}), "This is a PyTorch file"),
    "no data": (zip_of(**{"a.txt": b"x", "b.png": b"x"}), r"The zip archive holds no data file, but a.txt, b.png. Pack"),
    "nothing": (zip_of(), "The zip archive holds no data file, but nothing"),
    "half a zip": (zip_of(**SHARDS)[:90], "This is a zip archive that can't be read"),
    "half a tar": (tar_of(**SHARDS)[:1600], "This is a tar archive that can't be read|can't be unpacked"),
    "a bad member": (zip_of(**{"a.jsonl": lines("a"), "b.jsonl": b"Dear Sir"}), "b.jsonl in the archive: The file is neither"),
    "an archive inside": (zip_of(**{"a.jsonl": zip_of(**SHARDS)}), "a.jsonl in the archive: This is a zip archive"),
    "half an Arrow file": (arrow("a")[:90], "The Arrow file is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_archive_of_rows_is_refused_by_its_kind(read_bytes, tmp_path, case):
    content, sentence = REFUSED[case]
    with pytest.raises(DatasetInvalid, match=sentence):
        read_bytes(content)
    assert list(tmp_path.glob(".*")) == []


def test_a_bomb_in_an_archive_is_refused(read_bytes):
    with pytest.raises(DatasetInvalid, match="decompression bomb"):
        read_bytes(zip_of(**{"a.jsonl": lines("a") + b" " * 50 * MIB}))


def test_the_limit_counts_all_members_together(read_bytes):
    with pytest.raises(TooLarge, match="larger than the limit"):
        read_bytes(zip_of(**{f"{n}.jsonl": lines(*"ab" * 50) for n in range(4)}), limits=Limits(max_unpacked_bytes=12_000))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_fault_of_the_machine_is_not_blamed_on_the_archive(tmp_path, monkeypatch, number):
    path = tmp_path / "data.zip"
    path.write_bytes(zip_of(**SHARDS))

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with Archive("zip", path, Limits()) as archive, monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            archive.unpack(archive.names[0], io.BytesIO())
    monkeypatch.setattr(zipfile.ZipFile, "infolist", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        Archive("zip", path, Limits())
