package testutil

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// BuildTree fills dir (made when it is not there) with a small tree, under 3 MB,
// that has every node type, hard links, extended attributes, ACLs, file
// capabilities, special modes, odd names and nanosecond times. The same call makes
// the same tree, and stock casync can make and extract all of it but for the hard
// links, which it turns into files of their own; see BuildBeyondCasync for the rest.
// Whatever the user or the file system cannot have (devices and owners for an
// ordinary user, say) is left out and logged.
func BuildTree(t testing.TB, dir string) {
	t.Helper()
	b := newBuilder(t, dir)
	b.files()
	b.names()
	b.links()
	b.specials()
	b.attributes()
	b.times()
}

// Privileged leaves out of a comparison with BuildTree's tree what an ordinary user
// cannot restore of it.
func Privileged(path string) Aspect {
	switch {
	case strings.HasPrefix(path, "dev/"):
		return Presence
	case strings.HasPrefix(path, "attributes/"):
		return XAttrs | Owner
	case strings.Contains(path, "set") || strings.Contains(path, "all-bits"):
		return Owner | Mode
	}
	return Owner
}

// BuildBeyondCasync fills dir with what stock casync refuses or loses, and images
// may hold all the same: names of more than 237 bytes, more than 64 levels, the id
// 65535, times before 1970, hard links between things that are not regular
// files, attributes of symlinks and outside casync's namespaces. dir may be one that BuildTree has filled.
func BuildBeyondCasync(t testing.TB, dir string) {
	t.Helper()
	b := newBuilder(t, dir)
	b.write("beyond/"+strings.Repeat("n", 238), 0o644, "one byte too long for casync's temporary name")
	b.write("beyond/"+strings.Repeat("N", 255), 0o644, "the longest name there is")
	b.mkdir("beyond/"+strings.Repeat("d", 255), 0o755)
	b.write("beyond/"+strings.Repeat("d", 255)+"/inside", 0o644, "below a long name")
	deep := "beyond/deep" + strings.Repeat("/d", 70)
	b.mkdir(deep, 0o755)
	b.write(deep+"/bottom", 0o600, "at depth 73")
	b.write("beyond/nobody16", 0o644, "")
	b.chown("beyond/nobody16", 65535, 65535)
	b.write("beyond/before1970", 0o644, "old")
	b.mtime("beyond/before1970", -2, 500_000_000)
	b.write("beyond/long-before1970", 0o644, "older")
	b.mtime("beyond/long-before1970", -1_000_000_000, 0)
	b.symlink("beyond/symlink", "target")
	b.link("beyond/symlink-again", "beyond/symlink")
	b.mknod("beyond/fifo", unix.S_IFIFO|0o640, 0)
	b.link("beyond/fifo-again", "beyond/fifo")
	b.mknod("beyond/whiteout-like", unix.S_IFCHR|0o600, unix.Mkdev(0, 0))
	b.xattr("beyond/symlink", "trusted.of.a.symlink", "yes")
	b.xattr("beyond/fifo", "trusted.on.a.fifo", "casync makes it and does not extract it")
	b.write("beyond/labelled", 0o644, "x")
	b.xattr("beyond/labelled", "security.ima", "\x01\x02\x03")
	b.times()
}

type builder struct {
	t    testing.TB
	dir  string
	set  map[string]unix.Timespec // times that differ from the rule in times
	root bool
}

func newBuilder(t testing.TB, dir string) *builder {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	return &builder{t: t, dir: dir, set: map[string]unix.Timespec{}, root: os.Geteuid() == 0}
}

