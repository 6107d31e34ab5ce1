// Package inflate reads gzip files (RFC 1952), members one after the other.
//
// It is there for layers of images, of which decompression is a large part of the
// work: it takes about half the time of the fastest other decoder in Go
// (BenchmarkReader), by wider tables, a bit buffer of 64 bits that is filled by one
// load, and output that is its own window. It accepts what compress/gzip accepts, which
// a fuzz test compares it with.
package inflate
