//! Replacing the old file by the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use jiff::Zoned;
use nix::errno::Errno;
use tracing::warn;

use super::error::{RepairError, at};
use super::rewrite::Repair;
use crate::storage::gdbm::file::extents;

impl Repair<'_> {
    /// Keeps the original file as `NAME.broken-DATE-TIME`, as a link or a copy. Returns that path.
    fn keep_original(&self, original: &File) -> Result<PathBuf, RepairError> {
        let stamp = Zoned::now().strftime(".broken-%Y%m%d-%H%M%S").to_string();
        let (mut kept, mut number) = (self.location.beside(&stamp), 1);
        loop {
            let outcome = match fs::hard_link(self.location.file(), &kept) {
                Err(error) if lacks_hard_links(&error) => {
                    let mut options = OpenOptions::new();
                    let copied =
                        options.write(true).create_new(true).mode(0o600).open(&kept).and_then(|copy| {
                            extents::copy(original, &copy)?;
                            copy.sync_all()
                        });
                    if copied.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
                        // An incomplete copy must not stay.
                        let _ = fs::remove_file(&kept);
                    }
                    copied
                }
                linked => linked,
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    kept = self.location.beside(&format!("{stamp}-{number}"));
                }
                Err(error) => return Err(at(&kept)(error)),
                Ok(()) => return Ok(kept),
            }
        }
    }

    /// Gives the new file the owner and mode of the original, syncs it, and renames it over the original. A kill at any
    /// point leaves one of the two, complete. Returns the path of the kept original, with `keeps`.
    pub(super) fn replace(
        &self,
        original: &File,
        new: &File,
        name: &Path,
        keeps: bool,
    ) -> Result<Option<PathBuf>, RepairError> {
        let (old, own) = (original.metadata()?, new.metadata().map_err(at(name))?);
        let mut mode = old.mode() & 0o7777;
        if (old.uid(), old.gid()) != (own.uid(), own.gid())
            && fchown(new, Some(old.uid()), Some(old.gid())).is_err()
            && fchown(new, None, Some(old.gid())).is_err()
        {
            // This user cannot give files to that group. The group that the file has instead must get no access.
            mode &= !0o2070;
        }
        new.set_permissions(Permissions::from_mode(mode)).map_err(at(name))?;
        new.sync_all().map_err(at(name))?;
        let kept = self.cancel.commit(|_| {
            let kept = keeps.then(|| self.keep_original(original)).transpose()?;
            let renamed = fs::rename(name, self.location.file()).map_err(at(name));
            if let (Err(_), Some(kept)) = (&renamed, &kept) {
                fs::remove_file(kept).map_err(at(kept))?;
            }
            renamed.map(|()| kept)
        })??;
        if let Err(error) = self.location.sync_directory() {
            warn!("cannot sync the directory of the database {}: {error}", self.location.file().display());
        }
        Ok(kept)
    }
}

/// Returns whether a hard link failed because the file system cannot make one.
pub(super) fn lacks_hard_links(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(
        number,
        Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK | Errno::EXDEV | Errno::EINVAL)
    )
}
