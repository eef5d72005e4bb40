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
}

/// The device of this name, without autodiff: `cpu` is burn-flex, `ndarray` burn-ndarray.
///
/// # Errors
/// [`DeviceError`] for a name that is none, or that of a device which was not built in.
pub fn parse(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown { name: name.to_owned() };
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::flex()),
        #[allow(deprecated)] // Kept as a second opinion on burn-flex while burn offers it.
        None if name == "ndarray" => Ok(Device::ndarray()),
        Some((kind @ ("wgpu" | "cuda"), index)) => {
            let index = index.parse().map_err(|_| unknown())?;
            let (device, feature) =
                if kind == "wgpu" { (wgpu(index), "wgpu") } else { (cuda(index), "cuda") };
            let name = name.to_owned();
            device.ok_or(DeviceError::NotBuilt { name, feature })
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

#[cfg(feature = "wgpu")]
fn wgpu(index: usize) -> Option<Device> {
    use burn::tensor::DeviceKind;
    // Number 0 is the card that the graphics system prefers, whatever its kind.
    let kind = if index == 0 { DeviceKind::DefaultDevice } else { DeviceKind::DiscreteGpu(index) };
    Some(Device::wgpu(kind))
}

#[cfg(not(feature = "wgpu"))]
const fn wgpu(_index: usize) -> Option<Device> {
    None
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Option<Device> {
    Some(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
const fn cuda(_index: usize) -> Option<Device> {
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

    #[test]
    fn missing_accelerators_name_the_feature() {
        let built = [("wgpu", cfg!(feature = "wgpu")), ("cuda", cfg!(feature = "cuda"))];
        for (feature, _) in built.into_iter().filter(|(_, built)| !built) {
            let error = parse(&format!("{feature}:0")).expect_err("not built in").to_string();
            assert!(error.contains(&format!("--features {feature}")), "{error}");
        }
    }
}
