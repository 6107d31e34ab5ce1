package translate

import (
	"cmp"
	"math"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Limits bound what the layers of one image may ask for. A field that is zero
// or negative means its default.
type Limits struct {
	// Bytes bounds the uncompressed layers together, and the contents of their
	// files together (sparse files have more content than tar). Default 64 GiB.
	Bytes int64
	// Entries bounds the tar entries of all layers. Memory grows with them, by
	// some 300 bytes each. Default DefaultEntries.
	Entries int
	// Metadata bounds the bytes of all names, link targets and xattrs, which
	// are in memory too. Default 64 MiB.
	Metadata int64
	// Path bounds the bytes of one path as it is written, of its directory once
	// symlinks are resolved, and of one link target. Default and highest: what
	// a TOC takes, 4,095.
	Path int
	// XAttr bounds the bytes of one xattr's value. Default and highest: what a
	// TOC takes, 65,536.
	XAttr int
}

// DefaultEntries is the default of Limits.Entries: many times what large images have,
// and what can be published in 256 MB of memory.
const DefaultEntries = 1 << 19

func (l Limits) withDefaults() Limits {
	positive := func(v, def int64) int64 { return cmp.Or(max(v, 0), def) }
	return Limits{
		Bytes:    positive(l.Bytes, 64<<30),
		Entries:  int(min(positive(int64(l.Entries), DefaultEntries), math.MaxInt32)),
		Metadata: positive(l.Metadata, 64<<20),
		Path:     int(min(positive(int64(l.Path), toc.MaxTarget), toc.MaxTarget)),
		XAttr:    int(min(positive(int64(l.XAttr), toc.MaxXAttrValue), toc.MaxXAttrValue)),
	}
}

// MergeOptions steer Merge. The zero value works.
type MergeOptions struct {
	Limits Limits
	// TempDir is where the unnamed file lies that keeps the contents until the
	// tree is closed; it needs as much space as they have bytes, twins counted
	// once. Default /var/tmp, which unlike /tmp is seldom kept in memory.
	TempDir string
}
