//! Test vectors: text files with real and broken bytes of a format, held against the code that makes and reads them.
//! A part of the tests of each crate that has formats; what a file looks like is in `docs/format.md`, "Test vectors".
//!
//! The code gives every vector once more, from fixed keys and seeded randomness: a file that says something else, one
//! that nobody made, or a missing one is a failure. With `P2PFS_WRITE_VECTORS=1` the files are written instead.

use std::{collections::BTreeSet, env, fs, path::Path};

/// What reading the bytes must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// They are taken, and encoded again they are the same.
    Ok,
    /// They are refused, with a reason that contains this.
    Refused(&'static str),
}

/// One vector.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    /// The file's name: for a broken one, the flaw.
    pub(crate) name: &'static str,
    /// Which decoder reads it.
    pub(crate) format: &'static str,
    /// Keys and other inputs, for those who write another implementation.
    pub(crate) inputs: String,
    pub(crate) expect: Expect,
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    pub(crate) fn ok(name: &'static str, format: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, format, inputs: "none".to_owned(), expect: Expect::Ok, bytes }
    }

    pub(crate) fn refused(name: &'static str, format: &'static str, why: &'static str, bytes: Vec<u8>) -> Self {
        Self { expect: Expect::Refused(why), ..Self::ok(name, format, bytes) }
    }

    pub(crate) fn with(self, inputs: impl Into<String>) -> Self {
        Self { inputs: inputs.into(), ..self }
    }

    fn text(&self) -> String {
        let expect = match &self.expect {
            Expect::Ok => "ok".to_owned(),
            Expect::Refused(why) => format!("refused: {why}"),
        };
        let hex: String = self.bytes.chunks(32).map(|line| format!("{}\n", hex(line))).collect();
        format!("format: {}\ninputs: {}\nexpect: {expect}\n\n{hex}", self.format, self.inputs)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes in a file's text; the header is compared as it stands.
fn bytes_in(name: &str, text: &str) -> Vec<u8> {
    let (_, hex) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name}: no empty line before the bytes"));
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b'\n').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_else(|| panic!("{name}: not hex")) as u8;
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty(), "{name}: half a byte");
    pairs.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect()
}

/// Holds the files in `folder` (below `tests/vectors`) against `vectors`, and reads each with `recode`: the bytes, encoded
/// again, or why they are refused.
pub(crate) fn check(folder: &str, vectors: &[Vector], recode: impl Fn(&Vector, &[u8]) -> Result<Vec<u8>, String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(folder);
    let names: BTreeSet<String> = vectors.iter().map(|vector| format!("{}.txt", vector.name)).collect();
    assert_eq!(names.len(), vectors.len(), "two vectors of one name");
    if env::var_os("P2PFS_WRITE_VECTORS").is_some() {
        fs::create_dir_all(&folder).expect("the folder can be made");
        for vector in vectors {
            fs::write(folder.join(format!("{}.txt", vector.name)), vector.text()).expect("a vector can be written");
        }
    }
    let files = fs::read_dir(&folder).expect("the vectors are there");
    let found: BTreeSet<String> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(found, names, "files in {}", folder.display());
    for vector in vectors {
        let name = vector.name;
        let text = fs::read_to_string(folder.join(format!("{name}.txt"))).expect("the file is there");
        let bytes = bytes_in(name, &text);
        assert_eq!(text, vector.text(), "{name}: what the code makes is not what the file says");
        match (recode(vector, &bytes), &vector.expect) {
            (Ok(again), Expect::Ok) => assert_eq!(hex(&again), hex(&bytes), "{name}: encoded again"),
            (Err(why), Expect::Refused(wanted)) => assert!(why.contains(wanted), "{name}: refused because of {why:?}"),
            (result, wanted) => panic!("{name}: {wanted:?} is wanted, reading gives {:?}", result.map(|b| b.len())),
        }
    }
}
