//! Client for the microVM socket API.
