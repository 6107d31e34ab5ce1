// Package assemble carries out a plan: it builds an image's filesystem in an
// empty directory out of seeds and chunks.
//
// Directories and everything that has no content come first. Then two things
// run side by side: contents that seeds have are cloned or copied, and the
// chunks of the others are fetched, many at a time, verified, and cut into
// contents in the order of the image's byte space, so that each content is
// written and hashed once, from its first byte to its last. A content becomes
// a file with its metadata only after its SHA-256 was found right. Hard links
// and the metadata of directories come last.
//
// Chunks may also be cut out of files of seeds that have other contents; those
// count as fetched ones do, and are fetched when the file has changed.
//
// A seed that turns out to have other bytes than the plan says costs the
// chunks of that content: after the first round they are planned and fetched
// as if no seed had had it.
//
// What a cut-off run leaves behind is of two kinds: the directory, which its
// owner throws away, and the fetched chunks, which are in Job.Cache as they
// were received and spare the next run their requests.
package assemble
