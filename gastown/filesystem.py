"""Which kind of filesystem a folder is on, and whether a ledger may live there.

Law: SQLite's WAL needs shared memory and locks that all processes see alike; on a network filesystem a ledger would be
lost quietly, so such a place is refused before anything is written. Imports nothing of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Kinds whose locks or memory maps are not those of one kernel.
REMOTE: Final = frozenset(
    ("nfs", "nfs4", "9p", "virtiofs", "cifs", "smb3", "smbfs", "afpfs", "afs", "ceph", "glusterfs", "lustre", "webdav")
)
REMOTE_FUSE: Final = ("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.glusterfs", "osxfuse", "macfuse")


def kind(folder: Path) -> str:
    """The filesystem kind of `folder` or its nearest existing parent, such as "ext4"; "" if the system will not say."""
    import psutil

    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    place = place.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    # Of two mounts on one place the later one is seen.
    best = max(enumerate(mounts), key=lambda found: (len(found[1].mountpoint), found[0]), default=None)
    return best[1].fstype.lower() if best else ""


def refusal(folder: Path, found: str | None = None) -> str | None:
    """Why no ledger may live in `folder`, or None when it may. `found`: its kind, if it is known already."""
    found = kind(folder) if found is None else found
    if found in REMOTE or found.startswith(REMOTE_FUSE):
        return f"{folder} is on {found}, which cannot hold a SQLite ledger safely: choose a folder on a local disk"
    return None
