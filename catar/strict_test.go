package catar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// rec is a record of any type and body.
func rec(typ uint64, body string) string {
	return string(append(appendHeader(nil, typ, len(body)), body...))
}

func nums(typ uint64, v ...uint64) string { return string(appendUint64s(nil, typ, v...)) }

const testFlags = SHA512_256 | With32BitUIDs | WithUserNames | WithNsecTime | WithACL | WithXAttrs | WithFCaps |
	WithSymlinks | WithDeviceNodes | WithFIFOs | WithSELinux | WithQuotaProjID | WithFlagNoAtime

func ent(mode uint64) string { return nums(recEntry, uint64(testFlags), mode, 0, 0, 0, 7) }

// one is an archive whose root has one entry, or more, made of the given
// records; the tables are right.
func one(nodes ...string) string {
	b := ent(ModeDir | 0o755)
	var children []child
	for i, n := range nodes {
		name := string(rune('a' + i))
		if len(nodes) == 1 {
			name = "name"
		}
		children = append(children, child{hash: nameHash([]byte(name)), start: uint64(len(b))})
		b += rec(recFilename, name+"\x00") + n
		children[i].size = uint64(len(b)) - children[i].start
	}
	return string(appendGoodbye([]byte(b), children, uint64(len(b)), 0))
}

const (
	reg  = ModeRegular | 0o644
	dir  = ModeDir | 0o755
	link = ModeSymlink | 0o777
)

func payload(s string) string { return rec(recPayload, s) }

// emptyDir is a directory without entries; off is the size of its FILENAME and
// ENTRY records, all that its table depends on.
func emptyDir(meta string) string {
	n := ent(dir) + meta
	return string(appendGoodbye([]byte(n), nil, uint64(len(n)), 0))
}

func aclNamed(typ, id, perm uint64, name string) string {
	b := string(appendUint64s(nil, 0, id, perm)[headerSize:])
	if name != "" {
		b += name + "\x00"
	}
	return rec(typ, b)
}

func TestReaderAccepts(t *testing.T) {
	for name, s := range map[string]string{
		"empty root":  one(),
		"file":        one(ent(reg) + payload("data")),
		"two files":   one(ent(reg)+payload(""), ent(reg)+payload("x")),
		"directory":   one(emptyDir("")),
		"symlink":     one(ent(link) + rec(recSymlink, strings.Repeat("t", MaxTarget)+"\x00")),
		"fifo":        one(ent(ModeFIFO)),
		"device":      one(ent(ModeChar) + nums(recDevice, maxMajor-1, maxMinor-1)),
		"empty xattr": one(ent(reg) + rec(recXAttr, "user.x\x00") + payload("")),
		"xattrs":      one(ent(reg) + rec(recXAttr, "trusted.x\x00\x00\x00") + rec(recXAttr, "user.x\x00v") + payload("")),
		"label, caps and project": one(ent(reg) + rec(recSELinux, "l\x00") + rec(recFCaps, "c") +
			nums(recProjID, 1<<32-1) + payload("")),
		"acl": one(ent(reg) + aclNamed(recACLUser, 1, 7, "u") + aclNamed(recACLUser, 2, 0, "") +
			aclNamed(recACLGroup, 2, 0, "") + nums(recACLGroupObj, 4) + payload("")),
		"default acl": one(emptyDir(nums(recACLDefault, 7, 5, 0, noMask))),
		"default acl with mask": one(emptyDir(nums(recACLDefault, 7, 5, 0, 7) +
			aclNamed(recACLDefaultUser, 5, 7, "") + aclNamed(recACLDefaultGroup, 5, 7, "g"))),
		"wrapped time": one(nums(recEntry, uint64(testFlags), reg, 0, 0, 0, 1<<64-1) + payload("")),
		"shifted to 0": one(ent(reg) + rec(recUser, "u\x00") + rec(recGroup, "g\x00") + payload("")),
		"owner":        one(nums(recEntry, uint64(testFlags), reg, uint64(WithFlagNoAtime), 70000, 5, 0) + rec(recUser, "u-1\x00") + rec(recGroup, "_g\x00") + payload("")),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := copyArchive(&got, strings.NewReader(s)); err != nil {
				t.Fatal(err)
			}
			if got.String() != s {
				t.Error("written differently")
			}
		})
	}
}

