"""The files of one instance as its process sees them: lock, identity, is there data. Rules [M-1], [M-12]."""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import uuid
from dataclasses import replace

from synchro.config import Settings
from synchro.errors import ConfigError, Corruption, DiskFailed, InstanceUuidMismatch
from synchro.storage.disk import Disk
from synchro.storage.identity import DirectoryLock, Identity, IdentityFile
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.replacement import DATA_SUFFIXES, Replacement
from synchro.storage.xlog import SNAP_SUFFIX, XLOG_SUFFIX


def new_salt() -> int:
    """64 random bits for a WAL file, so that old blocks in a recycled one are not taken for its own."""
    return secrets.randbits(64)


class DataDirectory:
    """Locked from `open` to `close`. The identity file is written and synced before the first contact with
    a peer, so a join that is killed comes back as the same instance.

    Blocks: calls are rare, and nothing may go on before they are done.
    """

    def __init__(
        self, disk: Disk, settings: Settings, locks: contextlib.ExitStack, file: IdentityFile
    ) -> None:
        self.disk = disk
        self.settings = settings
        self.identity_file = file
        self._locks = locks
        self.replacement = Replacement(
            disk, file, wal_dir=settings.wal_dir, snapshot_dir=settings.snapshot_dir
        )

    @property
    def identity(self) -> Identity:
        return self.identity_file.identity

    @classmethod
    def open(cls, disk: Disk, settings: Settings) -> DataDirectory:
        """Raises `AlreadyRunning`, `Corruption`; `ConfigError`, `InstanceUuidMismatch` (files of another one
        [C-46]); `DiskFailed`: what is there is no directory, or cannot be written."""
        try:
            return cls._open(disk, settings)
        except OSError as error:
            at = str(error.filename or settings.wal_dir)
            is_in_the_way = isinstance(error, FileExistsError)  # a file, or a link to nothing
            why = "is no directory" if is_in_the_way else f"cannot be used: {error.strerror or error}"
            raise DiskFailed(
                f"{at} {why}; nothing was started. Next: look what is there, and give the instance a "
                "directory that it can write to (database.dir)",
                file=at,
                errno=error.errno,
            ) from error

    @classmethod
    def _open(cls, disk: Disk, settings: Settings) -> DataDirectory:
        for path in {settings.wal_dir, settings.snapshot_dir}:
            disk.makedirs(path)
        with contextlib.ExitStack() as locks:
            locks.enter_context(DirectoryLock(settings.wal_dir))
            # Where another instance has its snapshots too, each would delete those of the other.
            if not os.path.samefile(settings.wal_dir, settings.snapshot_dir):
                locks.enter_context(DirectoryLock(settings.snapshot_dir))
            file = IdentityFile.load(disk, settings.wal_dir)
            if file is None:
                cls._refuse_strange_data(disk, settings)
                file = IdentityFile.create(
                    disk,
                    settings.wal_dir,
                    Identity(settings.instance_uuid or str(uuid.uuid4()), settings.instance_name),
                )
            if settings.instance_uuid not in ("", file.identity.instance_uuid):
                file.close()
                raise InstanceUuidMismatch(
                    f"Instance UUID mismatch: expected {settings.instance_uuid} (database.instance_uuid), "
                    f"got {file.identity.instance_uuid} ({settings.wal_dir}); nothing was changed",
                    expected=settings.instance_uuid,
                    got=file.identity.instance_uuid,
                )
            if (name := file.identity.name) != settings.instance_name:
                file.close()
                raise ConfigError(
                    f"Instance name mismatch: expected {name}, got {settings.instance_name}; "
                    f"{settings.wal_dir} belongs to another instance, nothing was changed"
                )
            return cls(disk, settings, locks.pop_all(), file)

    @staticmethod
    def _refuse_strange_data(disk: Disk, settings: Settings) -> None:
        """The identity comes before all data. Without it nobody knows what the log promised, and a new one
        beside the files of another instance would be in the way of the lost one."""
        for directory in dict.fromkeys((settings.snapshot_dir, settings.wal_dir)):
            if any(name.endswith((SNAP_SUFFIX, XLOG_SUFFIX)) for name in disk.listdir(directory)):
                raise Corruption(
                    f"{settings.wal_dir} has no {IDENTITY_NAME}, but {directory} has data of an instance; "
                    "nothing was changed. Next: restore that file; or, in a set whose other members have the "
                    "data, move all files of this instance away and start it again to join anew",
                    file=posixpath.join(settings.wal_dir, IDENTITY_NAME),
                    offset=0,
                )

    def close(self) -> None:
        self.identity_file.close()
        self._locks.close()

    def _names(self, directory: str, suffix: str) -> list[str]:
        return [name for name in self.disk.listdir(directory) if name.endswith(suffix)]

    @property
    def has_data(self) -> bool:
        """A snapshot is what makes a directory not empty [M-12]; the identity file alone does not.

        Raises `Corruption` if it had one once and only its log is left; unless that log is of a member that
        was killed while it joined again: nothing of it was acknowledged."""
        if self._names(self.settings.snapshot_dir, SNAP_SUFFIX):
            return True
        is_joining = self.identity.amnesia and self.identity_file.names_no_log
        is_member = self.identity.replicaset_uuid is not None and not is_joining
        if is_member and self._names(self.settings.wal_dir, XLOG_SUFFIX):
            raise Corruption(
                f"{self.settings.snapshot_dir} has no snapshot, but {self.settings.wal_dir} has a log of "
                f"replica set {self.identity.replicaset_uuid}; nothing was changed. Next: restore the "
                "snapshot, or move the log away and start again to join anew",
                file=self.settings.snapshot_dir,
                offset=0,
            )
        return False

    def begin_first_start(self) -> None:
        """Remove what a killed bootstrap or join left, and what a former life did. Lost data is amnesia
        (S14), also if a person deleted the files to have the instance join anew [M-36], [W-28]; the flag is
        synced before a file goes. To which replica set the instance belongs it does not forget (ADR 14).
        Raises `DiskFailed`: the file, and why it could not go."""
        if self.identity.replicaset_uuid is not None:
            self.set_amnesia(True)
        path = self.settings.wal_dir
        try:
            self.replacement.begin_anew()
            self.identity_file.forget_log()
            for directory in {self.settings.wal_dir, self.settings.snapshot_dir}:
                path = directory
                for name in self.disk.listdir(directory):
                    if name.endswith(DATA_SUFFIXES):
                        path = posixpath.join(directory, name)
                        self.disk.unlink(path)
                path = directory
                self.disk.sync_dir(directory)
        except OSError as error:
            raise DiskFailed(
                f"{path}: what a former start left could not be removed: {error.strerror or error}; the "
                "instance does not start beside it. Next: make the directory writable, or remove the file",
                file=path,
                errno=error.errno,
            ) from error

    def forget_replicaset(self) -> None:
        """A person decided that the set is gone: this instance may make, or join, another one. If it is not
        gone, and this one joins it again after all, then in amnesia."""
        self.identity_file.acks = {}
        former = self.identity.replicaset_uuid
        self.save(replace(self.identity, replicaset_uuid=None, amnesia=True, former_uuid=former))

    def want_rejoin(self, *, is_lossy: bool) -> None:
        """As `save`: each start tries it from now on."""
        try:
            self.replacement.want(is_lossy=is_lossy)
        except OSError as error:
            raise self._not_saved(error) from error

    def save(self, identity: Identity) -> None:
        """Durable when it returns. Raises `DiskFailed`: what must be remembered is not, so nothing may go
        on."""
        try:
            self.identity_file.save(identity)
        except OSError as error:
            raise self._not_saved(error) from error

    def _not_saved(self, error: OSError) -> DiskFailed:
        return DiskFailed(
            f"{self.settings.wal_dir}: the identity file could not be written: "
            f"{error.strerror or error}; nothing was changed",
            file=self.settings.wal_dir,
            errno=error.errno,
        )

    def note_former_life(self) -> None:
        """The set that it joins had it before: amnesia, at once, since nothing tells any more when its UUID
        is registered. Which set it gave up before does not matter then. As `save`."""
        if not self.identity.amnesia or self.identity.former_uuid is not None:
            self.save(replace(self.identity, amnesia=True, former_uuid=None))

    def set_amnesia(self, amnesia: bool) -> None:
        """As `save`."""
        if self.identity.amnesia != amnesia:
            self.save(replace(self.identity, amnesia=amnesia))

    def set_replicaset(self, replicaset_uuid: str) -> None:
        """As `save`."""
        if self.identity.replicaset_uuid != replicaset_uuid:
            self.save(replace(self.identity, replicaset_uuid=replicaset_uuid, former_uuid=None))
