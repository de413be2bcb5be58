//! Drives microVMs through their public API.
