//! `copriv data`: list, fetch and check data sets.

use crate::args::{Data, DataSet};
use crate::terminal::Terminal;
use crate::{datasets, format};
use anyhow::{Context as _, Result, bail, ensure};
use copriv_trainer::data::{Archive, Manifest};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;

pub fn run(args: &Data, terminal: &Terminal) -> Result<()> {
    match args {
        Data::List => list(terminal),
        Data::Check(args) => check(&datasets::find(&args.name)?, &args.root, terminal),
        Data::Fetch(args) => fetch(args, terminal),
    }
}

fn list(terminal: &Terminal) -> Result<()> {
    let rows = datasets::all()?.into_iter().map(|manifest| {
        let images: usize = manifest.files.iter().map(|file| file.records).sum();
        let side = manifest.resolution;
        let source = datasets::source(&manifest).to_owned();
        let images = if images == 0 { "any".into() } else { images.to_string() };
        let sizes = [manifest.classes.len().to_string(), images, format!("{side}x{side}")];
        [vec![manifest.name], sizes.to_vec(), vec![source]].concat()
    });
    let header = ["name", "classes", "images", "size", "source"].map(str::to_owned).to_vec();
    terminal.data(format::table(header, rows, [1, 2]))?;
    Ok(())
}

fn check(manifest: &Manifest, root: &Path, terminal: &Terminal) -> Result<()> {
    let is_summed =
        !manifest.files.is_empty() && manifest.files.iter().all(|file| !file.sha256.is_empty());
    for file in manifest.check(root)? {
        let size = format::bytes(file.bytes);
        let found = if is_summed { "checksum as in the manifest" } else { "no checksum is known" };
        terminal.data(format_args!(
            "{}: {} images, {size}, {found}",
            file.path.display(),
            file.records
        ))?;
    }
    Ok(())
}

/// Downloads into a folder beside the place, checks, and only then puts it there.
fn fetch(args: &DataSet, terminal: &Terminal) -> Result<()> {
    let manifest = datasets::find(&args.name)?;
    let Some(archive) = &manifest.archive else {
        bail!("{} {}; there is nothing to fetch", manifest.name, datasets::source(&manifest));
    };
    let target = args.root.join(&manifest.name);
    ensure!(
        !target.exists(),
        "{} is already there; check it with `copriv data check`",
        target.display()
    );
    terminal.say(format_args!("{}: {}", manifest.title, manifest.terms.trim()));

    std::fs::create_dir_all(&args.root)
        .with_context(|| format!("cannot make the folder {}", args.root.display()))?;
    let staging = tempfile::tempdir_in(&args.root)?;
    download(archive, staging.path(), terminal)
        .with_context(|| format!("cannot fetch {}", archive.url))?;
    manifest.check(staging.path())?;
    std::fs::rename(staging.path(), &target)
        .with_context(|| format!("cannot make the folder {}", target.display()))?;
    check(&manifest, &args.root, terminal)
}

fn download(archive: &Archive, folder: &Path, terminal: &Terminal) -> Result<()> {
    let response = ureq::get(&archive.url).call()?;
    let body = response.into_body();
    let bar = terminal.byte_bar("fetch", body.content_length().unwrap_or(0));
    let read = bar.wrap_read(body.into_reader());
    unpack(read, archive, folder)?;
    bar.finish_and_clear();
    Ok(())
}

/// Takes the archive's members that the manifest names, and nothing else.
fn unpack(read: impl Read, archive: &Archive, folder: &Path) -> Result<()> {
    let mut found = 0;
    let mut members = tar::Archive::new(GzDecoder::new(read));
    for member in members.entries()? {
        let mut member = member?;
        let path = member.path()?.into_owned();
        let wanted = archive.members.iter().find(|(_, name)| Path::new(name.as_str()) == path);
        if let Some((name, _)) = wanted {
            let mut file = std::fs::File::create(folder.join(format!("{name}.bin")))?;
            std::io::copy(&mut member, &mut file)?;
            found += 1;
        }
    }
    ensure!(found == archive.members.len(), "the archive lacks some of its known members");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::collections::BTreeMap;

    fn archive(member: &str) -> Archive {
        let members = BTreeMap::from([("train".to_owned(), member.to_owned())]);
        Archive { url: "http://127.0.0.1/x.tar.gz".into(), members }
    }

    fn tarball(path: &str, content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).expect("appends");
        tar.into_inner().and_then(GzEncoder::finish).expect("finishes")
    }

    #[test]
    fn members_become_files_and_nothing_else_does() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = tarball("set/train.bin", b"records");
        unpack(bytes.as_slice(), &archive("set/train.bin"), folder.path()).expect("unpacks");
        assert_eq!(std::fs::read(folder.path().join("train.bin")).expect("there"), b"records");
    }

    #[test]
    fn a_foreign_archive_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = tarball("other.bin", b"records");
        assert!(unpack(bytes.as_slice(), &archive("set/train.bin"), folder.path()).is_err());
        assert!(unpack(b"no gzip".as_slice(), &archive("a"), folder.path()).is_err());
    }
}
