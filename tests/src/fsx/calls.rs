//! One step: a call, the same done to the bytes in memory, and what it tells compared.

use std::{fs::File, io::Write, num::NonZeroU64, os::unix::fs::FileExt};

use rustix::{
    fs::{Advice, FallocateFlags, SeekFrom, copy_file_range, fadvise, fallocate, seek},
    io::Errno,
};

use super::{Checked, Exerciser, Subject, compare, failed, place};
use crate::mapping::Mapping;

/// Of so many steps, one checks a whole file.
const WHOLE: u64 = 200;

impl Exerciser {
    pub(super) fn step(&mut self, which: usize) -> Checked {
        let limit = self.settings.limit;
        let descriptors = self.files[which].open.len() as u64;
        // The first one appends.
        let descriptor = 1 + self.random.below(descriptors - 1) as usize;
        let offset = place::offset(&mut self.random, limit - 1);
        let len = place::length(&mut self.random, limit - offset);
        let kind = self.random.below(100);
        let mut told = |what: &str| {
            let line = format!("file {which} descriptor {descriptor} {what} {offset}+{len}");
            self.told.push_back(format!("{}: {line}", self.steps));
            if self.told.len() > super::TOLD {
                self.told.pop_front();
            }
        };
        match kind {
            0..20 => {
                told("read");
                if self.random.below(2) == 0 {
                    self.files[which].drop_pages(descriptor, offset, Some(len))?;
                }
                self.files[which].read(descriptor, offset, len)
            }
            20..42 => {
                told("write");
                let data = data(&mut self.random, len);
                self.files[which].write(descriptor, offset, &data)
            }
            42..47 => {
                told("append");
                let room = limit.saturating_sub(self.files[which].len());
                let data = data(&mut self.random, len.min(room));
                self.files[which].append(&data)
            }
            47..55 => {
                told("truncate");
                let to = if self.random.below(3) == 0 { offset.min(self.files[which].len()) } else { offset };
                self.files[which].truncate(descriptor, to)
            }
            55..56 => {
                told("open with O_TRUNC");
                self.files[which].empty(descriptor)
            }
            56..61 => {
                told("load");
                if self.random.below(2) == 0 {
                    self.files[which].drop_pages(descriptor, offset, Some(len))?;
                }
                self.files[which].load(descriptor, offset, len)
            }
            61..69 => {
                told("store");
                let data = data(&mut self.random, len);
                self.files[which].store(descriptor, offset, &data)?;
                if self.settings.killed || self.random.below(2) == 0 {
                    self.files[which].sync_mapping();
                }
                Ok(())
            }
            69..74 => {
                told("punch");
                self.files[which].zero(descriptor, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
            }
            74..77 => {
                told("zero");
                self.files[which].zero(descriptor, FallocateFlags::ZERO_RANGE, offset, len)
            }
            77..79 => {
                told("zero, keeping the size");
                self.files[which].zero(descriptor, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len)
            }
            79..81 => {
                told("allocate");
                self.files[which].allocate(descriptor, FallocateFlags::empty(), offset, len)
            }
            81..82 => {
                told("allocate, keeping the size");
                self.files[which].allocate(descriptor, FallocateFlags::KEEP_SIZE, offset, len)
            }
            82..89 => {
                told("copy to");
                self.copy(which, descriptor, offset, len)
            }
            89..93 => {
                told("seek");
                self.files[which].seek(descriptor, offset)
            }
            93..96 => {
                told("close and open one of");
                self.files[which].replace(descriptor)
            }
            96..97 => {
                told("close and open");
                let descriptors = self.settings.descriptors;
                self.files[which].close();
                self.files[which].reopen(descriptors)
            }
            97..99 => {
                told("sync");
                self.files[which].sync(descriptor)
            }
            _ if self.random.below(WHOLE / 100) == 0 => {
                told("read all");
                self.files[which].drop_pages(descriptor, 0, None)?;
                self.files[which].check_all()
            }
            _ => {
                told("sync the mapping");
                self.files[which].sync_mapping();
                Ok(())
            }
        }
    }

    /// Copies from any of the files, at a place that often fits whole blocks.
    fn copy(&mut self, to: usize, descriptor: usize, to_offset: u64, len: u64) -> Checked {
        let from = self.random.below(self.files.len() as u64) as usize;
        let held = self.files[from].len();
        if held == 0 {
            return Ok(());
        }
        let from_offset = place::offset(&mut self.random, held - 1);
        let len = len.min(held - from_offset);
        // Within one file, ranges that overlap are refused.
        let overlap = from == to && from_offset < to_offset + len && to_offset < from_offset + len;
        self.note(format!("  from file {from} {from_offset}+{len}"));
        let source = &self.files[from].open[self.files[from].open.len() - 1];
        let target = &self.files[to].open[descriptor];
        let (mut read_at, mut write_at, mut left) = (from_offset, to_offset, len);
        while left > 0 {
            match copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), left as usize) {
                Ok(0) => return Err(format!("nothing was copied, {left} bytes are left")),
                Ok(copied) => left -= copied as u64,
                Err(Errno::INVAL) if overlap => return Ok(()),
                Err(error) => return Err(format!("copy_file_range: {error}")),
            }
        }
        if overlap {
            return Err("overlapping ranges were copied".to_owned());
        }
        let copy = self.files[from].bytes[from_offset as usize..(from_offset + len) as usize].to_vec();
        self.files[to].lay(to_offset, &copy);
        Ok(())
    }
}

