//! Names of stores and of what is in them.

use super::StoreError;
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Its 16 bytes.
            #[must_use]
            pub const fn bytes(&self) -> [u8; 16] {
                self.0
            }

            /// The one with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id! {
    /// Tells a store from all others, drawn when it is made. A copy of a store has the same.
    StoreId
}

id! {
    /// Tells a prepared inference from all others: both parties contribute to it, and both call it so.
    RecordId
}

impl StoreId {
    /// A new one.
    ///
    /// # Errors
    /// [`StoreError::Randomness`].
    pub fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|source| StoreError::Randomness { source })?;
        Ok(Self(bytes))
    }
}
