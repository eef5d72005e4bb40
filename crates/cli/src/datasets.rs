//! The data sets that the command line knows by name.

use anyhow::{Context as _, Result, bail};
use copriv_trainer::data::{Dataset, Images, Layout, Manifest, Split};
use std::path::{Path, PathBuf};

/// The manifests of `datasets/`, built in so that the binary knows them wherever it runs.
const MANIFESTS: [(&str, &str); 4] = [
    ("datasets/cifar10.toml", include_str!("../../../datasets/cifar10.toml")),
    ("datasets/cifar100.toml", include_str!("../../../datasets/cifar100.toml")),
    ("datasets/cifar100_sample.toml", include_str!("../../../datasets/cifar100_sample.toml")),
    ("datasets/imagenet.toml", include_str!("../../../datasets/imagenet.toml")),
];

/// All data sets known by name.
///
/// # Errors
/// Where a built-in manifest is wrong.
pub fn all() -> Result<Vec<Manifest>> {
    MANIFESTS.iter().map(|(path, text)| Ok(Manifest::parse(text, Path::new(path))?)).collect()
}

/// The data set of this name, or of this manifest file.
///
/// # Errors
/// Where there is none, naming those there are.
pub fn find(name: &str) -> Result<Manifest> {
    if name.ends_with(".toml") {
        return Ok(Manifest::read(Path::new(name))?);
    }
    let known = all()?;
    let names: Vec<String> = known.iter().map(|manifest| manifest.name.clone()).collect();
    match known.into_iter().find(|manifest| manifest.name == name) {
        Some(manifest) => Ok(manifest),
        None => bail!(
            "no data set is called {name:?}; known are {} (or give a manifest's path)",
            names.join(", ")
        ),
    }
}

/// Loads the first images of one split (or all) from `folder` or else from `datasets/`.
///
/// # Errors
/// Where the data set is not there or damaged.
pub fn load(
    manifest: &Manifest,
    folder: Option<&Path>,
    split: Split,
    count: Option<usize>,
) -> Result<Dataset> {
    let count = count.unwrap_or(usize::MAX);
    manifest.load_first(&root(folder), split, count).with_context(|| remedy(manifest))
}

/// The first images of one split (or all) from `folder` or else from `datasets/`, not in memory where images are files.
///
/// # Errors
/// Where the data set is not there or damaged.
pub fn images(
    manifest: &Manifest,
    folder: Option<&Path>,
    split: Split,
    count: Option<usize>,
) -> Result<Box<dyn Images>> {
    let count = count.unwrap_or(usize::MAX);
    manifest.first_images(&root(folder), split, count).with_context(|| remedy(manifest))
}

/// Where a data set comes from, in a few words.
pub fn source(manifest: &Manifest) -> &str {
    match (&manifest.archive, manifest.layout) {
        (Some(archive), _) => &archive.url,
        (None, Layout::Folders) => "to be had from its publisher",
        (None, _) => "comes with the repository",
    }
}

fn root(folder: Option<&Path>) -> PathBuf {
    folder.map_or_else(|| PathBuf::from("datasets"), Path::to_owned)
}

/// What to do where a data set cannot be loaded.
pub fn remedy(manifest: &Manifest) -> String {
    let name = &manifest.name;
    let fetch = if manifest.archive.is_some() {
        format!(", or run `copriv data fetch {name}`")
    } else {
        String::new()
    };
    format!("no usable data set {name}; give its folder with --data{fetch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_sound_and_found_by_name() {
        for manifest in all().expect("all parse") {
            assert_eq!(find(&manifest.name).expect("known"), manifest);
        }
        let error = find("mnist").expect_err("unknown").to_string();
        assert!(error.contains("cifar100_sample"), "{error}");
    }
}
