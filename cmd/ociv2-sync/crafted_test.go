package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// The types of records that the crafted archives have (docs/format/catar.md).
const (
	craftEntry    = 0x1396fabcea5bbb51
	craftFilename = 0x6dbb6ebcb3161f0b
	craftPayload  = 0x8b9e1d93d6dcffc9
	craftXAttr    = 0xb8157091f80bc486
	craftACLUser  = 0x297dc88b2ef12faf
	craftUser     = 0xf453131aaeeaccb3
	craftGoodbye  = 0xdfd35c5e8327c403
	craftSymlink  = 0x664a6fb6830e0d6c
)

// record returns a record; its size may be a lie.
func record(typ, size uint64, body string) string {
	if size == 0 {
		size = 16 + uint64(len(body))
	}
	return string(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, size), typ)) + body
}

// numbers returns a record whose body is numbers.
func numbers(typ uint64, v ...uint64) string {
	var b []byte
	for _, n := range v {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return record(typ, 0, string(b))
}

// craftFlags are casync's default features.
const craftFlags = 0xb0000001ffeffe26

func craftNode(mode, uid uint64) string { return numbers(craftEntry, craftFlags, mode, 0, uid, 0, 0) }

func craftName(name string) string { return record(craftFilename, 0, name+"\x00") }

// craftArchives are what casync takes, or fails on in a worse way: all that its
// section "not to repeat" has of archives.
func craftArchives(t *testing.T) map[string]string {
	t.Helper()
	var good bytes.Buffer
	w := catar.NewWriter(&good, craftFlags)
	must(t, w.WriteEntry(&catar.Entry{Mode: catar.ModeDir | 0o755}))
	must(t, w.WriteEntry(&catar.Entry{Depth: 1, Name: "file", Mode: catar.ModeRegular | 0o644, Size: 5}))
	_, err := w.Write([]byte("bytes"))
	must(t, err)
	must(t, w.Close())
	whole := good.String()
	dir, file := craftNode(0o40755, 0), craftNode(0o104755, 0)+record(craftPayload, 0, "#!/bin/sh")
	withFile := func(records string) string {
		return dir + craftName("f") + craftNode(0o100644, 0) + records + record(craftPayload, 0, "x")
	}
	var deep strings.Builder
	for range 70 {
		deep.WriteString(craftNode(0o40755, 0) + craftName("d"))
	}
	return map[string]string{
		"empty":                         "",
		"cut in the contents":           whole[:strings.Index(whole, "bytes")+2],
		"cut before the last table":     whole[:len(whole)-64],
		"without its last byte":         whole[:len(whole)-1],
		"trailing bytes":                whole + "trailing",
		"twice":                         whole + whole,
		"capabilities as an xattr":      withFile(record(craftXAttr, 0, "security.capability\x00\x01\x00\x00\x02")),
		"an ACL as an xattr":            withFile(record(craftXAttr, 0, "system.posix_acl_access\x00\x02\x00\x00\x00")),
		"any security xattr":            withFile(record(craftXAttr, 0, "security.evm\x00x")),
		"names out of order":            dir + craftName("z") + file + craftName("a") + file,
		"a name twice":                  dir + craftName("a") + file + craftName("a") + file,
		"a link, then a directory":      dir + craftName("a") + craftNode(0o120777, 0) + record(craftSymlink, 0, "/etc\x00") + craftName("a") + craftNode(0o40755, 0),
		"a name with a slash":           dir + craftName("../escape") + file,
		"the name ..":                   dir + craftName("..") + file,
		"no name":                       dir + craftName("") + file,
		"an endless name":               dir + record(craftFilename, 1<<62, "x"),
		"an endless table":              dir + record(craftGoodbye, 1<<40, strings.Repeat("x", 1000)),
		"endless contents":              dir + craftName("f") + craftNode(0o100644, 0) + record(craftPayload, 1<<62, "x"),
		"a record without length":       dir + record(craftFilename, 1, ""),
		"very many xattrs":              withFile(strings.Repeat(record(craftXAttr, 0, "user.x\x00"), 1000)),
		"very many ACL entries":         withFile(strings.Repeat(numbers(craftACLUser, 7, 7), 1000)),
		"too deep":                      deep.String(),
		"user 65535":                    dir + craftName("f") + craftNode(0o100644, 65535) + record(craftPayload, 0, "x"),
		"a user named root":             dir + craftName("f") + craftNode(0o100644, 5) + record(craftUser, 0, "root\x00") + record(craftPayload, 0, "x"),
		"unknown features":              numbers(craftEntry, craftFlags|1<<40, 0o40755, 0, 0, 0, 0),
		"features that are not normal":  numbers(craftEntry, craftFlags|8, 0o40755, 0, 0, 0, 0),
		"other features further inside": dir + craftName("f") + numbers(craftEntry, craftFlags&^(1<<28), 0o100644, 0, 0, 0, 0) + record(craftPayload, 0, "x"),
		"a table that lies":             strings.Replace(whole, string(binary.LittleEndian.AppendUint64(nil, 0x57446fa533702943)), "xxxxxxxx", 1),
	}
}

// empty reports what is in a directory that should be empty.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestCraftedArchives reads archives that were made to harm: from a file, through
// an index, by extract, list and mtree. Each is refused with exit code 4;
// nothing appears, and a directory that is there stays as it is.
func TestCraftedArchives(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	dir := t.TempDir()
	for name, archive := range craftArchives(t) {
		t.Run(name, func(t *testing.T) {
			d := &device{t: t, root: d.root}
			file, index := filepath.Join(dir, "x.catar"), filepath.Join(dir, "x.caidx")
			must(t, os.WriteFile(file, []byte(archive), 0o600))
			d.must("make", "-q", "--what=blob-index", "--with=best", "--store="+filepath.Join(dir, "default.castr"), index, file)
			out := t.TempDir()
			for _, input := range []string{file, index} {
				word := []string{filepath.Base(input)}
				d.fails(exitCorrupt, word, "extract", "-q", input, filepath.Join(out, "dest"))
				empty(t, out)
				for _, verb := range []string{"list", "mtree"} {
					d.fails(exitCorrupt, word, verb, "-q", input)
				}
				there := filepath.Join(t.TempDir(), "there")
				must(t, os.Mkdir(there, 0o700))
				must(t, os.WriteFile(filepath.Join(there, "mine"), []byte("mine"), 0o600))
				d.fails(exitCorrupt, word, "extract", "-q", input, there)
				if b, err := os.ReadFile(filepath.Join(there, "mine")); err != nil || string(b) != "mine" {
					t.Errorf("what was there: %q, %v", b, err)
				}
				if entries, err := os.ReadDir(there); err != nil || len(entries) != 1 {
					t.Errorf("added to what was there: %v, %v", entries, err)
				}
			}
		})
	}
}

// TestCraftedIndexes reads indexes that were made to harm.
func TestCraftedIndexes(t *testing.T) {
	d := newDevice(t)
	dir := t.TempDir()
	blob := filepath.Join(dir, "blob")
	writeNoise(t, blob, 1, 400_000)
	d.must("make", "-q", filepath.Join(dir, "x.caibx"), blob)
	tree := filepath.Join(dir, "tree")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.Rename(blob, filepath.Join(tree, "blob")))
	d.must("make", "-q", filepath.Join(dir, "x.caidx"), tree)
	at := func(off int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte {
			if off < 0 {
				off += len(b)
			}
			binary.LittleEndian.PutUint64(b[off:], v)
			return b
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":                   func([]byte) []byte { return nil },
		"cut":                     func(b []byte) []byte { return b[:len(b)-30] },
		"trailing byte":           func(b []byte) []byte { return append(b, 0) },
		"unknown features":        at(16, 1<<50),
		"features not normal":     at(16, craftFlags|8),
		"other features":          at(16, craftFlags&^(1<<28)),
		"minimum of 0":            at(24, 0),
		"minimum over average":    at(24, 1<<20),
		"maximum over 128 MiB":    at(40, 1<<28),
		"chunk over the maximum":  at(40, 70_000),
		"offsets that go back":    at(64+40, 5),
		"offset beyond all":       at(64, 1<<63),
		"a tail of another table": at(-16, 5),
		"no end marker":           at(-8, 5),
		"its last chunk gone": func(b []byte) []byte { // of an archive; a blob is then shorter
			b = slices.Delete(b, len(b)-80, len(b)-40)
			return at(-16, uint64(len(b)-48))(b)
		},
	} {
		for _, kind := range []string{"x.caibx", "x.caidx"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				d := &device{t: t, root: d.root}
				good, err := os.ReadFile(filepath.Join(dir, kind))
				must(t, err)
				bad := filepath.Join(dir, "bad"+filepath.Ext(kind))
				must(t, os.WriteFile(bad, change(bytes.Clone(good)), 0o600))
				out := t.TempDir()
				ofArchive := name == "its last chunk gone" || name == "other features"
				if kind == "x.caibx" && ofArchive {
					return
				}
				d.fails(exitCorrupt, []string{filepath.Base(bad)}, "extract", "-q", bad, filepath.Join(out, "dest"))
				empty(t, out)
				if ofArchive {
					return // as an index it is whole
				}
				for _, verb := range []string{"verify", "gc", "digest"} {
					d.fails(exitCorrupt, []string{filepath.Base(bad)}, verb, bad)
				}
			})
		}
	}
	d.must("verify", filepath.Join(dir, "x.caibx")) // no gc did anything
}

