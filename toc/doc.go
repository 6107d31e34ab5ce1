// Package toc is the table of contents of an image's filesystem: every node
// with all its metadata, and for each regular file the SHA-256 of its content.
//
// The TOC is the authority on what an image holds. Its canonical bytes
// (docs/format/toc.md) give it an identity that does not depend on how an image
// was layered, packed or ordered, and the projection (docs/format/projection.md)
// computes from it alone the layout of the catar stream that casync reads.
//
// The package touches neither disk nor network: contents come from a Source.
package toc
