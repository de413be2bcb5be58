//! One virtqueue.

/// A split virtqueue, owned by a worker while the device runs.
#[derive(Debug)]
pub struct Queue;
