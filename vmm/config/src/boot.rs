//! What the guest boots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `PUT /boot-source`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// Kernel image: an ELF `vmlinux` or a bzImage.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kernel_image_path: PathBuf,
    /// Initial RAM disk.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub initrd_path: Option<PathBuf>,
    /// Kernel command line; absent means the built-in default, `""` means empty.
    pub boot_args: Option<String>,
}
