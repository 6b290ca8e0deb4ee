"""Writes a checkpoint tensor by tensor, so that an interruption loses at most the tensor that was being written.

Everything is made in ``<output>.partial`` beside the output: the files at their full length, and a journal with a line for
each entry that is on the disk. When the last one is, the whole is renamed into place. The same conversion, started again,
goes on after the journal's last line; another one is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ..errors import FileError, InvalidArgumentError
from ..files import size
from .storage import WEIGHT_FILES, SafetensorsWriter, Spec

_JOURNAL = "journal.jsonl"
# What may be written before it is made sure to be on the disk: a crash repeats as much.
_SYNC_BYTES = 256 << 20


class ResumableWriter:
    """Entries (names with their tensors), written in order to one file or to shards with an index.

    `done` has the notes of the entries that an earlier sitting wrote: the caller skips them. Use it in a ``with``
    statement, and call `finish` in it.
    """

    def __init__(
        self,
        output: Path,
        entries: Mapping[str, Mapping[str, Spec]],
        *,
        identity: Any,
        single_file: bool,
        max_shard_bytes: int,
        force: bool = False,
    ):
        """`identity` is JSON that two conversions share only if they write the same bytes."""
        output = Path(os.path.abspath(output))
        if not output.name:
            raise FileError(f"expected a path for the checkpoint, got {output}; name a file or a folder in it")
        self.output, self.partial = output, output.with_name(output.name + ".partial")
        self._single_file, self._force = single_file, force
        self._check_output()
        self._specs = {name: dict(specs) for name, specs in entries.items()}
        self._shards = self._assign_shards(None if single_file else max_shard_bytes)
        layout = {name: {t: [s.code, s.shape] for t, s in specs.items()} for name, specs in self._specs.items()}
        text = json.dumps([identity, layout, max_shard_bytes], sort_keys=True)
        self._digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._files: dict[str, SafetensorsWriter] = {}
        self._pending: list[str] = []
        self._pending_bytes = 0
        self._kept = 0  # entries that the journal has
        #: Notes of the entries that are written already, by name.
        self.done: dict[str, Any] = {}
        with self._explained():
            self._open_journal()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for specs in self._specs.values() for spec in specs.values())

    def write(self, name: str, tensors: Mapping[str, np.ndarray], note: Any) -> None:
        """The tensors of one entry, and a note (JSON) that `done` has when the conversion is resumed."""
        for tensor, array in tensors.items():
            if array.nbytes != self._specs[name][tensor].nbytes:
                raise InvalidArgumentError(f"expected '{tensor}' as {self._specs[name][tensor]}, got {Spec.of(array)}")
        with self._explained():
            for tensor, array in tensors.items():
                self._file_of(self._shards[tensor]).write(tensor, array)
                self._pending_bytes += array.nbytes
            self.done[name] = note
            self._pending.append(json.dumps({"entry": name, "note": note}))
            if self._pending_bytes >= _SYNC_BYTES:
                self._sync()

    def finish(self, others: Mapping[str, bytes | Path]) -> None:
        """Puts the checkpoint into place, with these other files beside the weights: their content, or whose copies they are."""
        with self._explained():
            self._sync()
            for file in self._files.values():
                file.close()
            self._files = {}
            if self._single_file:
                (self.partial / self.output.name).replace(self.output)
                shutil.rmtree(self.partial)
                return
            for name, content in others.items():
                _write(self.partial / name, content)
            if len(set(self._shards.values())) > 1:
                index = {"metadata": {"total_size": self.nbytes}, "weight_map": self._shards}
                _write(self.partial / "model.safetensors.index.json", json.dumps(index, indent=1).encode() + b"\n")
            if self._force and self.output.exists():
                old = self.output.with_name(f".{self.output.name}.{secrets.token_hex(6)}.replaced")
                self.output.rename(old)
                self.partial.rename(self.output)
                shutil.rmtree(old)
            else:
                self.partial.rename(self.output)
            (self.output / _JOURNAL).unlink()

    def __enter__(self) -> ResumableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of a full disk: what is not there is written again
            self._sync()
        files: list[SafetensorsWriter | IO[str]] = [*self._files.values(), self._journal]
        for file in files:
            with contextlib.suppress(OSError):
                file.close()

    def _check_output(self) -> None:
        if self.output.exists() and not self._force:
            raise FileError(f"expected a new path, got {self.output}, which exists; remove it, or use --force")
        if self.output.exists() and self.output.is_dir() == self._single_file:
            kind = "a file" if self._single_file else "a folder"
            raise FileError(f"expected to write {kind}, got {self.output}, which is none; choose another path")
        if not self.output.parent.is_dir():
            raise FileError(f"expected a folder {self.output.parent}, got none; make it first")
        if self.output.is_dir():
            names = [each.name for each in self.output.iterdir()]
            if names and not any(name.endswith(WEIGHT_FILES) for name in names):
                raise FileError(
                    f"expected --force to replace a checkpoint, got the folder {self.output} without weights, which would be "
                    "deleted with all that is in it; choose another path"
                )

    def _assign_shards(self, limit: int | None) -> dict[str, str]:
        """The file of each tensor. The tensors of an entry stay together."""
        if self._single_file:
            return {tensor: self.output.name for specs in self._specs.values() for tensor in specs}
        groups: list[list[str]] = [[]]
        used = 0
        for specs in self._specs.values():
            nbytes = sum(spec.nbytes for spec in specs.values())
            if groups[-1] and limit is not None and used + nbytes > limit:
                groups.append([])
                used = 0
            groups[-1] += specs
            used += nbytes
        if len(groups) == 1:
            return dict.fromkeys(groups[0], "model.safetensors")
        names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
        return {tensor: file for file, group in zip(names, groups, strict=True) for tensor in group}

    def _open_journal(self) -> None:
        begun = (self.partial / _JOURNAL).exists()
        if not begun:
            if self.partial.exists():
                raise FileError(
                    f"expected {self.partial} to be of a conversion, got something else of that name; move it away"
                )
            self.partial.mkdir()
            free = shutil.disk_usage(self.partial).free
            if free < self.nbytes:
                self.partial.rmdir()
                raise FileError(
                    f"expected {size(self.nbytes)} of free disk for {self.output}, got {size(free)}; free some"
                )
        self._journal = open(self.partial / _JOURNAL, "a+")  # noqa: SIM115 - closed by __exit__
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._journal.close()
            raise FileError(
                f"expected {self.partial} to be free, got it in use by another conversion; wait for it"
            ) from None
        self._journal.seek(0)
        lines, length = _whole_lines(self._journal.read())
        self._journal.truncate(length)  # a crash may have torn the last line
        if not lines:
            self._append(json.dumps({"digest": self._digest}))
            return
        if lines[0].get("digest") != self._digest:
            self._journal.close()
            raise FileError(
                f"expected {self.partial} to be of this conversion, got one of other options or of another input; remove it"
            )
        # A shard that is gone (moved into place just before a crash, or deleted) is written again.
        present = {tensor for tensor, shard in self._shards.items() if (self.partial / shard).exists()}
        self.done = {line["entry"]: line["note"] for line in lines[1:] if self._specs[line["entry"]].keys() <= present}
        self._kept = len(self.done)

    def _file_of(self, shard: str) -> SafetensorsWriter:
        if shard not in self._files:
            specs = {
                tensor: spec
                for group in self._specs.values()
                for tensor, spec in group.items()
                if self._shards[tensor] == shard
            }
            self._files[shard] = SafetensorsWriter(self.partial / shard, specs, {"format": "pt"})
        return self._files[shard]

    def _sync(self) -> None:
        try:
            for file in self._files.values():
                file.sync()
            for line in self._pending:
                self._append(line)
                self._kept += 1
        except OSError:  # a second try would succeed, whatever is lost; behind Ctrl-C it is a true one
            self._pending, self._pending_bytes = [], 0
            raise
        self._pending, self._pending_bytes = [], 0

    def _append(self, line: str) -> None:
        self._journal.write(line + "\n")
        self._journal.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The file system's errors as sentences that say what is left."""
        try:
            yield
        except FileError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                with contextlib.suppress(OSError):
                    self._sync()
                raise FileError(
                    f"expected {size(self.nbytes)} of disk for {self.output}, and it is full; free some and run the same "
                    f"command again: {self._kept} of {len(self._specs)} entries are kept in {self.partial}"
                ) from None
            raise FileError(f"cannot write {self.partial}: {error.strerror or error}") from None


def _write(path: Path, content: bytes | Path) -> None:
    with open(path, "wb") as file:
        if isinstance(content, Path):
            with open(content, "rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """The journal's lines up to the first that is torn, and their length. Names and notes are ASCII in JSON."""
    lines: list[dict[str, Any]] = []
    length = 0
    for line in text.split("\n")[:-1]:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        lines.append(entry)
        length += len(line) + 1
    return lines, length