impl Subject {
    /// Lays `data` over the bytes in memory.
    fn lay(&mut self, offset: u64, data: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + data.len());
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(data);
    }

    /// What is at most `len` bytes at `offset`.
    fn range(&self, offset: u64, len: u64) -> &[u8] {
        let (held, start) = (self.bytes.len(), offset as usize);
        &self.bytes[start.min(held)..(start + len as usize).min(held)]
    }

    /// Lets the kernel forget what it keeps of a range (to the end, without a length), so that the daemon is asked.
    fn drop_pages(&self, descriptor: usize, offset: u64, len: Option<u64>) -> Checked {
        let len = len.and_then(NonZeroU64::new);
        fadvise(&self.open[descriptor], offset, len, Advice::DontNeed).map_err(|e| format!("fadvise: {e}"))
    }

    fn read(&self, descriptor: usize, offset: u64, len: u64) -> Checked {
        let mut found = vec![0xee; len as usize];
        let mut read = 0;
        loop {
            match self.open[descriptor].read_at(&mut found[read..], offset + read as u64).map_err(failed("read"))? {
                0 => break,
                more => read += more,
            }
        }
        compare(self.range(offset, len), &found[..read])
    }

    fn write(&mut self, descriptor: usize, offset: u64, data: &[u8]) -> Checked {
        self.open[descriptor].write_all_at(data, offset).map_err(failed("write"))?;
        self.lay(offset, data);
        Ok(())
    }

    fn append(&mut self, data: &[u8]) -> Checked {
        (&self.open[0]).write_all(data).map_err(failed("append"))?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn truncate(&mut self, descriptor: usize, to: u64) -> Checked {
        self.open[descriptor].set_len(to).map_err(failed("ftruncate"))?;
        self.bytes.resize(to as usize, 0);
        Ok(())
    }

    /// Empties it by opening it.
    fn empty(&mut self, descriptor: usize) -> Checked {
        let opened = File::options().read(true).write(true).truncate(true).open(&self.path);
        self.open[descriptor] = opened.map_err(failed("open"))?;
        self.bytes.clear();
        Ok(())
    }

    /// Maps the file, unless enough of it is mapped; says up to where it may be touched.
    fn map(&mut self, descriptor: usize) -> Result<usize, String> {
        let held = self.bytes.len();
        let mapped = self.mapping.as_ref().map_or(0, Mapping::len);
        // Half of what was mapped is as good a place to look at.
        if mapped < held / 2 || mapped == 0 {
            self.mapping = Some(Mapping::new(&self.open[descriptor], held).map_err(|e| format!("mmap: {e}"))?);
        }
        Ok(held.min(self.mapping.as_ref().map_or(0, Mapping::len)))
    }

    fn load(&mut self, descriptor: usize, offset: u64, len: u64) -> Checked {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let end = self.map(descriptor)?;
        let (start, end) = ((offset as usize).min(end), ((offset + len) as usize).min(end));
        let found = self.mapping.as_ref().map(|mapping| mapping.load(start, end - start)).unwrap_or_default();
        compare(&self.bytes[start..end], &found)
    }

    fn store(&mut self, descriptor: usize, offset: u64, data: &[u8]) -> Checked {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let end = self.map(descriptor)?;
        let (start, end) = ((offset as usize).min(end), (offset as usize + data.len()).min(end));
        let data = &data[..end - start];
        if let Some(mapping) = &mut self.mapping {
            mapping.store(start, data);
            self.stored = true;
        }
        self.lay(start as u64, data);
        Ok(())
    }

    fn zero(&mut self, descriptor: usize, how: FallocateFlags, offset: u64, len: u64) -> Checked {
        fallocate(&self.open[descriptor], how, offset, len).map_err(|e| format!("fallocate: {e}"))?;
        let end = match how.contains(FallocateFlags::KEEP_SIZE) {
            true => (offset + len).min(self.len()),
            false => offset + len,
        };
        if let Some(len) = end.checked_sub(offset).filter(|len| *len > 0) {
            self.lay(offset, &vec![0; len as usize]);
        }
        Ok(())
    }

    fn allocate(&mut self, descriptor: usize, how: FallocateFlags, offset: u64, len: u64) -> Checked {
        fallocate(&self.open[descriptor], how, offset, len).map_err(|e| format!("fallocate: {e}"))?;
        if !how.contains(FallocateFlags::KEEP_SIZE) && offset + len > self.len() {
            self.bytes.resize((offset + len) as usize, 0);
        }
        Ok(())
    }

    /// Follows data and holes from `offset` to the end: what is called a hole must be zeros.
    fn seek(&mut self, descriptor: usize, offset: u64) -> Checked {
        // The kernel asks the filesystem alone, which doesn't know of its dirty pages.
        self.sync_mapping();
        let file = &self.open[descriptor];
        let mut at = offset;
        while at < self.len() {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) if data >= at && data < self.len() => data,
                Err(Errno::NXIO) => self.len(),
                other => return Err(format!("SEEK_DATA from {at} gives {other:?}, of {}", self.len())),
            };
            if self.range(at, data - at).iter().any(|byte| *byte != 0) {
                return Err(format!("from {at} on is data, told to begin at {data}"));
            }
            if data == self.len() {
                return Ok(());
            }
            match seek(file, SeekFrom::Hole(data)) {
                Ok(hole) if hole > data && hole <= self.len() => at = hole,
                other => return Err(format!("SEEK_HOLE from {data} gives {other:?}, of {}", self.len())),
            }
        }
        match (seek(file, SeekFrom::Data(at)), seek(file, SeekFrom::Hole(at))) {
            (Err(Errno::NXIO), Err(Errno::NXIO)) => Ok(()),
            other => Err(format!("seeking from {at}, of {}, gives {other:?}", self.len())),
        }
    }

    fn replace(&mut self, descriptor: usize) -> Checked {
        let opened = File::options().read(true).write(true).open(&self.path);
        self.open[descriptor] = opened.map_err(failed("open"))?;
        Ok(())
    }
}

/// Bytes to write: mostly such as tell where they come from, sometimes zeros, which are no hole.
fn data(random: &mut crate::random::Random, len: u64) -> Vec<u8> {
    match random.below(8) {
        0 => vec![0; len as usize],
        _ => random.bytes(len as usize),
    }
}
