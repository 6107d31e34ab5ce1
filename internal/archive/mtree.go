package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"
	"time"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// idFlags and timeFlags are the features that record owners and times.
const (
	idFlags   = catar.With16BitUIDs | catar.With32BitUIDs
	timeFlags = catar.WithNsecTime | catar.WithUsecTime | catar.WithSecTime | catar.With2SecTime
)

// MTree writes the nodes of an archive as casync's verb of that name does: in
// the format of mtree(5), all that the archive records of them and the digest
// of each file's contents. Where casync names the digest after its own option
// --digest, whatever the archive was made with, it is named after the archive's.
func MTree(ctx context.Context, in *Input, w io.Writer) error {
	return walk(ctx, in, func(path string, e *catar.Entry, r *catar.Reader) error {
		line := mtreeLine(path, e, r.Flags())
		if e.IsRegular() {
			alg := algorithm(r.Flags())
			h := alg.New()
			if _, err := io.Copy(h, r); err != nil {
				return err
			}
			line += fmt.Sprintf(" %sdigest=%x", strings.ReplaceAll(alg.String(), "-", ""), h.Sum(nil))
		}
		_, err := fmt.Fprintln(w, line)
		return err
	})
}

// mtreeTypes are the types of nodes by their names in mtree(5).
func mtreeType(mode uint32) string {
	switch mode & catar.ModeType {
	case catar.ModeSymlink:
		return "link"
	case catar.ModeDir:
		return "dir"
	case catar.ModeRegular:
		return "file"
	case catar.ModeSocket:
		return "socket"
	case catar.ModeChar:
		return "char"
	case catar.ModeBlock:
		return "block"
	}
	return "fifo"
}

func mtreeLine(path string, e *catar.Entry, f catar.Flags) string {
	var b strings.Builder
	add := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	add("%s type=%s mode=%04o", escape(path), mtreeType(e.Mode), e.Mode&0o7777)
	switch e.Mode & catar.ModeType {
	case catar.ModeRegular:
		add(" size=%d", e.Size)
	case catar.ModeSymlink:
		add(" link=%s", escape(e.Target))
	case catar.ModeBlock, catar.ModeChar:
		add(" device=linux,%d,%d", e.Major, e.Minor)
	}
	if f.Has(idFlags) {
		add(" uid=%d gid=%d", e.UID, e.GID)
	}
	if name := ownerName(e.User, e.UID, f); name != "" {
		add(" uname=%s", escape(name))
	}
	if name := ownerName(e.Group, e.GID, f); name != "" {
		add(" gname=%s", escape(name))
	}
	if flags := mtreeFlags(e, f); flags != "" {
		add(" flags=%s", flags)
	}
	if f.Has(timeFlags) {
		add(" time=%d.%09d", e.MTime/1e9, e.MTime%1e9)
	}
	return b.String()
}

// ownerName returns the name of an owner: that of root is not in the archive.
func ownerName(name string, id uint32, f catar.Flags) string {
	if name == "" && id == 0 && f.Has(catar.WithUserNames) {
		return "root"
	}
	return name
}

// mtreeFlags returns those of a node's file flags that mtree(5) knows. Of what
// cannot have any, casync says that all are set; so do we.
func mtreeFlags(e *catar.Entry, f catar.Flags) string {
	var names []string
	for _, x := range []struct {
		flag catar.Flags
		name string
	}{
		{catar.WithFlagHidden, "hidden"},
		{catar.WithFlagSystem, "system"},
		{catar.WithFlagArchive, "archive"},
		{catar.WithFlagAppend, "sappend"},
		{catar.WithFlagNoDump, "nodump"},
		{catar.WithFlagImmutable, "simmutable"},
	} {
		if !f.Has(x.flag) {
			continue
		}
		if (e.IsRegular() || e.IsDir()) && !e.FileFlags.Has(x.flag) {
			x.name = "no" + x.name
		}
		names = append(names, x.name)
	}
	return strings.Join(names, ",")
}

