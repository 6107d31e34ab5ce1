// Package archive does what casync's verbs do: it makes archives and indexes of
// directories and blobs, opens them again as one stream, and extracts, lists
// and digests that stream.
package archive
