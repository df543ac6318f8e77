//! `p2pfs proof`: that a device signed two different commits as one, for anybody to check.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use crypto::Fingerprint;
use volume::proof::{MAX_PROOF, Proof, Proven};

use crate::{
    cli::log::{self, ExportProof, ProofDeed},
    commands::listings::short,
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::{Because, Failure, Outcome},
    home::Home,
    open_volume::ask_or_open,
    output,
    report::moment,
};

pub(crate) fn run(args: log::Proof) -> Outcome<()> {
    match args.deed {
        ProofDeed::List(args) => {
            let Reply::Proofs(all) = ask_or_open(&Home::locate()?, &args.which, &Request::Proofs)? else {
                return Err(unexpected());
            };
            if args.json {
                return output::json(&all);
            }
            if all.is_empty() {
                return output::line("no proofs");
            }
            let rows = all.iter().map(|proof| {
                let (n, log, number) = (proof.n.to_string(), proof.log.to_string(), proof.number.to_string());
                vec![n, moment(proof.found), proof.user.clone(), short(&proof.device).to_owned(), log, number]
            });
            output::table(&["PROOF", "FOUND", "USER", "DEVICE", "LOG", "NUMBER"], &rows.collect::<Vec<_>>())
        }
        ProofDeed::Export(args) => export(&Home::locate()?, &args),
        ProofDeed::Verify(args) => verify(&args.file),
    }
}

fn export(home: &Home, args: &ExportProof) -> Outcome<()> {
    let request = Request::Proof { number: args.number };
    let Reply::Proof(proof) = ask_or_open(home, &args.which, &request)? else { return Err(unexpected()) };
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&args.file)?;
        file.write_all(&proof.0)?;
        file.sync_all()
    };
    match write() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::new("the output file exists already: choose another"))
        }
        written => written.because(|| format!("writing {}", args.file.display())),
    }?;
    let file = args.file.display();
    output::line(&format!("the proof is in {file}: anybody can check it with `p2pfs proof verify`"))
}

fn verify(file: &Path) -> Outcome<()> {
    let mut bytes = Vec::new();
    let limit = MAX_PROOF as u64 + 1;
    let read = match file == Path::new("-") {
        true => io::stdin().lock().take(limit).read_to_end(&mut bytes),
        false => fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.because(|| format!("reading {}", file.display()))?;
    let proven = Proof::decode(&bytes).and_then(|proof| proof.check());
    let proven = proven.map_err(|flaw| Failure::new(format!("not proven: {flaw}")))?;
    output::lines(&told(&proven))
}

fn told(proven: &Proven) -> Vec<String> {
    let Proven { volume, device, log, seq, commits } = proven;
    let mut lines = vec![
        format!("proven: device {} signed two different commits numbered {seq} in its log {log}", device.short()),
        format!("volume  {volume}"),
        format!("device  {device}"),
        format!("digits  {}", Fingerprint::of_device(device)),
    ];
    lines.extend(commits.iter().map(|(hash, time)| format!("commit  {hash}, dated {} by itself", moment(*time))));
    lines.push(
        "not proven: why. Its program may show different members different things; or the machine was put back from a \
         backup or a copy"
            .to_owned(),
    );
    lines
}
