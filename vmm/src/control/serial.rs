//! `/serial`.

use vm_config::SerialConfig;

use super::{BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `PUT /serial`.
pub struct PutSerial(pub SerialConfig);

impl Command for PutSerial {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    /// The file is opened at the start.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let bucket = self.0.rate_limiter;
        if bucket.is_some_and(|bucket| bucket.size > 0 && bucket.refill_time > 0) {
            return Err(CommandError::NotSupported("serial rate_limiter"));
        }
        vm.config.serial = self.0;
        Ok(())
    }
}