// files covers sizes around nothing, one byte and the chunk limits 16, 64 and 256
// KiB, compressible, incompressible and all zeros, and the modes.
func (b *builder) files() {
	b.mkdir("etc", 0o755)
	b.write("etc/empty", 0o644, "")
	b.write("etc/one", 0o644, "1")
	b.write("etc/text", 0o644, strings.Repeat("the quick brown fox jumps over the lazy dog\n", 120))
	b.mkdir("data", 0o755)
	b.write("data/16k", 0o644, noise(1, 16<<10))
	b.write("data/100k", 0o640, noise(2, 100_000))
	b.write("data/300k-text", 0o644, strings.Repeat("all work and no play makes a dull chunk\n", 7_680))
	b.write("data/700k", 0o600, noise(3, 700_001))
	b.write("data/same-as-100k", 0o644, noise(2, 100_000))
	b.write("data/zeros", 0o644, "")
	must(b.t, os.Truncate(b.path("data/zeros"), 600<<10))
	b.write("data/hole-in-the-middle", 0o644, "start")
	f, err := os.OpenFile(b.path("data/hole-in-the-middle"), os.O_WRONLY, 0)
	must(b.t, err)
	_, err = f.WriteAt([]byte("end"), 300<<10)
	must(b.t, err)
	must(b.t, f.Close())

	b.mkdir("modes", 0o755)
	b.write("modes/setuid", 0o4755, "#!/bin/true\n")
	b.write("modes/setgid", 0o2711, "#!/bin/true\n")
	b.write("modes/all-bits", 0o7777, "x")
	b.write("modes/none", 0, "nobody may read this")
	b.write("modes/read-only", 0o444, "x")
	b.mkdir("modes/sticky", 0o1777)
	b.mkdir("modes/setgid-dir", 0o2775)
	b.mkdir("modes/empty-closed", 0o500)

	b.mkdir("owners", 0o755)
	for name, id := range map[string][2]int{
		"user": {1000, 1000}, "nobody": {65534, 65534}, "above16": {70_000, 100_000}, "above31": {1<<31 + 5, 1<<32 - 3},
	} {
		b.write("owners/"+name, 0o644, name)
		b.chown("owners/"+name, id[0], id[1])
	}
	// A change of owner clears these bits: they must come back.
	b.write("owners/setuid-user", 0o644, "x")
	b.chown("owners/setuid-user", 1000, 1000)
	b.chmod("owners/setuid-user", 0o6755)
}

// names covers bytes that need quoting somewhere, and orders that differ between
// whole paths and their components: "order/a/z" sorts after "order/a.b" and "order/a-b"
// as a path, before them as a tree.
func (b *builder) names() {
	b.mkdir("names", 0o755)
	for _, name := range []string{
		" leading and trailing ", "new\nline", "tab\ttab", "Grüße-\u65e5\u672c", "not-utf8-\xff\xfe\x80", "back\\slash", "quote'\"quote",
		"percent%41%2f", "question?hash#", "*[a-z]*", "-rf", ".hidden", "...", "..two", "$HOME", "control\x01\x7f", strings.Repeat("l", 237),
	} {
		b.write("names/"+name, 0o644, name)
	}
	b.mkdir("order", 0o755)
	b.mkdir("order/a", 0o755)
	b.write("order/a/z", 0o644, "z")
	for _, name := range []string{"a.b", "a-b", "a0", "A", "B", "_", "aa", "\x7f", "\xc3\xa9"} {
		b.write("order/"+name, 0o644, name)
	}
	b.mkdir("deep"+strings.Repeat("/level", 12), 0o755)
	b.write("deep"+strings.Repeat("/level", 12)+"/leaf", 0o644, "leaf")
}

func (b *builder) links() {
	b.mkdir("links/sub", 0o755)
	b.write("links/first", 0o640, noise(4, 5_000))
	b.link("links/second", "links/first")
	b.link("links/sub/third", "links/first")
	// The first name in the tree's order is not the one made first.
	b.write("links/zz-made-first", 0o644, "pair")
	b.link("links/aa-made-later", "links/zz-made-first")
	b.write("links/empty-a", 0o600, "")
	b.link("links/empty-b", "links/empty-a")
	b.symlink("links/relative", "../etc/text")
	b.symlink("links/dangling", "no such file")
	b.symlink("links/absolute", "/etc/passwd")
	b.symlink("links/to-directory", "sub")
	b.symlink("links/to-itself", "to-itself")
	b.symlink("links/long-target", strings.Repeat("0123456789/", 180))
	b.chown("links/relative", 1000, 1001)
}

func (b *builder) specials() {
	b.mkdir("dev", 0o755)
	b.mknod("dev/fifo", unix.S_IFIFO|0o620, 0)
	b.mknod("dev/socket", unix.S_IFSOCK|0o755, 0)
	b.mknod("dev/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	if b.mknod("dev/loop200", unix.S_IFBLK|0o660, unix.Mkdev(7, 200)) {
		b.chown("dev/loop200", 0, 6)
	}
	b.mknod("dev/largest", unix.S_IFBLK|0o600, unix.Mkdev(1<<12-1, 1<<20-1))
}