// TestReaderRefuses breaks each rule once. The error names the record at fault.
func TestReaderRefuses(t *testing.T) {
	file := ent(reg) + payload("")
	good := one(file)
	shifted := func(at int, by byte) string { // one byte of the last table changed
		b := []byte(good)
		b[len(b)-at] += by
		return string(b)
	}
	var deep strings.Builder
	for d := 0; d <= MaxDepth+1; d++ {
		deep.WriteString(ent(dir) + rec(recFilename, "d\x00"))
	}
	entry := func(flags, mode, fflags, uid, gid, mtime uint64) string {
		return nums(recEntry, flags, mode, fflags, uid, gid, mtime)
	}
	f := uint64(testFlags)
	for _, x := range []struct{ name, archive, record string }{
		{"nothing", "", "next"},
		{"not an archive", strings.Repeat("not an archive. ", 9), "unknown"},
		{"zeros", strings.Repeat("\x00", 100), "unknown"},
		{"trailing byte", good + "x", "unknown"},
		{"second root", good + good, "unknown"},
		{"root is a file", file, "ENTRY"},
		{"root has a name", rec(recFilename, "n\x00") + good, "FILENAME"},
		{"no table", good[:len(ent(dir))] + file, "ENTRY"},
		{"unknown flag", entry(f|1<<40, dir, 0, 0, 0, 0), "ENTRY"},
		{"flags not normal", entry(f|uint64(WithSecTime), dir, 0, 0, 0, 0), "ENTRY"},
		{"other flags", one(entry(f&^uint64(WithFCaps), reg, 0, 0, 0, 0) + payload("")), "ENTRY"},
		{"no type", one(entry(f, 0o644, 0, 0, 0, 0) + payload("")), "PAYLOAD"},
		{"unknown mode bits", one(entry(f, reg|1<<20, 0, 0, 0, 0) + payload("")), "ENTRY"},
		{"huge mode", one(entry(f, reg|1<<40, 0, 0, 0, 0) + payload("")), "ENTRY"},
		{"sockets not covered", one(ent(ModeSocket)), "ENTRY"},
		{"symlink mode", one(ent(ModeSymlink|0o755) + rec(recSymlink, "t\x00")), "ENTRY"},
		{"uid 65535", one(entry(f, reg, 0, 65535, 0, 0) + payload("")), "ENTRY"},
		{"gid 2^32-1", one(entry(f, reg, 0, 0, 1<<32-1, 0) + payload("")), "ENTRY"},
		{"gid 2^32", one(entry(f, reg, 0, 0, 1<<32, 0) + payload("")), "ENTRY"},
		{"flag not covered", one(entry(f, reg, uint64(WithFlagSync), 0, 0, 0) + payload("")), "ENTRY"},
		{"flag on a fifo", one(entry(f, ModeFIFO, uint64(WithFlagNoAtime), 0, 0, 0)), "ENTRY"},
		{"short entry", one(rec(recEntry, "short")), "ENTRY"},
		{"user named root", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, "root\x00") + payload("")), "ENTRY"},
		{"bad user name", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, "1u\x00") + payload("")), "ENTRY"},
		{"user without NUL", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, "user") + payload("")), "USER"},
		{"user with two NULs", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, "u\x00r\x00") + payload("")), "USER"},
		{"long user", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, strings.Repeat("u", 256)+"\x00") + payload("")), "USER"},
		{"user twice", one(entry(f, reg, 0, 5, 0, 0) + rec(recUser, "u\x00") + rec(recUser, "u\x00") + payload("")), "USER"},
		{"group before user", one(entry(f, reg, 0, 5, 5, 0) + rec(recGroup, "u\x00") + rec(recUser, "u\x00") + payload("")), "USER"},
		{"xattr security", one(ent(reg) + rec(recXAttr, "security.capability\x00v") + payload("")), "XATTR"},
		{"xattr system", one(ent(reg) + rec(recXAttr, "system.posix_acl_access\x00v") + payload("")), "XATTR"},
		{"xattr without name", one(ent(reg) + rec(recXAttr, "user.\x00v") + payload("")), "XATTR"},
		{"xattr without NUL", one(ent(reg) + rec(recXAttr, "user.x") + payload("")), "XATTR"},
		{"xattr twice", one(ent(reg) + rec(recXAttr, "user.x\x00") + rec(recXAttr, "user.x\x00") + payload("")), "XATTR"},
		{"xattrs out of order", one(ent(reg) + rec(recXAttr, "user.y\x00") + rec(recXAttr, "user.x\x00") + payload("")), "XATTR"},
		{"long xattr name", one(ent(reg) + rec(recXAttr, "user."+strings.Repeat("x", 251)+"\x00") + payload("")), "XATTR"},
		{"long xattr value", one(ent(reg) + rec(recXAttr, "user.x\x00"+strings.Repeat("x", 65537)) + payload("")), "XATTR"},
		{"xattr on a symlink", one(ent(link) + rec(recXAttr, "user.x\x00") + rec(recSymlink, "t\x00")), "ENTRY"},
		{"acl on a symlink", one(ent(link) + nums(recACLGroupObj, 1) + rec(recSymlink, "t\x00")), "ENTRY"},
		{"acl permissions", one(ent(reg) + aclNamed(recACLUser, 1, 8, "") + payload("")), "ACL_USER"},
		{"acl order", one(ent(reg) + aclNamed(recACLUser, 2, 1, "") + aclNamed(recACLUser, 1, 1, "") + payload("")), "ACL_USER"},
		{"acl id twice", one(ent(reg) + aclNamed(recACLUser, 2, 1, "") + aclNamed(recACLUser, 2, 2, "") + payload("")), "ACL_USER"},
		{"acl empty name", one(ent(reg) + rec(recACLUser, strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", 2)+"\x00") + payload("")), "ACL_USER"},
		{"acl for nobody", one(ent(reg) + aclNamed(recACLUser, 1<<32-1, 1, "") + payload("")), "ENTRY"},
		{"acl huge id", one(ent(reg) + aclNamed(recACLGroup, 1<<32, 1, "") + payload("")), "ACL_GROUP"},
		{"group obj permissions", one(ent(reg) + nums(recACLGroupObj, 8) + payload("")), "ACL_GROUP_OBJ"},
		{"default acl on a file", one(ent(reg) + nums(recACLDefault, 7, 7, 7, noMask) + payload("")), "ENTRY"},
		{"default acl permissions", one(emptyDir(nums(recACLDefault, 7, 7, 7, 8))), "ACL_DEFAULT"},
		{"default user first", one(emptyDir(aclNamed(recACLDefaultUser, 1, 1, ""))), "ACL_DEFAULT_USER"},
		{"caps on a directory", one(emptyDir(rec(recFCaps, "c"))), "ENTRY"},
		{"empty caps", one(ent(reg) + rec(recFCaps, "") + payload("")), "FCAPS"},
		{"empty label", one(ent(reg) + rec(recSELinux, "\x00") + payload("")), "SELINUX"},
		{"caps before label", one(ent(reg) + rec(recFCaps, "c") + rec(recSELinux, "l\x00") + payload("")), "SELINUX"},
		{"project 0", one(ent(reg) + nums(recProjID, 0) + payload("")), "QUOTA_PROJID"},
		{"project 2^32", one(ent(reg) + nums(recProjID, 1<<32) + payload("")), "QUOTA_PROJID"},
		{"project of a fifo", one(ent(ModeFIFO) + nums(recProjID, 1)), "ENTRY"},
		{"no target", one(ent(link)), "GOODBYE"},
		{"empty target", one(ent(link) + rec(recSymlink, "\x00")), "SYMLINK"},
		{"long target", one(ent(link) + rec(recSymlink, strings.Repeat("t", 4096)+"\x00")), "SYMLINK"},
		{"contents of a symlink", one(ent(link) + payload("")), "PAYLOAD"},
		{"contents of a fifo", one(ent(ModeFIFO) + payload("")), "PAYLOAD"},
		{"contents of a directory", one(ent(dir) + payload("")), "PAYLOAD"},
		{"major too large", one(ent(ModeBlock) + nums(recDevice, maxMajor, 0)), "DEVICE"},
		{"minor too large", one(ent(ModeBlock) + nums(recDevice, 0, maxMinor)), "DEVICE"},
		{"file without contents", one(ent(reg)), "GOODBYE"},
		{"entry in an entry", one(ent(reg) + file), "ENTRY"},
		{"name without node", one(""), "GOODBYE"},
		{"record too small", one(ent(reg) + "\x0f" + payload("")[1:]), "PAYLOAD"},
		{"endless contents", one(ent(reg) + "\xff\xff\xff\xff\xff\xff\xff\xff" + payload("")[8:]), "ENTRY"},
		{"endless table", good[:len(good)-64] + "\xff\xff\xff\xff\xff\xff\xff\x7f" + good[len(good)-56:], "GOODBYE"},
		{"too deep", deep.String(), "ENTRY"},
		{"table offset", shifted(48, 1), "GOODBYE"},
		{"table size", shifted(40, 1), "GOODBYE"},
		{"table hash", shifted(32, 1), "GOODBYE"},
		{"tail offset", shifted(24, 1), "GOODBYE"},
		{"tail size", shifted(16, 1), "GOODBYE"},
		{"tail marker", shifted(8, 1), "GOODBYE"},
		{"table of another directory", one(file, file)[:2*len(file)+64+36] + good[len(good)-64:], "GOODBYE"},
	} {
		t.Run(x.name, func(t *testing.T) {
			err := copyArchive(io.Discard, strings.NewReader(x.archive))
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v", err)
			}
			if e.Record != x.record {
				t.Errorf("record %s, want %s: %v", e.Record, x.record, err)
			}
		})
	}
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00b", strings.Repeat("n", 256)} {
		err := copyArchive(io.Discard, strings.NewReader(ent(dir)+rec(recFilename, name+"\x00")+file))
		if e, ok := errors.AsType[*Error](err); !ok || e.Record != "FILENAME" {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, names := range [][2]string{{"b", "a"}, {"a", "a"}, {"\xff", "a"}} {
		s := ent(dir) + rec(recFilename, names[0]+"\x00") + file + rec(recFilename, names[1]+"\x00") + file
		err := copyArchive(io.Discard, strings.NewReader(s))
		if e, ok := errors.AsType[*Error](err); !ok || e.Record != "FILENAME" || e.Offset != uint64(len(ent(dir))+len(file)+16+2) {
			t.Errorf("names %q: %v", names, err)
		}
	}
}

// TestMetadataBound: a node cannot take more memory than the format's limit.
func TestMetadataBound(t *testing.T) {
	var b strings.Builder
	b.WriteString(ent(dir))
	for i := range 600 {
		b.WriteString(rec(recXAttr, fmt.Sprintf("user.%05d\x00%s", i, strings.Repeat("x", 65536))))
	}
	_, err := NewReader(strings.NewReader(b.String())).Next()
	if e, ok := errors.AsType[*Error](err); !ok || e.Record != "XATTR" {
		t.Errorf("%v", err)
	}
}

func TestWriterRefuses(t *testing.T) {
	root := &Entry{Mode: dir, MTime: 7}
	for name, entries := range map[string][]*Entry{
		"no root":          {{Depth: 1, Name: "a", Mode: reg}},
		"root is a file":   {{Mode: reg}},
		"named root":       {{Mode: dir, Name: "x"}},
		"second root":      {root, root},
		"order":            {root, {Depth: 1, Name: "b", Mode: reg}, {Depth: 1, Name: "a", Mode: reg}},
		"twice":            {root, {Depth: 1, Name: "b", Mode: reg}, {Depth: 1, Name: "b", Mode: reg}},
		"below a file":     {root, {Depth: 1, Name: "b", Mode: reg}, {Depth: 2, Name: "a", Mode: reg}},
		"negative depth":   {root, {Depth: -1, Name: "b", Mode: reg}},
		"bad name":         {root, {Depth: 1, Name: "a/b", Mode: reg}},
		"missing contents": {root, {Depth: 1, Name: "a", Mode: reg, Size: 1}, {Depth: 1, Name: "b", Mode: reg}},
		"target":           {root, {Depth: 1, Name: "a", Mode: reg, Target: "t"}},
		"device number":    {root, {Depth: 1, Name: "a", Mode: ModeChar, Major: 1 << 12}},
		"size of a fifo":   {root, {Depth: 1, Name: "a", Mode: ModeFIFO, Size: 1}},
		"socket":           {root, {Depth: 1, Name: "a", Mode: ModeSocket}},
		"acl without mask": {root, {Depth: 1, Name: "a", Mode: reg, ACL: &ACL{}}},
		"label":            {root, {Depth: 1, Name: "a", Mode: reg, SELinux: "\x00"}},
		"xattr":            {root, {Depth: 1, Name: "a", Mode: reg, XAttrs: []XAttr{{Name: "security.x"}}}},
	} {
		w := NewWriter(io.Discard, testFlags)
		var err error
		for _, e := range entries {
			if err = w.WriteEntry(e); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		if again := w.Close(); again != err {
			t.Errorf("%s: Close gives %v", name, again)
		}
	}
	if err := NewWriter(io.Discard, WithACL).WriteEntry(root); !errors.Is(err, ErrUnsupported) {
		t.Errorf("flags: %v", err)
	}
	w := NewWriter(io.Discard, testFlags)
	if err := w.Close(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("empty: %v", err)
	}
	for _, long := range []func(*Writer) error{
		func(w *Writer) error { _, err := w.Write([]byte("xx")); return err },
		func(w *Writer) error { return w.Skip(2) },
		func(w *Writer) error { return w.Close() },
	} {
		w := NewWriter(io.Discard, testFlags)
		if err := errors.Join(w.WriteEntry(root), w.WriteEntry(&Entry{Depth: 1, Name: "a", Mode: reg, Size: 1})); err != nil {
			t.Fatal(err)
		}
		if err := long(w); !errors.Is(err, ErrUnsupported) {
			t.Errorf("contents: %v", err)
		}
	}
}
