package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// Change is one difference between two archives or blobs.
type Change struct {
	// Kind is '+' for a node that only the second has, '-' for one that only the
	// first has, '~' for one that differs.
	Kind byte
	// Path is that of the node; of a blob, its first byte that differs.
	Path string
	// What says in what a node differs: content, type, mode, owner, names, time,
	// xattrs, acl, selinux, capabilities, flags, project, target or device.
	What []string
}

// Diff reports how b differs from a, in the order of the archives. Both are
// archives, by whatever means, or both are blobs. Of archives only what both
// record is compared, times as exactly as the coarser one has them.
func Diff(ctx context.Context, a, b *Input, report func(Change) error) error {
	if a.IsArchive() != b.IsArchive() {
		return fmt.Errorf("archive: %w: one of %s and %s is a tree, the other a blob: compare two of a kind", ErrUsage, a.name, b.name)
	}
	err := a.Read(ctx, func(ctx context.Context, ra io.Reader) error {
		return b.Read(ctx, func(_ context.Context, rb io.Reader) error {
			if !a.IsArchive() {
				return diffBlobs(ra, rb, report)
			}
			d := &differ{a: newSide(a, ra), b: newSide(b, rb), report: report}
			return d.run()
		})
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// diffBlobs reports the first byte that differs.
func diffBlobs(a, b io.Reader, report func(Change) error) error {
	bufA, bufB := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := 0; ; {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if x, y := bufA[:n], bufB[:m]; !bytes.Equal(x, y) {
			for i := 0; i < n && i < m && x[i] == y[i]; i++ {
				at++
			}
			if err := report(Change{Kind: '~', Path: fmt.Sprintf("byte %d", at), What: []string{"content"}}); err != nil {
				return err
			}
			return errStop
		}
		if errA != nil { // the end of both, as all bytes were the same
			return nil //nolint:nilerr // it is io.EOF or io.ErrUnexpectedEOF
		}
		at += n
	}
}

// side is one of the two archives.
type side struct {
	in    *Input
	r     *catar.Reader
	entry *catar.Entry // nil at the end
	path  []string
	sum   []byte // digest of the contents of entry
}

func newSide(in *Input, r io.Reader) *side { return &side{in: in, r: in.reader(r)} }

// next moves to the next node. Contents are digested with one algorithm for
// both sides.
func (s *side) next() error {
	e, err := s.r.Next()
	if errors.Is(err, io.EOF) {
		s.entry = nil
		return nil
	}
	if err != nil {
		return s.in.fault(err)
	}
	s.entry = e
	if e.Depth == 0 {
		return nil
	}
	s.path = append(s.path[:e.Depth-1], e.Name)
	h := chunk.SHA512_256.New()
	if _, err := io.Copy(h, s.r); err != nil {
		return s.in.fault(err)
	}
	s.sum = h.Sum(s.sum[:0])
	return nil
}

// skipped reports whether the root is not the archive's.
func (s *side) skipped() bool { return s.in.sub != nil && s.entry != nil && s.entry.Depth == 0 }

type differ struct {
	a, b   *side
	common catar.Flags
	unit   uint64 // of the coarser times
	report func(Change) error
}

func (d *differ) run() error {
	for _, s := range []*side{d.a, d.b} {
		if err := s.next(); err != nil {
			return err
		}
	}
	fa, fb := d.a.r.Flags(), d.b.r.Flags()
	d.common, d.unit = fa&fb, max(timeUnit(fa), timeUnit(fb))
	for d.a.entry != nil || d.b.entry != nil {
		order := d.order()
		if d.a.skipped() && d.b.skipped() {
			order = 0
		} else if err := d.compare(order); err != nil {
			return err
		}
		if order <= 0 {
			if err := d.a.next(); err != nil {
				return err
			}
		}
		if order >= 0 {
			if err := d.b.next(); err != nil {
				return err
			}
		}
	}
	return nil
}

// order tells which side's node comes first.
func (d *differ) order() int {
	switch {
	case d.a.entry == nil:
		return 1
	case d.b.entry == nil:
		return -1
	case d.a.entry.Depth == 0 || d.b.entry.Depth == 0:
		return cmp.Compare(d.a.entry.Depth, d.b.entry.Depth)
	}
	return slices.Compare(d.a.path, d.b.path)
}

// compare reports the nodes at the front of both sides, or of one.
func (d *differ) compare(order int) error {
	switch {
	case order < 0:
		return d.report(Change{Kind: '-', Path: d.a.name()})
	case order > 0:
		return d.report(Change{Kind: '+', Path: d.b.name()})
	}
	if what := d.what(); len(what) > 0 {
		return d.report(Change{Kind: '~', Path: d.a.name(), What: what})
	}
	return nil
}

func (s *side) name() string {
	if s.entry.Depth == 0 {
		return "."
	}
	return escape(strings.Join(s.path, "/"))
}

// what names the differences of two nodes of one name.
func (d *differ) what() []string {
	a, b := d.a.entry, d.b.entry
	if a.Mode&catar.ModeType != b.Mode&catar.ModeType {
		return []string{"type"}
	}
	fa, fb := d.a.r.Flags(), d.b.r.Flags()
	const permissions = catar.WithPermissions | catar.WithACL
	both := func(f catar.Flags) bool { return fa.Has(f) && fb.Has(f) }
	var what []string
	add := func(differs bool, name string) {
		if differs {
			what = append(what, name)
		}
	}
	add(a.IsRegular() && (a.Size != b.Size || !bytes.Equal(d.a.sum, d.b.sum)), "content")
	add(a.Target != b.Target, "target")
	add(a.Major != b.Major || a.Minor != b.Minor, "device")
	add((both(permissions) || both(catar.WithReadOnly)) && a.Mode != b.Mode, "mode")
	add(both(idFlags) && (a.UID != b.UID || a.GID != b.GID), "owner")
	add(both(catar.WithUserNames) && (a.User != b.User || a.Group != b.Group), "names")
	add(both(timeFlags) && a.MTime/d.unit != b.MTime/d.unit, "time")
	add(both(catar.WithXAttrs) && !slices.EqualFunc(a.XAttrs, b.XAttrs, equalXAttrs), "xattrs")
	add(both(catar.WithACL) && !equalACLs(a, b), "acl")
	add(both(catar.WithSELinux) && a.SELinux != b.SELinux, "selinux")
	add(both(catar.WithFCaps) && !bytes.Equal(a.FCaps, b.FCaps), "capabilities")
	add(both(catar.WithQuotaProjID) && a.ProjID != b.ProjID, "project")
	add((a.FileFlags^b.FileFlags)&d.common != 0, "flags")
	return what
}

func equalXAttrs(x, y catar.XAttr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) }

// equalACLs compares the ACLs of two nodes as the kernel has them.
func equalACLs(a, b *catar.Entry) bool {
	text := func(e *catar.Entry) string {
		var s []byte
		if e.ACL != nil {
			s = e.ACL.Posix(e.Mode &^ 0o7777).XAttr()
		}
		if e.DefaultACL != nil {
			s = append(append(s, '/'), e.DefaultACL.XAttr()...)
		}
		return string(s)
	}
	return text(a) == text(b)
}

// timeUnit returns the unit of an archive's times, in nanoseconds.
func timeUnit(f catar.Flags) uint64 {
	switch {
	case f.Has(catar.WithNsecTime):
		return 1
	case f.Has(catar.WithUsecTime):
		return 1e3
	case f.Has(catar.WithSecTime):
		return 1e9
	}
	return 2e9
}
