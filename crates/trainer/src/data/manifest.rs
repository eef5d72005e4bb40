//! What a data set is: its files, classes and statistics, where it comes from and on what terms.

use super::cifar::{self, Records};
use super::{DataError, Dataset, ImageFolder, Images, Split};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// How a data set's files hold images and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Record: label, then the red, green and blue planes.
    Cifar10,
    /// Record: coarse label, fine label, then the red, green and blue planes.
    Cifar100,
    /// A folder for each split with a folder for each class (ImageNet's `val/<wnid>/*.JPEG`), JPEG or PNG of any
    /// size.
    Folders,
}

impl Layout {
    /// Bytes before the pixels; the last of them is the label.
    #[must_use]
    pub const fn label_bytes(self) -> usize {
        match self {
            Self::Folders => 0,
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }
}

/// The archive that a data set is published in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Address of a `.tar.gz`.
    pub url: String,
    /// Its members that become files, by the files' names without extension.
    pub members: BTreeMap<String, String>,
}

/// One file of a data set; one folder of it where images are files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// The split that its images belong to.
    pub split: Split,
    /// Path within the data set's folder; it may be stored compressed, as `<path>.zst`.
    pub path: String,
    /// Number of images; not stated for folders.
    #[serde(default)]
    pub records: usize,
    /// SHA-256 of the plain content, hexadecimal; not stated for folders, nor where nobody publishes one: then size and
    /// labels alone are checked.
    #[serde(default)]
    pub sha256: String,
}

/// A file of `datasets/`: all that is known about a data set without having it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name on the command line.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Terms of use and source.
    pub terms: String,
    /// Where to fetch it, if it can be fetched.
    pub archive: Option<Archive>,
    /// How the files are to be read.
    pub layout: Layout,
    /// Pixels a side.
    pub resolution: usize,
    /// Mean of each channel, of pixels scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// Names of the classes, in label order.
    pub classes: Vec<String>,
    /// Names of the classes' folders, in label order, where images are files.
    #[serde(default)]
    pub folders: Vec<String>,
    /// Its files; those of one split are read one after the other.
    pub files: Vec<DataFile>,
}

