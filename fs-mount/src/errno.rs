//! The one table from the volume's errors to the numbers that programs see. Nothing else in the program names an
//! errno for a failed call.
//!
//! The matches have no wildcard: a new error doesn't compile until somebody chooses what programs see.

use std::io;

use fuser::Errno;
use volume::Error;

/// What an ioctl gets: there are none here.
pub(crate) const NO_IOCTL: Errno = Errno::ENOTTY;
/// What a request gets that the kernel then stops sending.
pub(crate) const NOT_IMPLEMENTED: Errno = Errno::ENOSYS;

/// What programs see when a call fails with `error`.
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::Invalid => Errno::EINVAL,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::FileTooLarge => Errno::EFBIG,
        Error::TooManyLinks => Errno::EMLINK,
        Error::NoSpace => Errno::ENOSPC,
        Error::NoAttribute => Errno::ENODATA,
        Error::Range => Errno::ERANGE,
        Error::TooBig => Errno::E2BIG,
        Error::NoMoreData => Errno::ENXIO,
        // Not EACCES: no chmod helps somebody whose role is only to read.
        Error::ReadOnly => Errno::EROFS,
        Error::NotPermitted => Errno::EPERM,
        Error::Denied => Errno::EACCES,
        Error::NotSupported => Errno::EOPNOTSUPP,
        Error::BadHandle => Errno::EBADF,
        // Waiting was in vain. An error, never the older content.
        Error::Absent(_) => Errno::EIO,
        // Never shown, and no other number says that reading again won't help.
        Error::Damaged(_) => Errno::EIO,
        Error::Refused(_) => Errno::EPERM,
        Error::Io(error) => disk(error),
    }
}

/// What programs see when a call fails that names a node by its number alone. A number that leads nowhere is stale, not
/// absent: the kernel then looks the path up again, and tells the program what it finds there.
pub fn errno_of_node(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ESTALE,
        other => errno(other),
    }
}

/// What an error is called that programs see under this number.
pub(crate) fn name(code: usize) -> String {
    const NAMES: [(Errno, &str); 25] = [
        (Errno::ENOENT, "ENOENT"),
        (Errno::EEXIST, "EEXIST"),
        (Errno::ENOTDIR, "ENOTDIR"),
        (Errno::EISDIR, "EISDIR"),
        (Errno::ENOTEMPTY, "ENOTEMPTY"),
        (Errno::EINVAL, "EINVAL"),
        (Errno::ENAMETOOLONG, "ENAMETOOLONG"),
        (Errno::EFBIG, "EFBIG"),
        (Errno::EMLINK, "EMLINK"),
        (Errno::ENOSPC, "ENOSPC"),
        (Errno::ENODATA, "ENODATA"),
        (Errno::ERANGE, "ERANGE"),
        (Errno::E2BIG, "E2BIG"),
        (Errno::ENXIO, "ENXIO"),
        (Errno::EROFS, "EROFS"),
        (Errno::EPERM, "EPERM"),
        (Errno::EACCES, "EACCES"),
        (Errno::EOPNOTSUPP, "EOPNOTSUPP"),
        (Errno::EBADF, "EBADF"),
        (Errno::EIO, "EIO"),
        (Errno::ESTALE, "ESTALE"),
        (Errno::EMFILE, "EMFILE"),
        (Errno::ENFILE, "ENFILE"),
        (Errno::ENOMEM, "ENOMEM"),
        (Errno::EDQUOT, "EDQUOT"),
    ];
    let known = NAMES.iter().find(|(errno, _)| usize::try_from(errno.code()) == Ok(code));
    known.map_or_else(|| format!("errno {code}"), |(_, name)| (*name).to_owned())
}

/// The system's own number where it tells the user what has run out, else EIO: the rest would read as if it were about
/// the file that was asked for (a missing pack file is no ENOENT).
fn disk(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(libc::EMFILE) => return Errno::EMFILE,
        Some(libc::ENFILE) => return Errno::ENFILE,
        Some(libc::ENOMEM) => return Errno::ENOMEM,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        io::ErrorKind::QuotaExceeded => Errno::EDQUOT,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_disk(number: i32) -> Errno {
        errno(&Error::Io(io::Error::from_raw_os_error(number)))
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        assert_eq!(of_disk(libc::ENOSPC), Errno::ENOSPC);
        assert_eq!(of_disk(libc::EDQUOT), Errno::EDQUOT);
    }

    #[test]
    fn the_stores_own_troubles_are_io_errors() {
        for number in [libc::ENOENT, libc::EACCES, libc::EROFS, libc::EBADF] {
            assert_eq!(of_disk(number), Errno::EIO, "errno {number}");
        }
    }

    #[test]
    fn what_has_run_out_is_told_as_such() {
        assert_eq!(of_disk(libc::EMFILE), Errno::EMFILE);
        assert_eq!(of_disk(libc::ENFILE), Errno::ENFILE);
        assert_eq!(of_disk(libc::ENOMEM), Errno::ENOMEM);
    }

    #[test]
    fn absent_and_damaged_content_is_an_io_error() {
        assert_eq!(errno(&Error::Absent(Vec::new())), Errno::EIO);
        assert_eq!(errno(&Error::damaged("block")), Errno::EIO);
    }

    #[test]
    fn a_number_that_leads_nowhere_is_stale() {
        assert_eq!(errno(&Error::NotFound), Errno::ENOENT);
        assert_eq!(errno_of_node(&Error::NotFound), Errno::ESTALE);
        assert_eq!(errno_of_node(&Error::Denied), Errno::EACCES);
    }
}
