//! What a user can say about a microVM.
