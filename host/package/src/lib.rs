//! Packages: manifest, weight sources, blob store, version identity, guest builds, checks.