/// A file or folder that [`Manifest::check`] found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedFile {
    /// The file as stored, compressed or not.
    pub path: PathBuf,
    /// Bytes of its plain content.
    pub bytes: u64,
    /// Images in it.
    pub records: usize,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`DataError::Io`] and [`DataError::Manifest`].
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.into(), source };
        Self::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// A manifest from its text; `path` is for error messages.
    ///
    /// # Errors
    /// [`DataError::Manifest`] says which entry is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, DataError> {
        let bad = |reason: String| DataError::Manifest { path: path.into(), reason };
        let manifest: Self = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
        manifest.fault().map_or(Ok(manifest), |fault| Err(bad(fault)))
    }

    /// Bytes of one record.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        self.layout.label_bytes() + 3 * self.resolution * self.resolution
    }

    /// The folder with the data set's files: `root` itself, or its subfolder of the data set's name.
    #[must_use]
    pub fn folder(&self, root: &Path) -> PathBuf {
        let holds_one = |file: &DataFile| {
            let path = root.join(&file.path);
            if self.layout == Layout::Folders {
                path.is_dir()
            } else {
                stored_path(&path).is_some()
            }
        };
        if self.files.iter().any(holds_one) { root.into() } else { root.join(&self.name) }
    }

    /// Reads every file below `root` to the end and compares size and SHA-256 of the plain content; where images
    /// are files, finds those of the splits that are there.
    ///
    /// # Errors
    /// [`DataError`] for the first file that is missing, unreadable or another.
    pub fn check(&self, root: &Path) -> Result<Vec<CheckedFile>, DataError> {
        let folder = self.folder(root);
        if self.layout == Layout::Folders {
            let there = self.files.iter().filter(|file| folder.join(&file.path).is_dir());
            return there.map(|file| ImageFolder::open(self, root, file.split)?.check()).collect();
        }
        let check = |file: &DataFile| {
            let mut content = self.open(&folder, file)?;
            let mut record = vec![0; self.record_bytes()];
            while content.next(&mut record)? {}
            let path = content.finish(&file.sha256)?;
            let bytes = (file.records * record.len()) as u64;
            Ok(CheckedFile { path, bytes, records: file.records })
        };
        self.files.iter().map(check).collect()
    }

    /// One split below `root`: in memory, or image by image from its files.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn images(&self, root: &Path, split: Split) -> Result<Box<dyn Images>, DataError> {
        self.first_images(root, split, usize::MAX)
    }

    /// The first images of a split.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn first_images(
        &self,
        root: &Path,
        split: Split,
        count: usize,
    ) -> Result<Box<dyn Images>, DataError> {
        Ok(match self.layout {
            Layout::Folders => Box::new(ImageFolder::open(self, root, split)?.limit(count)),
            Layout::Cifar10 | Layout::Cifar100 => Box::new(self.load_first(root, split, count)?),
        })
    }

    /// Reads one split from below `root` into memory; contents are checked as by [`Self::check`].
    ///
    /// # Errors
    /// [`DataError`] that names the file and, where it applies, the record.
    pub fn load(&self, root: &Path, split: Split) -> Result<Dataset, DataError> {
        self.load_first(root, split, usize::MAX)
    }

    /// The first images of a split alone; where images are files, no others are read.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_first(
        &self,
        root: &Path,
        split: Split,
        count: usize,
    ) -> Result<Dataset, DataError> {
        match self.layout {
            Layout::Folders => ImageFolder::open(self, root, split)?.load_first(self, count),
            Layout::Cifar10 | Layout::Cifar100 => Ok(self.load_records(root, split)?.limit(count)),
        }
    }

    fn load_records(&self, root: &Path, split: Split) -> Result<Dataset, DataError> {
        let folder = self.folder(root);
        let files: Vec<_> = self.files.iter().filter(|file| file.split == split).collect();
        if files.is_empty() {
            return Err(DataError::NoSplit { dataset: self.name.clone(), split });
        }
        let mut dataset = Dataset::empty(self, split);
        for file in files {
            let content = self.open(&folder, file)?;
            cifar::read(content, self.layout, &file.sha256, &mut dataset)?;
        }
        Ok(dataset)
    }

    fn open(&self, folder: &Path, file: &DataFile) -> Result<Records, DataError> {
        let plain = folder.join(&file.path);
        let Some(path) = stored_path(&plain) else {
            let (dataset, split) = (self.name.clone(), file.split);
            return Err(DataError::Missing { dataset, split, path: plain });
        };
        let io = |source| DataError::Io { path: path.clone(), source };
        let opened = File::open(&path).map_err(io)?;
        let content: Box<dyn Read> = if path.extension().is_some_and(|e| e == "zst") {
            Box::new(zstd::Decoder::new(opened).map_err(io)?)
        } else {
            Box::new(BufReader::with_capacity(1 << 20, opened))
        };
        Ok(Records::new(path, content, file.records))
    }

    /// What is wrong with the entries, beyond what their types exclude.
    fn fault(&self) -> Option<String> {
        if self.name.is_empty() || self.name.contains(['/', '\\', '.']) {
            return Some(format!("name: {:?} cannot be a folder's name", self.name));
        }
        if !(1..=1024).contains(&self.resolution) {
            return Some(format!("resolution: expected 1 to 1024, found {}", self.resolution));
        }
        let (classes, folders) = (self.classes.len(), self.folders.len());
        let most = if self.layout == Layout::Folders { 100_000 } else { 256 };
        if !(1..=most).contains(&classes) {
            return Some(format!("classes: expected 1 to {most}, found {classes}"));
        }
        let expected = if self.layout == Layout::Folders { classes } else { 0 };
        if folders != expected {
            return Some(format!("folders: expected {expected} names, found {folders}"));
        }
        let usable = |x: &f32| x.is_finite();
        if !self.mean.iter().all(usable) || !self.std.iter().all(|x| usable(x) && *x > 0.0) {
            return Some("mean, std: expected finite values and positive deviations".into());
        }
        if self.files.is_empty() {
            return Some("files: expected at least one".into());
        }
        self.files.iter().find_map(|file| file_fault(file, self.layout))
    }
}

fn file_fault(file: &DataFile, layout: Layout) -> Option<String> {
    let path = Path::new(&file.path);
    let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if file.path.is_empty() || !inside {
        return Some(format!("files: {:?} is no path within the data set's folder", file.path));
    }
    if layout == Layout::Folders {
        return None;
    }
    if file.records == 0 || file.records > 100_000_000 {
        let found = file.records;
        return Some(format!("files: {}: expected 1 to 1e8 records, found {found}", file.path));
    }
    let digits = file.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    (!file.sha256.is_empty() && (file.sha256.len() != 64 || !digits))
        .then(|| format!("files: {}: sha256 is 64 lower-case hexadecimal digits", file.path))
}

/// The file as it lies there: plain, or else compressed.
fn stored_path(plain: &Path) -> Option<PathBuf> {
    let mut compressed = plain.as_os_str().to_owned();
    compressed.push(".zst");
    [plain.to_owned(), compressed.into()].into_iter().find(|path| path.is_file())
}

