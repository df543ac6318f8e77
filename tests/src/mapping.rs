//! A file in memory, shared with everybody who has it.

use std::{
    ffi::c_void,
    fs::File,
    io::{self, Read as _, pipe},
    ptr, slice,
};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// What a pipe takes in one piece, in bytes.
const PIPE_BUF: usize = 4096;

/// A shared, writable mapping of a file's beginning.
#[derive(Debug)]
pub struct Mapping {
    address: *mut c_void,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`. What it doesn't have must not be touched, or the process ends.
    #[allow(unsafe_code, reason = "no safe way to map a file exists")]
    pub fn new(file: &File, len: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice, used through this type alone.
        let address =
            unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)? };
        Ok(Self { address, len })
    }

    /// How many bytes are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: nothing can't be mapped.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What is in it now.
    pub fn read(&self) -> Vec<u8> {
        self.load(0, self.len)
    }

    /// What is in `len` bytes at `offset` now.
    #[allow(unsafe_code, reason = "the mapping is memory of this process")]
    pub fn load(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "within the mapping");
        // SAFETY: in bounds, and mapped for as long as self lives; a copy, since others may change the file.
        unsafe { slice::from_raw_parts(self.address.cast::<u8>().add(offset), len).to_vec() }
    }

    /// What is in it now, or the error that a load would end the process with: the kernel reads it.
    ///
    /// # Errors
    ///
    /// `EFAULT` where a page can't be had.
    #[allow(unsafe_code, reason = "the mapping is memory of this process")]
    pub fn try_read(&self) -> io::Result<Vec<u8>> {
        let (mut from, to) = pipe()?;
        let mut all = Vec::with_capacity(self.len);
        // A pipe takes a page at once without waiting.
        for start in (0..self.len).step_by(PIPE_BUF) {
            let len = PIPE_BUF.min(self.len - start);
            // SAFETY: in bounds, and mapped for as long as self lives. Only the kernel looks at the bytes.
            let bytes = unsafe { slice::from_raw_parts(self.address.cast::<u8>().add(start), len) };
            rustix::io::write(&to, bytes)?;
            let end = all.len();
            all.resize(end + len, 0);
            from.read_exact(&mut all[end..])?;
        }
        Ok(all)
    }

    /// Stores `bytes` at `offset`.
    #[allow(unsafe_code, reason = "the mapping is memory of this process")]
    pub fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "within the mapping");
        // SAFETY: in bounds, and nobody else in this process has a reference into it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.cast::<u8>().add(offset), bytes.len()) };
    }

    /// Waits until the stores are in the file.
    #[allow(unsafe_code, reason = "the mapping is memory of this process")]
    pub fn sync(&self) {
        // SAFETY: the address and length of a mapping of ours.
        unsafe { msync(self.address, self.len, MsyncFlags::SYNC).unwrap() };
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code, reason = "the mapping is memory of this process")]
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no reference into it is left.
        let _ = unsafe { munmap(self.address, self.len) };
    }
}
