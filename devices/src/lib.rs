//! What a guest can touch.