func (b *builder) attributes() {
	b.mkdir("attributes", 0o755)
	b.write("attributes/user", 0o644, "x")
	b.xattr("attributes/user", "user.empty", "")
	b.xattr("attributes/user", "user.binary", "\x00\x01\xff\n")
	b.xattr("attributes/user", "user.long", noise(5, 1_000))
	b.xattr("attributes/user", "user.B", "sorts before the others")
	b.xattr("attributes/user", "trusted.note", "root only")
	b.mkdir("attributes/dir", 0o755)
	b.xattr("attributes/dir", "user.on.a.directory", "yes")
	b.write("attributes/capable", 0o755, "#!/bin/true\n")
	b.xattr("attributes/capable", "security.capability", capability(0, 1<<10|1<<12))
	b.write("attributes/capable-for-1000", 0o755, "#!/bin/true\n")
	b.xattr("attributes/capable-for-1000", "security.capability", capability(1000, 1<<13))

	const access, deflt = "system.posix_acl_access", "system.posix_acl_default"
	b.write("attributes/acl", 0o640, "x")
	b.xattr("attributes/acl", access, acl(
		aclEntry{aclUserObj, 6, noID}, aclEntry{aclUser, 4, 1000}, aclEntry{aclUser, 7, 70_000}, aclEntry{aclGroupObj, 4, noID},
		aclEntry{aclGroup, 0, 50}, aclEntry{aclMask, 6, noID}, aclEntry{aclOther, 0, noID},
	))
	// The mask is wider than the owning group: the mode's group bits are the mask's.
	b.write("attributes/acl-wide-mask", 0o600, "x")
	b.xattr("attributes/acl-wide-mask", access, acl(
		aclEntry{aclUserObj, 6, noID}, aclEntry{aclGroupObj, 4, noID}, aclEntry{aclGroup, 7, 1000}, aclEntry{aclMask, 7, noID}, aclEntry{aclOther, 0, noID},
	))
	b.mkdir("attributes/acl-dir", 0o750)
	b.xattr("attributes/acl-dir", access, acl(
		aclEntry{aclUserObj, 7, noID}, aclEntry{aclUser, 5, 1000}, aclEntry{aclGroupObj, 5, noID}, aclEntry{aclMask, 5, noID}, aclEntry{aclOther, 0, noID},
	))
	b.xattr("attributes/acl-dir", deflt, acl(
		aclEntry{aclUserObj, 7, noID}, aclEntry{aclUser, 6, 1000}, aclEntry{aclGroupObj, 5, noID}, aclEntry{aclGroup, 3, 1000}, aclEntry{aclMask, 7, noID}, aclEntry{aclOther, 1, noID},
	))
	b.mkdir("attributes/acl-default-minimal", 0o755)
	b.xattr("attributes/acl-default-minimal", deflt, acl(
		aclEntry{aclUserObj, 7, noID}, aclEntry{aclGroupObj, 5, noID}, aclEntry{aclOther, 0, noID},
	))
}

