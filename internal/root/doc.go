// Package root keeps the images of a device: the directory that pull writes to and
// whose trees are always seeds. The layout and what it promises are in docs/format/root.md.
//
// A reader opens a root at any time and sees whole images only. A writer takes the
// lock ([Root.Lock]) and then builds a tree in [TempTree], commits it under a name
// and a tag, and prunes what nothing needs any more. Each of these steps leaves, when
// it is cut anywhere, a root in which every tag shows the tree it showed before or the
// one it was to show, and which the next writer puts in order.
//
// The package knows names and digests. What a manifest or a table of contents says is
// for its callers.
package root