/// Lower-case hexadecimal digits of a finished hash.
pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: &str = r#"
        name = "tiny"
        title = "Tiny"
        terms = "none"
        layout = "cifar100"
        resolution = 2
        mean = [0.5, 0.5, 0.5]
        std = [0.25, 0.25, 0.25]
        classes = ["cat", "dog", "owl"]
    "#;

    /// Three images of four pixels: coarse label, label, 12 bytes each.
    fn content() -> Vec<u8> {
        let record = |i: u8| [9, i].into_iter().chain((0..12).map(move |p| 16 * i + p));
        (0..3).flat_map(record).collect()
    }

    fn manifest(content: &[u8]) -> Manifest {
        let sha256 = hexadecimal(Sha256::new_with_prefix(content));
        let file = |split, records| {
            format!(
                "[[files]]\nsplit = \"{split}\"\npath = \"{split}.bin\"\n\
                 records = {records}\nsha256 = \"{sha256}\"\n"
            )
        };
        let text = format!("{LAYOUT}\n{}{}", file("train", 3), file("test", 3));
        Manifest::parse(&text, Path::new("tiny.toml")).expect("a good manifest")
    }

    /// A folder with this as `train.bin`.
    fn folder(content: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("train.bin"), content).expect("written");
        folder
    }

    fn load(stored: &[u8]) -> Result<Dataset, DataError> {
        manifest(&content()).load(folder(stored).path(), Split::Train)
    }

    #[test]
    fn images_and_labels_come_out_as_stored() {
        let dataset = load(&content()).expect("whole");
        assert_eq!((dataset.len(), dataset.labels()), (3, [0, 1, 2].as_slice()));
        assert_eq!(dataset.image(2), (32..44).collect::<Vec<u8>>());
        assert!(dataset.image(3).is_empty());
        let owls = dataset.only_classes(&[2, 0]).expect("known classes");
        assert_eq!((owls.labels(), owls.classes()[0].as_str()), ([1, 0].as_slice(), "owl"));
        assert_eq!(owls.image(0), dataset.image(0));
        assert!(matches!(dataset.only_classes(&[3]), Err(DataError::Class { found: 3, .. })));
        let fewer = dataset.limit(1);
        assert_eq!((fewer.len(), fewer.image(1).len()), (1, 0));
    }

    #[test]
    fn classes_are_found_among_a_networks_labels_by_name() {
        let dataset = load(&content()).expect("whole");
        let places = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
            crate::data::class_labels(&dataset, &labels)
        };
        assert_eq!(places(&[]).expect("by number"), [0, 1, 2]);
        assert_eq!(places(&["cat", "dog", "owl"]).expect("its own"), [0, 1, 2]);
        assert_eq!(places(&["ape", "owl", "cat", "bee", "dog"]).expect("all known"), [2, 4, 1]);
        let error = places(&["cat", "owl"]).expect_err("no dog").to_string();
        assert!(error.contains("dog") && error.contains("tiny"), "{error}");
    }

    #[test]
    fn compressed_files_and_subfolders_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("tiny");
        std::fs::create_dir(&folder).expect("created");
        let compressed = zstd::encode_all(content().as_slice(), 3).expect("compressed");
        for split in ["train", "test"] {
            std::fs::write(folder.join(format!("{split}.bin.zst")), &compressed).expect("written");
        }
        let manifest = manifest(&content());
        assert_eq!(manifest.load(root.path(), Split::Test).expect("whole").len(), 3);
        let checked = manifest.check(root.path()).expect("whole");
        assert_eq!((checked.len(), checked[0].bytes), (2, 42));

        std::fs::write(folder.join("test.bin.zst"), &compressed[..20]).expect("written");
        assert!(manifest.check(root.path()).is_err());
    }

    #[test]
    fn damaged_files_are_refused_by_name_and_record() {
        let good = content();
        let short = load(&good[..30]);
        assert!(matches!(short, Err(DataError::Short { record: 2, expected: 3, .. })), "{short:?}");
        let long = load(&[good.clone(), vec![0]].concat());
        assert!(matches!(long, Err(DataError::Long { expected: 3, .. })), "{long:?}");
        let mut bad_label = good.clone();
        bad_label[14 + 1] = 3;
        let bad_label = load(&bad_label);
        assert!(
            matches!(bad_label, Err(DataError::Label { record: 1, found: 3, classes: 3, .. })),
            "{bad_label:?}"
        );
        let mut bad_pixel = good.clone();
        bad_pixel[20] ^= 1;
        assert!(matches!(load(&bad_pixel), Err(DataError::Digest { .. })));
        let missing = manifest(&good).load(folder(&good).path(), Split::Test);
        assert!(matches!(missing, Err(DataError::Missing { split: Split::Test, .. })));
    }

    #[test]
    fn bad_manifests_say_what_is_wrong() {
        let with = |from: &str, to: &str| {
            let file =
                "[[files]]\nsplit = \"train\"\npath = \"train.bin\"\nrecords = 3\nsha256 = \"";
            let text = format!("{LAYOUT}{file}{}\"", "0".repeat(64)).replace(from, to);
            Manifest::parse(&text, Path::new("tiny.toml")).map_err(|e| e.to_string())
        };
        assert!(with("tiny", "fine").is_ok());
        let cases = [
            ("name = \"tiny\"", "name = \"../up\"", "name"),
            ("\"train.bin\"", "\"/etc/passwd\"", "/etc/passwd"),
            ("records = 3", "records = 0", "records"),
            ("cifar100", "mnist", "mnist"),
            ("title", "titel", "titel"),
            ("0.25]", "0.0]", "std"),
            ("resolution = 2", "resolution = 0", "resolution"),
            ("000\"", "00g\"", "sha256"),
        ];
        for (from, to, named) in cases {
            let error = with(from, to).expect_err(named);
            assert!(error.contains(named) && error.contains("tiny.toml"), "{error}");
        }
    }
}
