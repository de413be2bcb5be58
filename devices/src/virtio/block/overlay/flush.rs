//! Making durable what was written: the data first, then the bits that say it is there.

use std::io;
use std::sync::atomic::Ordering;

use super::super::medium::Medium;
use super::Overlay;
use super::header::{Header, State};

impl<M: Medium> Overlay<M> {
    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's; from the first sync that failed on, always.
    pub(in crate::virtio::block) fn flush(&self) -> io::Result<()> {
        let is_staged = self.stage();
        self.synced(self.medium.sync())?;
        if is_staged {
            self.write_staged()?;
            self.synced(self.medium.sync())?;
            self.committed();
        }
        Ok(())
    }

    /// Begins a flush of what was written so far, for who syncs without this type: sync; when this gave true,
    /// [`Overlay::write_staged`], sync and [`Overlay::committed`]; [`Overlay::synced`] after each sync. One at a time.
    pub(in crate::virtio::block) fn stage(&self) -> bool {
        self.bitmap.stage()
    }

    /// See [`Overlay::stage`].
    ///
    /// # Errors
    /// The host's; the next flush tries again.
    pub(in crate::virtio::block) fn write_staged(&self) -> io::Result<()> {
        self.name();
        self.bitmap.write_staged(&self.medium)
    }

    /// See [`Overlay::stage`].
    pub(in crate::virtio::block) fn committed(&self) {
        self.bitmap.committed();
    }

    /// Makes all of it durable and then, in its header, says that nobody writes to it any more. Nothing may be in flight.
    ///
    /// Until the header's sector is on the disk it is an overlay as before, and with it one that is sealed: it held all
    /// of its data then.
    ///
    /// # Errors
    /// The host's; it is as before then.
    pub(super) fn seal(&self) -> io::Result<()> {
        self.flush()?;
        self.name();
        self.enter(State::Sealed).inspect_err(|_| self.unseal())
    }

    /// Takes a seal back that nobody relied on yet.
    pub(super) fn unseal(&self) {
        if let Err(error) = self.enter(State::Open) {
            // Then no flush succeeds any more.
            self.is_broken.store(true, Ordering::Relaxed);
            tracing::error!("an overlay may stay sealed though it is written to: {error}");
        }
    }

    fn enter(&self, state: State) -> io::Result<()> {
        let header = Header {
            state,
            ..(*self.header).clone()
        };
        self.medium.write_bytes(0, &header.encode())?;
        self.synced(self.medium.sync())
    }

    /// Makes the name of a new file durable.
    fn name(&self) {
        if let Some(directory) = &self.directory
            && !self.is_named.swap(true, Ordering::Relaxed)
        {
            // Of a file system that cannot do this, the file's own sync is all there is.
            let _ = directory.sync_all();
        }
    }

    /// Takes note of how a sync ended.
    ///
    /// # Errors
    /// Those of `result`, and when a sync failed before.
    pub(in crate::virtio::block) fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.is_broken.store(true, Ordering::Relaxed);
        } else if self.is_broken.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        result
    }

    /// Whether the driver in charge never flushes.
    ///
    /// # Errors
    /// The host's, about what an earlier driver left to a flush.
    pub(in crate::virtio::block) fn set_write_through(
        &self,
        is_write_through: bool,
    ) -> io::Result<()> {
        self.is_write_through
            .store(is_write_through, Ordering::Relaxed);
        if is_write_through && self.bitmap.is_dirty() {
            self.flush()?;
        }
        Ok(())
    }
}

impl<M: Medium> Drop for Overlay<M> {
    /// What was written and not flushed is kept where that is possible: no promise, but as with a raw file.
    fn drop(&mut self) {
        if self.bitmap.is_dirty() {
            let _ = self.flush();
        }
    }
}