// Stat writes what an archive records of its first node, as casync's verb of
// that name does, with times in a time zone.
func Stat(ctx context.Context, in *Input, w io.Writer, zone *time.Location) error {
	err := walk(ctx, in, func(path string, e *catar.Entry, r *catar.Reader) error {
		text, err := stat(path, e, r, in.live, zone)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err == nil {
			err = errStop
		}
		return err
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// stat returns what Stat writes of a node. Of a live one, in a directory, casync
// says less and more than of one in an archive.
func stat(path string, e *catar.Entry, r *catar.Reader, live bool, zone *time.Location) (string, error) {
	f := r.Flags()
	var b strings.Builder
	add := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	add("    File: %s\n    Mode: %s\n", escape(path), modeString(e.Mode))
	if e.IsRegular() || e.IsDir() {
		add("FileAttr: %s\n", letters(e.FileFlags, chattrLetters))
		if !live || f.Has(catar.FATAttrs) {
			add(" FATAttr: %s\n", letters(e.FileFlags, fatLetters))
		}
	}
	add("  Offset: %d\n", e.Offset)
	if f.Has(timeFlags) {
		add("    Time: %s.%09d\n", time.Unix(int64(e.MTime/1e9), 0).In(zone).Format(time.DateTime), e.MTime%1e9)
	}
	if e.IsRegular() {
		add("    Size: %d\n", e.Size)
	}
	for _, o := range []struct {
		title, name string
		id          uint32
	}{{"    User", ownerName(e.User, e.UID, f), e.UID}, {"   Group", ownerName(e.Group, e.GID, f), e.GID}} {
		switch ids := f.Has(idFlags); {
		case ids && o.name != "":
			add("%s: %s (%d)\n", o.title, escape(o.name), o.id)
		case ids:
			add("%s: %d\n", o.title, o.id)
		case o.name != "":
			add("%s: %s\n", o.title, escape(o.name))
		}
	}
	if e.ProjID != 0 || live && f.Has(catar.WithQuotaProjID) {
		add("  ProjID: %d\n", e.ProjID)
	}
	switch e.Mode & catar.ModeType {
	case catar.ModeSymlink:
		add("  Target: %s\n", escape(e.Target))
	case catar.ModeBlock, catar.ModeChar:
		add("  Device: %d:%d\n", e.Major, e.Minor)
	}
	for _, x := range e.XAttrs {
		add("   XAttr: %s → %s\n", escape(x.Name), escape(string(x.Value)))
	}
	if e.IsDir() {
		return b.String(), nil
	}
	payload, node, err := nodeDigests(e, r)
	if err != nil {
		return "", err
	}
	if t := e.Mode & catar.ModeType; t == catar.ModeRegular || t == catar.ModeBlock {
		add("  Digest: %s\n", payload)
	}
	add("HLDigest: %s\n", node)
	return b.String(), nil
}

type letter struct {
	flag catar.Flags
	char byte
}

// The letters of file flags, in casync's order.
var (
	chattrLetters = []letter{
		{catar.WithFlagSync, 'S'},
		{catar.WithFlagDirSync, 'D'},
		{catar.WithFlagImmutable, 'i'},
		{catar.WithFlagAppend, 'a'},
		{catar.WithFlagNoDump, 'd'},
		{catar.WithFlagNoAtime, 'A'},
		{catar.WithFlagCompr, 'c'},
		{catar.WithFlagNoComp, 'N'},
		{catar.WithFlagNoCow, 'C'},
		{catar.WithFlagProjInherit, 'P'},
	}
	fatLetters = []letter{{catar.WithFlagHidden, 'h'}, {catar.WithFlagSystem, 's'}, {catar.WithFlagArchive, 'a'}}
)

func letters(f catar.Flags, table []letter) string {
	s := make([]byte, len(table))
	for i, l := range table {
		s[i] = '-'
		if f.Has(l.flag) {
			s[i] = l.char
		}
	}
	return string(s)
}

// nodeDigests returns the digest of a node's contents, which it reads, and that
// of all its records with them, by which casync tells what may be linked.
func nodeDigests(e *catar.Entry, r *catar.Reader) (payload, node string, err error) {
	alg := algorithm(r.Flags())
	ph, nh := alg.New(), alg.New()
	win := &window{w: nh, to: math.MaxUint64}
	w := catar.NewWriter(win, r.Flags())
	root := &catar.Entry{Mode: catar.ModeDir | 0o777}
	r.Flags().Mask(root)
	if err := w.WriteEntry(root); err != nil {
		return "", "", err
	}
	copied := *e
	copied.Depth, copied.Name = 1, "x"
	win.from = w.Offset() + nameRecord
	if err := w.WriteEntry(&copied); err != nil {
		return "", "", err
	}
	win.to = w.Offset() + e.Size
	if _, err := io.Copy(io.MultiWriter(ph, w), r); err != nil {
		return "", "", err
	}
	if err := w.Close(); err != nil {
		return "", "", err
	}
	return hex.EncodeToString(ph.Sum(nil)), hex.EncodeToString(nh.Sum(nil)), nil
}

// nameRecord is the length of a FILENAME record with a name of one byte.
const nameRecord = 18

// window passes a part of a stream on.
type window struct {
	w        hash.Hash
	at       uint64
	from, to uint64
}

// Write implements [io.Writer].
func (w *window) Write(p []byte) (int, error) {
	end := w.at + uint64(len(p))
	if a, b := max(w.from, w.at), min(w.to, end); a < b {
		w.w.Write(p[a-w.at : b-w.at])
	}
	w.at = end
	return len(p), nil
}
