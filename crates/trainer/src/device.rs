//! The devices that training can run on.

use burn::tensor::Device;

/// A device that this build does not have, or no device at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DeviceError {
    #[error("no device is called {name:?}; known are cpu, ndarray, wgpu:N and cuda:N")]
    Unknown { name: String },
    #[error("this build has no device {name}: build CoPriv with `--features {feature}`")]
    NotBuilt { name: String, feature: &'static str },
    #[error("there is no {name}: this machine has {count} such devices, numbered from 0")]
    Absent { name: String, count: usize },
}

/// The device of this name, without autodiff: `cpu` is burn-flex, `ndarray` burn-ndarray, and `wgpu:N` and `cuda:N` are the cards in
/// the order in which the system lists them.
///
/// # Errors
/// [`DeviceError`] for a name that is none, that of a device which was not built in, or that of one which is not there.
pub fn parse(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown { name: name.to_owned() };
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::flex()),
        #[allow(deprecated)] // Kept as a second opinion on burn-flex while burn offers it.
        None if name == "ndarray" => Ok(Device::ndarray()),
        Some((kind @ ("wgpu" | "cuda"), index)) => {
            let index: usize = index.parse().map_err(|_| unknown())?;
            let (devices, feature) =
                if kind == "wgpu" { (wgpu(), "wgpu") } else { (cuda(), "cuda") };
            let name = name.to_owned();
            let Some(devices) = devices else {
                return Err(DeviceError::NotBuilt { name, feature });
            };
            let count = devices.len();
            devices.into_iter().nth(index).ok_or(DeviceError::Absent { name, count })
        }
        _ => Err(unknown()),
    }
}

/// The devices of a list `cuda:0,cuda:1`; a device may be named more than once.
///
/// # Errors
/// As [`parse`].
pub fn parse_list(names: &str) -> Result<Vec<Device>, DeviceError> {
    names.split(',').map(|name| parse(name.trim())).collect()
}

/// The graphics cards (and software in place of one) that the system lists; `None` where they were not built in.
#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Vec<Device>> {
    Some(Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec())
}

#[cfg(not(feature = "wgpu"))]
const fn wgpu() -> Option<Vec<Device>> {
    None
}

#[cfg(feature = "cuda")]
fn cuda() -> Option<Vec<Device>> {
    Some(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
}

#[cfg(not(feature = "cuda"))]
const fn cuda() -> Option<Vec<Device>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_name() {
        assert!(parse("cpu").is_ok() && parse("ndarray").is_ok());
        for name in ["", "gpu", "cuda", "cuda:x", "cpu:0", "wgpu:-1"] {
            assert_eq!(parse(name), Err(DeviceError::Unknown { name: name.into() }));
        }
    }

    #[test]
    fn lists_have_a_device_for_each_name() {
        assert_eq!(parse_list("cpu").map(|list| list.len()), Ok(1));
        assert_eq!(parse_list("cpu, ndarray,cpu").map(|list| list.len()), Ok(3));
        assert_eq!(parse_list("cpu,"), Err(DeviceError::Unknown { name: String::new() }));
    }

    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    #[test]
    fn a_card_that_is_not_there_is_an_error() {
        let name = if cfg!(feature = "wgpu") { "wgpu:999" } else { "cuda:999" };
        assert!(matches!(parse(name), Err(DeviceError::Absent { .. })));
    }

    #[test]
    fn missing_accelerators_name_the_feature() {
        let built = [("wgpu", cfg!(feature = "wgpu")), ("cuda", cfg!(feature = "cuda"))];
        for (feature, _) in built.into_iter().filter(|(_, built)| !built) {
            let error = parse(&format!("{feature}:0")).expect_err("not built in").to_string();
            assert!(error.contains(&format!("--features {feature}")), "{error}");
        }
    }
}
