"""scikit-build-core, and then a wheel tagged for the glibc that its libraries need.

A wheel for Linux is tagged `linux_x86_64` by its builder, which says nothing; `manylinux_2_36_x86_64` says on which
systems it loads. The number is read from the symbol versions of the ELF files in the wheel, so it is never a guess.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

from scikit_build_core.build import *  # noqa: F403 - the hooks of a build backend, all but one as they are
from scikit_build_core.build import build_wheel as _build_wheel


def glibc_needed(files: dict[str, bytes]) -> int:
    """N of the highest symbol version GLIBC_2.N that the ELF files among these need."""
    versions = [
        int(version)
        for data in files.values()
        if data.startswith(b"\x7fELF")
        for version in re.findall(rb"\0GLIBC_2\.(\d+)(?:\.\d+)?(?=\0)", data)
    ]
    return max(versions, default=17)


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    wheel = Path(wheel_directory, _build_wheel(wheel_directory, config_settings, metadata_directory))
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
        files = {info.filename: archive.read(info) for info in infos}
    match = re.search(r"-linux_(\w+)\.whl\Z", wheel.name)
    if not match:
        return wheel.name
    platform = f"manylinux_2_{glibc_needed(files)}_{match[1]}"

    (metadata,) = (name for name in files if name.endswith(".dist-info/WHEEL"))
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    files[metadata] = re.sub(rb"(?m)^(Tag: \S+)-linux_\w+$", rb"\1-" + platform.encode(), files[metadata])
    digest = base64.urlsafe_b64encode(hashlib.sha256(files[metadata]).digest()).rstrip(b"=").decode()
    entry = f"{metadata},sha256={digest},{len(files[metadata])}"
    files[record] = re.sub(rf"(?m)^{re.escape(metadata)},.*$", entry, files[record].decode()).encode()

    tagged = wheel.with_name(wheel.name.replace(match[0], f"-{platform}.whl"))
    with zipfile.ZipFile(tagged, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for info in infos:
            archive.writestr(info, files[info.filename], zipfile.ZIP_DEFLATED, 9)
    wheel.unlink()
    return tagged.name
