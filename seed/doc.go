// Package seed finds out what a device already has of an image, and plans the
// rest.
//
// A [Seed] is anything local that may hold contents an image needs. Contents
// are matched by their SHA-256 alone: path, owner, times, mode and neighbours
// of the seed's file do not matter. [Match] asks every seed once and yields a
// [Plan] that names the source of each content; [Plan.Cover] then chooses the
// chunks for the contents that no seed has, fewest stored bytes first, and
// makes the totals of the plan exact.
//
// Seeds are directory trees ([OpenDir]), trees whose table of contents is known
// ([NewTree]), and archives and OCI layouts, inside whose layers contents are
// addressed ([OpenArchive], [OpenLayout]). A [Memory] spares the reading of files
// that an earlier run has read.
//
// A seed is never trusted. What the plan says about it is what was true when
// it was looked at; whoever copies from it hashes the bytes again and treats a
// difference as a seed that changed, which costs a fetch, never a wrong file.
package seed
