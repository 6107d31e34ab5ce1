// Package caibx reads and writes casync's chunk indexes: .caibx for a blob,
// .caidx for a directory tree. Both have one layout (docs/format/chunks.md,
// section 3).
//
// An index is not authenticated and nothing in it covers it as a whole: one
// that lost its last chunk is a valid index of a shorter stream. Who needs more
// pins the digest of the index itself. [Read] guarantees that what it returns
// is consistent: sizes in casync's limits, offsets ascending, no chunk above
// the maximum, nothing behind the end.
package caibx