// TestCraftedChunks reads chunks that were made to harm.
func TestCraftedChunks(t *testing.T) {
	d := newDevice(t)
	dir := t.TempDir()
	blob := filepath.Join(dir, "blob")
	writeNoise(t, blob, 1, 10_000)
	d.must("make", "-q", filepath.Join(dir, "x.caibx"), blob)
	data, err := os.ReadFile(blob)
	must(t, err)
	id := chunk.SHA512_256.Sum(data).String()
	path := filepath.Join(dir, "default.castr", id[:4], id+".cacnk")
	good, err := os.ReadFile(path)
	must(t, err)
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	bomb := enc.EncodeAll(make([]byte, 100<<20), nil)
	for name, x := range map[string]struct {
		content []byte
		code    int
	}{
		"raw bytes":        {data, exitCorrupt},
		"cut":              {good[:len(good)/2], exitCorrupt},
		"two frames":       {append(bytes.Clone(good), good...), exitCorrupt},
		"a bomb":           {bomb, exitCorrupt},
		"another chunk":    {enc.EncodeAll(data[:9999], nil), exitCorrupt},
		"no bytes":         {nil, exitNotFound},
		"a name elsewhere": {[]byte("-> /etc/hostname"), exitNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			d := &device{t: t, root: d.root}
			must(t, os.Remove(path))
			if target, ok := strings.CutPrefix(string(x.content), "-> "); ok {
				must(t, os.Symlink(target, path))
			} else {
				must(t, os.WriteFile(path, x.content, 0o600))
			}
			out := t.TempDir()
			d.fails(x.code, []string{id}, "extract", "-q", filepath.Join(dir, "x.caibx"), filepath.Join(out, "dest"))
			empty(t, out)
			// What is not a chunk is made again, never taken for one.
			if x.code == exitNotFound {
				d.must("make", "-q", filepath.Join(dir, "x.caibx"), blob)
				d.must("extract", "-q", filepath.Join(dir, "x.caibx"), filepath.Join(out, "dest"))
			}
		})
	}
}

// TestEndedBy tells what a signal left half done.
func TestEndedBy(t *testing.T) {
	sig := signalError{syscall.SIGINT}
	err := endedBy(sig, fmt.Errorf("archive: %w", &tree.PartialError{Changed: []string{"a"}, Err: context.Canceled}))
	if p, ok := errors.AsType[*tree.PartialError](err); !ok || len(p.Changed) != 1 || exitCode(err) != 130 {
		t.Errorf("%v, exit code %d", err, exitCode(err))
	}
	if err := endedBy(sig, context.Canceled); err.Error() != "interrupted" {
		t.Error(err)
	}
}
