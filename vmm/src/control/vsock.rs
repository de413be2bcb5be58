//! `/vsock`.

use devices::virtio::vsock::Vsock;

use super::{BEFORE_START, Command, CommandError};
use crate::configuration::Attachment;
use crate::{Lifecycle, Vm, process};

/// `PUT /vsock`.
pub struct PutVsock(pub vm_config::Vsock);

impl Command for PutVsock {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let stated = self.0;
        let old = vm.config.vsock.as_mut();
        if let Some(old) = old.filter(|old| old.config.uds_path == stated.uds_path) {
            // The same socket, unless somebody removed it: then nobody can reach it any more.
            if stated.uds_path.exists()
                && let Some(device) = old.device_mut()
            {
                device.set_guest_cid(stated.guest_cid);
                old.config = stated;
                return Ok(());
            }
            old.close();
        }
        let device = Vsock::open(&stated)?;
        process::remove_at_end(Some(stated.uds_path.clone()));
        vm.config.vsock = Some(Attachment::new(stated, device));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use devices::virtio::VirtioDevice;
    use serde_json::json;

    use super::*;
    use crate::vm::tests::vm;

    #[test]
    fn a_vsock_outlives_a_refused_replacement() {
        let mut vm = vm();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |vm: &mut Vm, cid: u32, name: &str| {
            let vsock = json!({ "guest_cid": cid, "uds_path": path(name) });
            vm.execute(PutVsock(serde_json::from_value(vsock).unwrap()))
        };
        let cid = |vm: &Vm| vm.config.to_stated().vsock.unwrap().guest_cid;
        put(&mut vm, 3, "first").unwrap();
        let waiting = UnixStream::connect(path("first")).unwrap();
        std::fs::write(path("taken"), "").unwrap();
        for refused in ["taken", "no/such"] {
            assert!(put(&mut vm, 4, refused).is_err());
            assert_eq!(cid(&vm), 3);
            UnixStream::connect(path("first")).unwrap();
        }
        // The same socket again: who waits there stays.
        put(&mut vm, 5, "first").unwrap();
        assert_eq!(cid(&vm), 5);
        waiting.set_nonblocking(true).unwrap();
        let read = (&waiting).read(&mut [0]).unwrap_err();
        assert_eq!(read.kind(), ErrorKind::WouldBlock);
        let attachment = vm.config.vsock.as_mut().unwrap();
        let device = attachment.device_mut().unwrap();
        assert_eq!(device.config_space(), 5_u64.to_le_bytes());
        // Made anew when somebody removed it.
        std::fs::remove_file(path("first")).unwrap();
        put(&mut vm, 6, "first").unwrap();
        UnixStream::connect(path("first")).unwrap();
        put(&mut vm, 7, "second").unwrap();
        assert!(!path("first").exists() && path("second").exists());
    }
}
