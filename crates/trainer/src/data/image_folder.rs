//! Data sets of image files: a folder for each split, in it a folder for each class.

use super::manifest::Layout;
use super::picture::decode;
use super::{CheckedFile, DataError, Dataset, Images, Manifest, Split, read_picture};
use copriv_ir::Shape;
use image::RgbImage;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Endings of the files that count as images, in lower case.
const ENDINGS: [&str; 3] = ["jpeg", "jpg", "png"];

/// The images of one split as files, read one by one when asked for.
///
/// The order is the first image of each class, then the second of each, and so on, by the files'
/// names: the first images of a split are then of many classes.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    name: String,
    split: Split,
    shape: Shape,
    classes: Vec<String>,
    mean: [f32; 3],
    std: [f32; 3],
    folder: PathBuf,
    paths: Vec<PathBuf>,
    labels: Vec<usize>,
}

impl ImageFolder {
    /// Finds the images of `split` below `root`; classes without a folder have no images.
    ///
    /// # Errors
    /// [`DataError`] for a split that is not there, a folder that is no class's, or no images.
    pub fn open(manifest: &Manifest, root: &Path, split: Split) -> Result<Self, DataError> {
        let file = manifest.files.iter().find(|file| file.split == split);
        let file = file.filter(|_| manifest.layout == Layout::Folders);
        let dataset = manifest.name.clone();
        let Some(file) = file else { return Err(DataError::NoSplit { dataset, split }) };
        let folder = manifest.folder(root).join(&file.path);

        let mut images: Vec<(usize, usize, PathBuf)> = Vec::new();
        let classes: BTreeMap<&str, usize> =
            manifest.folders.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        let names = entries(&folder)?.into_iter().filter(|path| path.is_dir());
        for path in names {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(&label) = classes.get(name) else {
                return Err(DataError::UnknownFolder { dataset, path });
            };
            let pictures = entries(&path)?.into_iter().filter(|path| is_picture(path));
            images.extend(pictures.enumerate().map(|(number, path)| (number, label, path)));
        }
        if images.is_empty() {
            return Err(DataError::NoImages { dataset, split, path: folder });
        }
        images.sort();
        let shape = Shape::new(3, manifest.resolution, manifest.resolution);
        let (labels, paths) = images.into_iter().map(|(_, label, path)| (label, path)).unzip();
        let Manifest { classes, mean, std, .. } = manifest.clone();
        Ok(Self { name: dataset, split, shape, classes, mean, std, folder, paths, labels })
    }

    /// The first `count` images, or all where there are fewer.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Self {
        self.labels.truncate(count);
        self.paths.truncate(count);
        self
    }

    /// The files, in the order of the images.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Decodes the first `count` images into memory, threaded over images.
    pub(super) fn load_first(
        &self,
        manifest: &Manifest,
        count: usize,
    ) -> Result<Dataset, DataError> {
        let count = count.min(self.paths.len());
        let decoded: Vec<Vec<u8>> = (0..count)
            .into_par_iter()
            .map(|index| self.pixels(index).map(Cow::into_owned))
            .collect::<Result<_, _>>()?;
        let mut dataset = Dataset::empty(manifest, self.split);
        for (pixels, label) in decoded.iter().zip(&self.labels) {
            dataset.push(pixels, *label);
        }
        Ok(dataset)
    }

    /// How many images there are, and their bytes.
    pub(super) fn check(&self) -> Result<CheckedFile, DataError> {
        let size = |path: &PathBuf| {
            let io = |source| DataError::Io { path: path.clone(), source };
            Ok(std::fs::metadata(path).map_err(io)?.len())
        };
        let sizes: Vec<u64> = self.paths.iter().map(size).collect::<Result<_, DataError>>()?;
        let (path, records) = (self.folder.clone(), self.paths.len());
        Ok(CheckedFile { path, bytes: sizes.iter().sum(), records })
    }
}

impl Images for ImageFolder {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn statistics(&self) -> ([f32; 3], [f32; 3]) {
        (self.mean, self.std)
    }

    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        let Some(path) = self.paths.get(index) else { return Ok(Cow::Borrowed(&[])) };
        Ok(Cow::Owned(read_picture(path, self.shape.height)?))
    }

    fn picture(&self, index: usize) -> Result<RgbImage, DataError> {
        self.paths.get(index).map_or_else(|| Ok(RgbImage::default()), |path| decode(path))
    }
}

/// What is in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io { path: folder.into(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<_, DataError>>()?;
    paths.sort();
    Ok(paths)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn manifest() -> Manifest {
        let text = r#"
            name = "photos"
            title = "Photographs"
            terms = "none"
            layout = "folders"
            resolution = 4
            mean = [0.5, 0.5, 0.5]
            std = [0.25, 0.25, 0.25]
            classes = ["tench", "goldfish"]
            folders = ["n01", "n02"]
            [[files]]
            split = "train"
            path = "train"
            [[files]]
            split = "test"
            path = "val"
        "#;
        Manifest::parse(text, Path::new("photos.toml")).expect("sound")
    }

    /// Three images: two of the first class, one of the second; a file that is no image beside them.
    fn folder() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, red) in [("n02/a.png", 2), ("n01/b.JPEG", 9), ("n01/a.png", 1)] {
            let path = root.path().join("val").join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            RgbImage::from_pixel(4, 6, Rgb([red, 0, 0])).save(path).expect("written");
        }
        std::fs::write(root.path().join("val/n01/notes.txt"), "").expect("written");
        root
    }

    #[test]
    fn images_come_class_by_class_in_turn() {
        let root = folder();
        let images = ImageFolder::open(&manifest(), root.path(), Split::Test).expect("there");
        assert_eq!(images.labels(), [0, 1, 0]);
        assert_eq!(images.pixels(0).expect("decodes")[..2], [1, 1]);
        assert_eq!(images.pixels(1).expect("decodes").len(), 48);
        assert!(images.pixels(3).expect("nothing").is_empty());

        // The whole image, which is higher than the network's.
        assert_eq!(images.picture(2).expect("decodes").dimensions(), (4, 6));
        assert_eq!(images.clone().limit(2).labels(), [0, 1]);

        let loaded = manifest().load_first(root.path(), Split::Test, 2).expect("there");
        assert_eq!((loaded.len(), loaded.labels()), (2, [0, 1].as_slice()));
        assert_eq!(loaded.image(1), &*images.pixels(1).expect("decodes"));
        let checked = manifest().check(root.path()).expect("there");
        assert_eq!((checked.len(), checked[0].records), (1, 3));
    }

    #[test]
    fn what_is_missing_or_foreign_is_named() {
        let root = folder();
        let open = |split| ImageFolder::open(&manifest(), root.path(), split);
        assert!(matches!(open(Split::Train), Err(DataError::Io { .. })));
        std::fs::create_dir(root.path().join("train")).expect("made");
        assert!(matches!(open(Split::Train), Err(DataError::NoImages { .. })));
        std::fs::create_dir(root.path().join("val/n03")).expect("made");
        let error = open(Split::Test).expect_err("no class").to_string();
        assert!(error.contains("n03"), "{error}");

        std::fs::remove_dir(root.path().join("val/n03")).expect("removed");
        std::fs::write(root.path().join("val/n01/a.png"), "no image").expect("written");
        let images = open(Split::Test).expect("there");
        assert!(matches!(images.pixels(0), Err(DataError::Picture { .. })));
        assert!(manifest().load(root.path(), Split::Test).is_err());
    }
}
