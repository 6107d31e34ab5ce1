// Package ocisrc opens images where other tools keep them, as sources for
// package translate: registries, OCI image layouts, as directories and as archives, and
// the archives of docker save, in all layouts since Docker 1.10.
//
// Names inside a layout or an archive never lead out of it. Every index, manifest and config is
// checked against the digest and size that led to it; layers are not, Merge does
// that while it reads them.
package ocisrc