// times gives every node a time of its own, derived from its path, directories and
// symlinks included, and the root of the tree as well.
func (b *builder) times() {
	for path, ts := range map[string]unix.Timespec{
		"etc/empty": {Sec: 0, Nsec: 0}, "etc/one": {Sec: 0, Nsec: 1}, "etc/text": {Sec: 1<<31 + 7, Nsec: 999_999_999}, "data/16k": {Sec: 1_500_000_000},
	} {
		if _, err := os.Lstat(b.path(path)); err == nil {
			b.set[path] = ts
		}
	}
	var all []string
	must(b.t, filepath.WalkDir(b.dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		if errors.Is(err, fs.ErrPermission) && !b.root {
			return fs.SkipDir
		}
		return err
	}))
	for _, path := range all {
		rel, err := filepath.Rel(b.dir, path)
		must(b.t, err)
		ts, ok := b.set[rel]
		if !ok {
			ts = derivedTime(rel)
		}
		// Both names of a hard link must ask for the same time: the first one's stays.
		if st := b.lstat(path); st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && !ok {
			ts = unix.Timespec{Sec: 1_650_000_000, Nsec: st.Size % 1_000_000_000}
		}
		must(b.t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func derivedTime(rel string) unix.Timespec {
	var sum uint64 = 14695981039346656037 // FNV-1a
	for i := range len(rel) {
		sum = (sum ^ uint64(rel[i])) * 1099511628211
	}
	return unix.Timespec{Sec: 1_600_000_000 + int64(sum%50_000_000), Nsec: int64(sum >> 32 % 1_000_000_000)}
}

func (b *builder) path(rel string) string { return filepath.Join(b.dir, rel) }

func (b *builder) lstat(path string) unix.Stat_t {
	b.t.Helper()
	var st unix.Stat_t
	must(b.t, unix.Lstat(path, &st))
	return st
}

func (b *builder) mkdir(rel string, mode uint32) {
	b.t.Helper()
	must(b.t, os.MkdirAll(b.path(rel), 0o755))
	b.chmod(rel, mode)
}

func (b *builder) write(rel string, mode uint32, content string) {
	b.t.Helper()
	must(b.t, os.MkdirAll(filepath.Dir(b.path(rel)), 0o755))
	must(b.t, os.WriteFile(b.path(rel), []byte(content), 0o600))
	b.chmod(rel, mode)
}

func (b *builder) chmod(rel string, mode uint32) {
	b.t.Helper()
	must(b.t, unix.Chmod(b.path(rel), mode))
}

func (b *builder) chown(rel string, uid, gid int) {
	b.t.Helper()
	b.may("owner of "+rel, os.Lchown(b.path(rel), uid, gid))
}

func (b *builder) symlink(rel, target string) {
	b.t.Helper()
	must(b.t, os.Symlink(target, b.path(rel)))
}

func (b *builder) link(rel, first string) {
	b.t.Helper()
	must(b.t, unix.Linkat(unix.AT_FDCWD, b.path(first), unix.AT_FDCWD, b.path(rel), 0))
}

// mknod reports whether it could make the node.
func (b *builder) mknod(rel string, mode uint32, dev uint64) bool {
	b.t.Helper()
	if !b.may("node "+rel, unix.Mknod(b.path(rel), mode, int(dev))) {
		return false
	}
	b.chmod(rel, mode&0o7777)
	return true
}

func (b *builder) xattr(rel, name, value string) {
	b.t.Helper()
	b.may("attribute "+name+" of "+rel, unix.Lsetxattr(b.path(rel), name, []byte(value), 0))
}

func (b *builder) mtime(rel string, sec, nsec int64) {
	b.set[rel] = unix.Timespec{Sec: sec, Nsec: nsec}
}

// may reports whether an operation succeeded that privilege or the file system may
// refuse; any other failure ends the test.
func (b *builder) may(what string, err error) bool {
	b.t.Helper()
	if err == nil {
		return true
	}
	if errors.Is(err, unix.ENOTSUP) || !b.root && errors.Is(err, unix.EPERM) {
		b.t.Logf("left out: %s: %v", what, err)
		return false
	}
	b.t.Fatalf("%s: %v", what, err)
	return false
}

// noise returns n bytes that do not compress and are the same in every run.
func noise(seed uint64, n int) string {
	src := rand.NewPCG(seed, 0)
	p := make([]byte, 0, n+8)
	for len(p) < n {
		p = binary.LittleEndian.AppendUint64(p, src.Uint64())
	}
	return string(p[:n])
}

// capability returns a security.capability value, version 2, or version 3 for the
// user namespace whose root is rootID.
func capability(rootID uint32, permitted uint64) string {
	const revision2, revision3, effective = 0x02000000, 0x03000000, 1
	revision := uint32(revision2 | effective)
	if rootID != 0 {
		revision = revision3 | effective
	}
	p := binary.LittleEndian.AppendUint32(nil, revision)
	p = binary.LittleEndian.AppendUint32(p, uint32(permitted))
	p = binary.LittleEndian.AppendUint32(p, 0) // inheritable
	p = binary.LittleEndian.AppendUint32(p, uint32(permitted>>32))
	p = binary.LittleEndian.AppendUint32(p, 0)
	if rootID != 0 {
		p = binary.LittleEndian.AppendUint32(p, rootID)
	}
	return string(p)
}

const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	noID        = 1<<32 - 1
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl returns the value of a system.posix_acl_* attribute.
func acl(entries ...aclEntry) string {
	p := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		p = binary.LittleEndian.AppendUint16(p, e.tag)
		p = binary.LittleEndian.AppendUint16(p, e.perm)
		p = binary.LittleEndian.AppendUint32(p, e.id)
	}
	return string(p)
}
